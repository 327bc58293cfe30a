"""What the tests stand on: real servers, faulty networks, TLS. Not part of the library."""
