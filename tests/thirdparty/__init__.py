"""What somebody else would write who has the documentation and the public modules, and nothing more."""
