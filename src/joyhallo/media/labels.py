"""Marks of AI content: the visible one, the embedded one, the signed one; and what a finished file carries."""

from dataclasses import dataclass
from pathlib import Path

from joyhallo.media.aigc import METADATA_KEY, AigcLabel, LabelError, new_label, read_label
from joyhallo.media.credentials import CredentialError, Credentials, read_credentials, sign_c2pa
from joyhallo.media.files import require_file
from joyhallo.media.mark import DEFAULT_TEXT, DIGITAL_HUMAN_TEXT, ENGLISH_TEXT, Mark, MarkError, draw_mark

__all__ = [
    "DEFAULT_TEXT",
    "DIGITAL_HUMAN_TEXT",
    "ENGLISH_TEXT",
    "METADATA_KEY",
    "AigcLabel",
    "CredentialError",
    "Credentials",
    "FileReport",
    "LabelError",
    "Mark",
    "MarkError",
    "draw_mark",
    "new_label",
    "read_credentials",
    "read_label",
    "sign_c2pa",
    "verify_file",
]


@dataclass(frozen=True)
class FileReport:
    """The marks found in a file. The visible mark is for eyes: no program vouches for it."""

    path: Path
    aigc: AigcLabel | None  # None: absent, or broken
    aigc_note: str  # one line for people
    c2pa: Credentials

    @property
    def is_labelled(self) -> bool:
        """Whether the embedded label is there and whole."""
        return self.aigc is not None

    @property
    def is_sound(self) -> bool:
        """Whether the label is there and no signature contradicts the file."""
        return self.is_labelled and self.c2pa.state != "invalid"


def verify_file(path: str | Path) -> FileReport:
    """Read back the embedded label and the C2PA credentials of a file.

    Raises
    ------
    LabelError : the file is missing or cannot be read. A file without marks, or with broken ones, is a report and no error.
    """
    path = require_file(path, "file", LabelError)
    try:
        label = read_label(path)
        note = "no AIGC label" if label is None else f"AIGC: {label.meaning}, {label.content_producer}, {label.produce_id}"
    except LabelError as problem:
        label, note = None, str(problem)
    return FileReport(path, label, note, read_credentials(path))
