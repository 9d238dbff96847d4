"""`python -m omnivl` is the program `omnivl`."""

import sys

from omnivl.cli import main

if __name__ == "__main__":
    sys.exit(main())
