"""`python -m gistdemo`: the command line."""

import sys

from gistdemo.cli import main

sys.exit(main())
