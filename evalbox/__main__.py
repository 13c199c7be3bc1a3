"""`python -m evalbox`, the same as the program `evalbox`."""

import sys

from evalbox.cli import main

if __name__ == "__main__":
    sys.exit(main())
