"""From frames of the face to a labelled file: move the picture, paste, mark, encode, sign."""

import uuid
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch

from joyhallo.conditioning.portrait import Portrait
from joyhallo.errors import UserError
from joyhallo.idle.liveliness import Liveliness
from joyhallo.idle.motion import IdleMotion
from joyhallo.media.aigc import new_label
from joyhallo.media.image import resize
from joyhallo.media.mark import DEFAULT_TEXT, Mark
from joyhallo.media.moved_picture import MovedPicture
from joyhallo.media.paste import Crop, Paster
from joyhallo.media.writer import VideoWriter
from joyhallo.mouth.drawing import SpeakingMouth
from joyhallo.mouth.rest import LipFollower, Rest
from joyhallo.presets import MOST_MOVEMENT

SHORTEST_PX = 64  # of the longer side
PLAYABLE_PX = 4096  # what most decoders of H.264 take
_MOST_AT_ONCE, _MOST_BYTES, _BYTES_PER_PIXEL = 4, 10**9, 24  # pictures that are finished, and the memory that this takes
PROVIDER = "JoyHallo-OSS-local"


@dataclass(frozen=True)
class Output:
    """How the file looks and what it says of itself."""

    paste_back: bool = True
    longest_side_px: int | None = None  # a larger picture is reduced to it before frames are pasted back; None keeps its size
    movement: float = 1.0  # of a head that the weights hold still, against the usual; 0: neither it nor the eyes move
    fps: int = 25
    crf: int = 18
    mark: str = "start"  # "start", "persistent" or "off"
    mark_text: str | None = None
    mark_reason: str | None = None  # why there is no mark; needed when it is off
    provider: str = PROVIDER
    c2pa_cert: Path | None = None
    c2pa_key: Path | None = None
    title: str | None = None  # in the C2PA manifest; the file's name by default

    def __post_init__(self) -> None:
        if self.mark not in ("start", "persistent", "off"):
            raise UserError(f"the mark is {self.mark!r}: give 'start', 'persistent' or 'off'")
        if self.mark == "off" and not self.mark_reason:
            raise UserError("a video without a visible mark needs a reason: give mark_reason")
        if not 0 <= self.movement <= MOST_MOVEMENT:
            raise UserError(
                f"the movement is {self.movement}: give 0 (head and eyes stay still) to {MOST_MOVEMENT:g}, 1 is usual"
            )
        if self.longest_side_px is not None and self.longest_side_px < SHORTEST_PX:
            raise UserError(f"longest_side_px is {self.longest_side_px}: give {SHORTEST_PX} or more, or None to keep the size")


class _Moves(NamedTuple):
    """How far lip points are from rest in a frame, [P, 2] in its pixels."""

    read: np.ndarray  # in the frame
    shown: np.ndarray  # in the finished picture


