"""`python -m steerlens`: the same as the command `steerlens`."""

import sys

from steerlens.cli import main

if __name__ == "__main__":
    sys.exit(main())
