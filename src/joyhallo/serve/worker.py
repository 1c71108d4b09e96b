"""The process that renders: `python -m joyhallo.serve.worker LOCK SLOT`, one video at a time, one device.

It keeps the weights for the next video, and lets them go when none comes for a while.
"""

import dataclasses
import functools
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from joyhallo.errors import UserError
from joyhallo.serve.child import Parent
from joyhallo.serve.kept import KeptPipeline

_SAID_S = 0.2  # progress more often than this is kept back
_PREVIEW_PX = 512  # of the longer side, at most
_IDLE_S = 300.0  # then the device's memory is for others


def main(lock: Path, slot: int) -> None:
    """Answer messages {"portrait", "speech", "output", "preview", "settings"}: progress, then how it ended."""
    from filelock import FileLock

    parent, kept = Parent(), KeptPipeline()
    for message in parent.messages(_IDLE_S, kept.drop):
        try:
            # Held by this process and not by the service: one that outlives a killed service for a moment still has them.
            with FileLock(Path(message["output"]).with_suffix(".lock")), FileLock(f"{lock}.{slot}"):
                _render(parent, message, slot, kept)
        except UserError as error:
            if isinstance(error.__cause__, RuntimeError | MemoryError):  # too little memory: begin the next one with all of it
                kept.drop()
            parent.say(end="refused", note=str(error))
        except (OSError, RuntimeError, MemoryError) as error:  # a disk, a device: it may go better next time
            kept.drop()
            parent.say(end="broken", note=f"{type(error).__name__}: {error}")


def _render(parent: Parent, message: Mapping[str, Any], slot: int, kept: KeptPipeline) -> None:
    from joyhallo.render import Progress, render

    _use_own_threads()
    request = build_request(message, slot)
    said_s = 0.0

    def show(progress: Progress) -> None:
        nonlocal said_s
        is_clip = progress.clips_total > 0
        if is_clip or time.monotonic() - said_s > _SAID_S:
            if progress.picture is not None:
                write_preview(progress.picture, Path(message["preview"]))
            parent.say(progress={name: value for name, value in vars(progress).items() if name != "picture"})
            said_s = time.monotonic()

    result = render(request, show, kept)
    parent.say(end="done", note="; ".join(result.notes), num_frames=result.num_frames, duration_s=result.duration_s)


def _use_own_threads() -> None:
    """As many as this process began with: a video that goes on takes as many as it began with, and the next has its own."""
    import torch

    torch.set_num_threads(_num_threads())


@functools.cache
def _num_threads() -> int:
    import torch

    return torch.get_num_threads()


def build_request(message: Mapping[str, Any], slot: int) -> Any:  # noqa: ANN401 (a RenderRequest, whose import is slow)
    """The request for `render` in a message of plain values.

    Raises:
        UserError: a setting that there is not.
    """
    import torch

    from joyhallo.models.conditions import RegionScale
    from joyhallo.render import RenderRequest

    given = dict(message["settings"])
    scale = RegionScale(*(given.pop(name, 1.0) for name in ("lip", "expression", "pose")))
    if given.get("size") is not None:
        given["size"] = tuple(given["size"])
    for name in ("lora", "c2pa_cert", "c2pa_key"):
        if given.get(name) is not None:
            given[name] = Path(given[name])
    if given.get("device", "auto") == "auto" and torch.cuda.device_count() > 1:
        given["device"] = f"cuda:{slot % torch.cuda.device_count()}"
    known = {field.name for field in dataclasses.fields(RenderRequest)}
    if unknown := sorted(set(given) - known):
        raise UserError(f"the setting {unknown[0]!r} is not known: leave it out")
    paths = {name: Path(message[name]) for name in ("portrait", "speech", "output")}
    return RenderRequest(**paths, region_scale=scale, **given)


def write_preview(picture: np.ndarray, path: Path) -> None:
    """A finished picture [H, W, 3] uint8, marked as made by AI, as a small JPEG."""
    from PIL import Image

    from joyhallo.media.files import written_whole
    from joyhallo.media.image import resize
    from joyhallo.media.mark import DEFAULT_TEXT, Mark, MarkError

    height, width = picture.shape[:2]
    scale = min(1.0, _PREVIEW_PX / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    try:
        shown = Mark(size, DEFAULT_TEXT, "persistent").apply(resize(picture, size), 0.0)
    except MarkError:  # too small for the mark, and nothing is shown without it
        return
    with written_whole(path, "preview", UserError) as temporary:
        Image.fromarray(shown).save(temporary, format="JPEG", quality=85)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