class Finish:
    """Frames of the face become finished pictures: moved, put back, with a head and eyes that live.

    `rest` is how the weights show the unmoved portrait, for those that predict changes: then the picture keeps its own pixels,
    its skin moved as the frames move (`MovedPicture`) and its lips as they are read in them (`SpeakingMouth`). `idle` is what
    head and eyes do by themselves, for weights that hold them still.
    """

    def __init__(self, portrait: Portrait, output: Output, rest: Rest | None, idle: IdleMotion | None = None) -> None:
        pasted = output.paste_back and portrait.crop is not None
        self.paster = paster_of(portrait, output.longest_side_px) if pasted else frame_paster(portrait)
        self.speaking = None if rest is None else _SpeakingPicture(portrait, self.paster.beneath, rest)
        self.liveliness: Liveliness | None = None
        if idle is not None and output.movement > 0:
            height, width = portrait.pixels.shape[1:]
            points = self.paster.in_picture(portrait.landmarks, (height, width))
            self.liveliness = Liveliness(self.size, points, idle, output.movement)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the pictures."""
        return self.paster.size

    def apply(self, frames: np.ndarray, first: int) -> Iterator[np.ndarray]:
        """The pictures [H,W,3] uint8 of frames [F,h,w,3] uint8 in their order, the first of which has the number `first`.

        As many are made at once as the networks have threads, fewer of large pictures.
        """
        moves = self.speaking.moves(frames, first) if self.speaking else [None] * len(frames)
        height, width = self.size
        num_threads = max(1, min(torch.get_num_threads(), _MOST_AT_ONCE, _MOST_BYTES // (_BYTES_PER_PIXEL * height * width)))
        waiting: deque[Future[np.ndarray]] = deque()
        with ThreadPoolExecutor(num_threads) as pool:
            for number, (frame, moved) in enumerate(zip(frames, moves, strict=True), first):
                waiting.append(pool.submit(self._finished, frame, number, moved))
                if len(waiting) > num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _finished(self, frame: np.ndarray, number: int, moves: _Moves | None) -> np.ndarray:
        speaking = self.speaking
        picture = self.paster.paste(frame if speaking is None or moves is None else speaking.follow(frame, number, moves))
        return self.liveliness.apply(picture, number) if self.liveliness else picture


class _SpeakingPicture:
    """What a picture [H, W, 3] shows of the portrait, speaking as frames of it do."""

    def __init__(self, portrait: Portrait, picture: np.ndarray, rest: Rest) -> None:
        height, width = rest.still.shape[:2]
        self._picture, self._rest = picture, rest
        self.moved, self.follower = MovedPicture(picture, rest.still), LipFollower(rest, portrait.landmarks)
        per_pixel = np.array([picture.shape[1] / width, picture.shape[0] / height, picture.shape[1] / width])
        self.mouth = SpeakingMouth(picture, portrait.landmarks * per_pixel, (height, width), portrait.teeth)

    def moves(self, frames: np.ndarray, first: int) -> list[_Moves]:
        """What lips do in frames [F, h, w, 3] uint8, the first of which has the number `first`."""
        read = self.follower.moves(frames)
        return [_Moves(*pair) for pair in zip(read, self.follower.shown(read, first), strict=True)]

    def follow(self, frame: np.ndarray, number: int, moves: _Moves) -> np.ndarray:
        """The picture [H, W, 3] uint8 as it is in frame `number` [h, w, 3] uint8; its very pixels where nothing moves."""
        free = self._rest.free(number)
        if not free:
            return self._picture.copy()
        seen, lips = self.mouth.lips(moves.read), self.mouth.lips(free * moves.shown)
        covered = None if seen is None else self.mouth.covered(seen, self.moved.size)
        way = free * self.moved.way(frame, covered)
        picture = self.moved.carried(way)
        if lips is not None:
            self.mouth.draw(picture, way, lips)
        return picture


class TalkingWriter:
    """Context manager: frames of the face in, a labelled video out, whole or not at all. `rest` and `idle`: see `Finish`."""

    def __init__(
        self,
        path: Path,
        portrait: Portrait,
        speech: str | Path | np.ndarray | None,
        output: Output,
        rest: Rest | None,
        idle: IdleMotion | None = None,
    ) -> None:
        self.path, self.output = path, output
        if output.c2pa_cert and output.c2pa_key:
            from joyhallo.media.credentials import check_signing

            check_signing(output.c2pa_cert, output.c2pa_key)
        self.finish = Finish(portrait, output, rest, idle)
        size = self.size = self.finish.size
        self.mark = None if output.mark == "off" else Mark(size, output.mark_text or DEFAULT_TEXT, output.mark)  # type: ignore[arg-type]
        self.label = new_label(output.provider, uuid.uuid4().hex)
        metadata = {"AIGC": self.label.to_json()}
        self.last: np.ndarray | None = None  # picture that was appended, without its mark
        self.writer = VideoWriter(path, size=size, speech=speech, metadata=metadata, fps=output.fps, crf=output.crf)

    def __enter__(self) -> "TalkingWriter":
        self.writer.__enter__()
        return self

    def write(self, frames: np.ndarray) -> None:
        """Append frames [F,H,W,3] uint8 of the face."""
        for picture in self.finish.apply(frames, self.writer.num_frames):
            self.append(picture)

    def append(self, picture: np.ndarray) -> None:
        """Append a finished picture [H,W,3] uint8, with its mark."""
        self.last = picture
        marked = self.mark.apply(picture, self.writer.num_frames / self.output.fps) if self.mark else picture
        self.writer.write(marked)

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.writer.__exit__(kind, value, trace)
        if kind is None and self.output.c2pa_cert and self.output.c2pa_key:
            from joyhallo.media.credentials import sign_c2pa

            sign_c2pa(self.path, self.output.c2pa_cert, self.output.c2pa_key, title=self.output.title)


def paster_of(portrait: Portrait, longest_side_px: int | None) -> Paster:
    """What puts frames back into the picture that the portrait was cropped from, at its size or reduced."""
    crop, picture = portrait.crop, portrait.picture
    assert crop is not None
    height, width = picture.shape[:2]
    if longest_side_px is None or max(height, width) <= longest_side_px:
        return Paster(picture, crop)
    shrink = longest_side_px / max(height, width)
    picture = resize(picture, (max(1, round(height * shrink)), max(1, round(width * shrink))))
    top, left = int(crop.top * shrink), int(crop.left * shrink)
    bottom = min(round((crop.top + crop.height) * shrink), picture.shape[0])
    right = min(round((crop.left + crop.width) * shrink), picture.shape[1])
    return Paster(picture, Crop(top, left, bottom - top, right - left))


def frame_paster(portrait: Portrait) -> Paster:
    """What makes a video of the animated part of the picture alone, at the frame's size."""
    height, width = portrait.pixels.shape[1:]
    shown = portrait.picture if portrait.crop is None else portrait.crop.of(portrait.picture)
    return Paster(resize(np.ascontiguousarray(shown), (height, width)), Crop(0, 0, height, width))


def portrait_notes(portrait: Portrait, paste_back: bool, longest_side: int | None) -> list[str]:
    """What was made of the picture, where that is not what is usual."""
    notes = []
    if portrait.crop is None:
        notes.append("the whole picture is animated: no crop was made")
    elif paste_back:
        notes += size_notes(portrait.picture.shape[1], portrait.picture.shape[0], longest_side)
    if portrait.is_softened:
        notes.append("the face was read in a softened copy of the picture; the video shows the picture as it is")
    if portrait.why_stand_in:
        since = f"the picture {portrait.why_stand_in}"
        notes.append(f"{since}: a stand-in speaks, and the picture's own lips and skin move as its do")
    if portrait.has_closed_lips:
        notes.append("the lips were parted in the portrait: they were closed, and are opened by the speech alone")
    return notes


def size_notes(width: int, height: int, longest_side: int | None) -> list[str]:
    """What to know of a video as large as its picture."""
    if longest_side is None and max(width, height) > PLAYABLE_PX:
        return [f"the video is {width}x{height} px, like the picture: many players take {PLAYABLE_PX} at most (--longest-side)"]
    return []
