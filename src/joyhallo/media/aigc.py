"""The embedded AI label of GB 45438-2025: seven fields, written as one JSON value under the key AIGC."""

import json
import re
from dataclasses import astuple, dataclass
from pathlib import Path

from joyhallo.errors import UserError
from joyhallo.media.files import require_file

METADATA_KEY = "AIGC"

# Order and names are those of the standard (Annex E, c to i).
_NAMES = ("Label", "ContentProducer", "ProduceID", "ReservedCode1", "ContentPropagator", "PropagateID", "ReservedCode2")
_ALLOWED = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]*")  # Annex E, j: printable ASCII without space, quote and backslash
_KINDS = {"1": "AI-generated", "2": "possibly AI-generated", "3": "suspected AI-generated"}


class LabelError(UserError):
    """A label that breaks the rules; the message names the field, its value and what is allowed."""


@dataclass(frozen=True)
class AigcLabel:
    """The seven fields, in the standard's order.

    Raises
    ------
    LabelError : a kind other than "1", "2", "3", no producer or number, or characters outside the standard's set
        (printable ASCII without space, quote and backslash).
    """

    label: str  # "1" AI-generated, "2" possibly, "3" suspected
    content_producer: str  # name or 27-character code of who generated it
    produce_id: str  # the producer's unique number of this content
    reserved_code_1: str = ""  # the producer's integrity code, if any
    content_propagator: str = ""  # who spreads it; at first the producer
    propagate_id: str = ""
    reserved_code_2: str = ""

    def __post_init__(self) -> None:
        for name, value in zip(_NAMES, astuple(self), strict=True):
            if not isinstance(value, str) or not _ALLOWED.fullmatch(value):
                raise LabelError(f"the label's {name} is {value!r}: use ASCII without spaces, quotes and backslashes")
        if self.label not in _KINDS:
            raise LabelError(f"the label's Label is '{self.label}', but must be '1', '2' or '3'")
        if not self.content_producer or not self.produce_id:
            raise LabelError(
                "the label's ContentProducer and ProduceID must not be empty: give the provider and a unique number"
            )

    @property
    def meaning(self) -> str:
        """What the first field says, in words."""
        return _KINDS[self.label]

    def to_json(self) -> str:
        """The bare seven-field object, as videos carry it."""
        return json.dumps(dict(zip(_NAMES, astuple(self), strict=True)), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "AigcLabel":
        """Read the bare object, or one wrapped as {"AIGC": {...}}.

        Raises
        ------
        LabelError : not JSON, a field missing or unknown, or a value that breaks the rules.
        """
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as problem:
            raise LabelError(f"the AI label {_short(text)} is not JSON: write it again") from problem
        if isinstance(fields, dict) and set(fields) == {METADATA_KEY}:
            fields = fields[METADATA_KEY]
        if not isinstance(fields, dict):
            raise LabelError(f"the AI label {_short(text)} is not an object of seven fields: write it again")
        wrong = [*(name for name in _NAMES[:3] if name not in fields), *(name for name in fields if name not in _NAMES)]
        if wrong:
            raise LabelError(f"the AI label {_short(text)} lacks or does not know the field {_short(wrong[0])}: write it again")
        return cls(*(fields.get(name, "") for name in _NAMES))


def new_label(provider: str, produce_id: str) -> AigcLabel:
    """The label of content that this provider generates now; its first propagator is the producer (Annex E, note 1).

    Parameters
    ----------
    provider : registered 27-character code, or a name in plain ASCII without spaces.
    produce_id : unique number of this content.

    Raises
    ------
    LabelError : as `AigcLabel`.
    """
    return AigcLabel("1", provider, produce_id, content_propagator=provider, propagate_id=produce_id)


def read_label(path: str | Path) -> AigcLabel | None:
    """Read the label of an mp4, mov or mkv; None when there is none.

    Raises
    ------
    LabelError : the file is missing or is no such video, or its label breaks the rules.
    """
    import av
    from av.error import FFmpegError

    path = require_file(path, "video", LabelError)
    try:
        options = {"format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm", "protocol_whitelist": "file"}
        with av.open(str(path.absolute()), metadata_errors="replace", options=options) as container:
            value = container.metadata.get(METADATA_KEY)
    except (FFmpegError, ValueError) as problem:
        raise LabelError(f"'{path}' is not a video whose label can be read: give an .mp4, .mov or .mkv file") from problem
    return None if value is None else AigcLabel.from_json(value)


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
