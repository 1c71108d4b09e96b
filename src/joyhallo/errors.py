"""Errors that a user can mend."""


class UserError(ValueError):
    """Something the user gave cannot be used.

    The message is one line: what was given, what is needed, what to do. The command line prints it and exits with code 2.
    """
