"""`python -m semtag`: the command line."""

import sys

from semtag.cli import main

if __name__ == "__main__":
    sys.exit(main())
