"""The error shared by what reads and what writes video."""

from joyhallo.errors import UserError


class VideoError(UserError):
    """A video that cannot be read or written; the message says why and what to do."""
