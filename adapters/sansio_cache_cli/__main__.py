"""`python -m sansio_cache_cli`, where the command is not on the PATH."""

import sys

from sansio_cache_cli.main import main

sys.exit(main())
