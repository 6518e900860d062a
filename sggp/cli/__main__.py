"""`python -m sggp.cli` is the `sggp` command."""

import sys

from sggp.cli import main

if __name__ == "__main__":
    sys.exit(main())
