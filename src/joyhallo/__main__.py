"""`python -m joyhallo` is `joyhallo`."""

import sys

from joyhallo.cli import main

if __name__ == "__main__":
    sys.exit(main())
