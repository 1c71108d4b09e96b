"""The finished clips of a video that is being made, beside its file, so that a cut run goes on where it was."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from joyhallo.animator import Clip
from joyhallo.errors import UserError
from joyhallo.media.files import writing_error, written_whole
from joyhallo.media.segments import read_segment, write_segment
from joyhallo.media.video_error import VideoError

RECORD = "job.json"


def folder_of(output: Path) -> Path:
    """Where the clips of an unfinished video are kept."""
    return output.with_name(f".{output.name}.joyhallo")


def recorded(output: Path) -> Mapping[str, Any]:
    """What a cut run for this output was asked for and chose; empty when there was none."""
    record = folder_of(output) / RECORD
    try:
        return json.loads(record.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):  # none, or damaged: its clips will be dropped
        return {}


class JobFolder:
    """One video's folder: what was asked for, the frames of every finished clip, the last clip's past frames.

    A clip is finished when its past frames are there; they are written last. Only one process at a time works in a folder.

    Raises:
        UserError: another process makes the same video.
    """

    def __init__(self, output: Path, asked: Mapping[str, Any], *, fresh: bool) -> None:
        from filelock import FileLock, Timeout

        self.folder = folder_of(output)
        self.lock = FileLock(self.folder / "lock")
        try:
            self.folder.mkdir(exist_ok=True)
            self.lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(f"{output} is being made by another process: wait for it, or give another output") from error
        except OSError as error:
            raise writing_error(error, self.folder, "folder of the unfinished video", UserError) from error
        record = self.folder / RECORD
        text = json.dumps(asked, indent=2, sort_keys=True, ensure_ascii=False)
        # a cut run that asked for something else
        self.is_other = record.exists() and record.read_bytes() != text.encode()
        if fresh or self.is_other or not record.exists():
            self.clear()
            with written_whole(record, "record of the run", UserError) as temporary:
                temporary.write_text(text, encoding="utf-8")

    def clear(self, but: tuple[str, ...] = ("lock",)) -> None:
        """Forget all clips."""
        for path in self.folder.iterdir():
            if path.name not in but:
                path.unlink()

    @property
    def video(self) -> Path:
        """Where the file is made before it takes its final name."""
        return self.folder / "video.mp4"

    def segment(self, index: int) -> Path:
        return self.folder / f"clip_{index:06d}.mkv"

    def past(self, index: int) -> Path:
        return self.folder / f"past_{index:06d}.safetensors"

    def keep(self, clip: Clip) -> None:
        """Remember a finished clip."""
        write_segment(self.segment(clip.index), list(clip.frames))
        with written_whole(self.past(clip.index), "past frames", UserError) as temporary:
            temporary.write_bytes(save({"past": clip.past.contiguous()}))  # unlike `save_file`, fails as files do
        self.past(clip.index - 1).unlink(missing_ok=True)

    def last(self) -> Clip | None:
        """The last finished clip, without its frames; None when there is none."""
        finished = sorted(self.folder.glob("past_*.safetensors"))
        if not finished:
            return None
        index = int(finished[-1].stem.removeprefix("past_"))
        if not all(self.segment(i).exists() for i in range(index + 1)):
            self.clear(but=("lock", RECORD))
            return None
        past = load_file(finished[-1])["past"]
        return Clip(index, np.empty((0, *past.shape[2:], 3), np.uint8), torch.as_tensor(past))

    def frames(self, index: int) -> np.ndarray:
        """The frames [F,H,W,3] uint8 of a finished clip.

        Raises:
            UserError: the clip is damaged.
        """
        try:
            return np.stack(list(read_segment(self.segment(index))))
        except VideoError as error:
            raise UserError(
                f"clip {index + 1} of the unfinished video is damaged: start over with --fresh ({error})"
            ) from error

    def close(self, *, finished: bool) -> None:
        """Let go of the folder; remove it when the video has its final name, or when there is nothing to go on from."""
        if finished or not any(self.folder.glob("past_*.safetensors")):
            shutil.rmtree(self.folder, ignore_errors=True)  # while it is still ours: the next process may start at once
        self.lock.release()
