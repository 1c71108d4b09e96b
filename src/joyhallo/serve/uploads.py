"""Uploads: limits on their content, decoded in a process of their own, kept in a folder until they are a job."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from joyhallo.errors import UserError
from joyhallo.serve.child import Child, ChildDiedError, ChildTooSlowError
from joyhallo.serve.settings import Limits

_BLOCK = 1 << 20


class TooLargeError(UserError):
    """More bytes than are taken here."""


@dataclass(frozen=True)
class Look:
    """What the weights were made for: fields of `Sampling`."""

    size: tuple[int, int] = (512, 512)  # (height, width) of the animated face
    face_share: float | None = 0.6
    num_steps: int = 40
    guidance_scale: float = 3.5


@dataclass(frozen=True)
class Taken:
    """What an upload became: plain files in `folder`, which leaves with the upload."""

    folder: Path
    duration_s: float = 0.0  # of the speech
    num_faces: int = 0
    crop: tuple[int, ...] = ()  # top, left, height, width in pixels of the portrait

    @property
    def portrait(self) -> Path:
        return self.folder / "portrait.png"

    @property
    def speech(self) -> Path:
        return self.folder / "speech.wav"

    @property
    def shown(self) -> Path:
        """The animated part with its regions, as a JPEG."""
        return self.folder / "crop.jpg"


class Uploads:
    """Takes uploads one at a time. Files get names of ours; what a client calls them is never looked at."""

    def __init__(self, folder: Path, limits: Limits, look: Look = Look()) -> None:
        self.folder, self.limits, self.look = folder / "uploads", limits, look
        self.folder.mkdir(parents=True, exist_ok=True)
        self._child = Child("joyhallo.serve.inspector", str(limits.decoding_bytes))

    @property
    def page_folder(self) -> Path:
        """What the page holds of its visitors."""
        return self.folder.with_name("page")

    def clean(self) -> None:
        """Remove what a stopped service left; only while the folder is ours."""
        for folder in (self.folder, self.page_folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)

    def learn(self, model: str) -> None:
        """Look at portraits as the weights of that model do.

        Raises:
            UserError: there is no such model.
        """
        found = self._ask({"model": model}, timeout_s=float("inf"))["sampling"]  # it may have to be fetched
        known = {name: found[name] for name in ("face_share", "num_steps", "guidance_scale") if name in found}
        self.look = Look((found.get("height", 512), found.get("width", 512)), **known)

    def close(self) -> None:
        self._child.kill()

    @contextmanager
    def taken(
        self, portrait: BinaryIO | None = None, speech: BinaryIO | None = None, face_index: int | None = None
    ) -> Iterator[Taken]:
        """Plain copies of a portrait, a speech or both, until the block ends.

        Raises:
            TooLargeError: more bytes than the limits allow.
            UserError: content that cannot be used: its type, pixels, duration, no face.
        """
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            folder = Path(name)
            message: dict[str, Any] = {
                "folder": name,
                "max_pixels": self.limits.portrait_pixels,
                "max_s": self.limits.speech_s,
                "face_index": face_index,
                "size": self.look.size,
                "face_share": self.look.face_share,
            }
            if speech is not None:
                message["speech"] = _written(speech, folder / "given-speech", "speech", self.limits.speech_bytes)
            if portrait is not None:
                message["portrait"] = _written(portrait, folder / "given-portrait", "portrait", self.limits.portrait_bytes)
            found = self._ask(message)
            for given in ("given-speech", "given-portrait"):
                (folder / given).unlink(missing_ok=True)
            person, sound = found.get("portrait", {}), found.get("speech", {})
            yield Taken(folder, sound.get("duration_s", 0.0), person.get("num_faces", 0), tuple(person.get("crop", ())))

    def _ask(self, message: dict[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
        try:
            answer = self._child.ask(message, timeout_s=self.limits.decoding_s if timeout_s is None else timeout_s)
        except ChildDiedError as error:
            raise UserError("the file broke the reader: save it again in a common format and try that") from error
        except ChildTooSlowError as error:
            raise UserError(f"reading the file took more than {self.limits.decoding_s:g} s: give a smaller one") from error
        if answer["end"] == "refused":
            note = answer["note"]
            for name in ("portrait", "speech"):
                path = message.get(name)
                if path:
                    note = note.replace(f"the picture '{path}'", "the portrait").replace(f"'{path}'", f"the {name}")
                    note = note.replace(f"the {name} the {name}", f"the {name}").replace(path, f"the {name}")
            raise UserError(note)
        return dict(answer)


def _written(given: BinaryIO, path: Path, name: str, limit: int) -> str:
    num_bytes = 0
    with path.open("wb") as file:
        while block := given.read(_BLOCK):
            num_bytes += len(block)
            if num_bytes > limit:
                raise TooLargeError(f"the {name} has more than {limit / 1e6:g} MB: give a smaller one")
            file.write(block)
    return str(path)
