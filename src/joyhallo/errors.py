"""Errors that a user can mend."""

import sys
from collections.abc import Callable
from pathlib import Path


class UserError(ValueError):
    """Something the user gave cannot be used.

    The message is one line: what was given, what is needed, what to do. The command line prints it and exits with code 2.
    """


def run_as_command(main: Callable[[], None]) -> None:
    """Run what a module does as a program (`python -m`); a `UserError` is one line there too, and exit code 2."""
    try:
        main()
    except UserError as error:
        sys.stderr.write(f"{Path(sys.argv[0]).name}: {' '.join(str(error).split())}\n")
        sys.exit(2)
