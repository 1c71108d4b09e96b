"""A finished video in memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from joyhallo.conditioning.portrait import Portrait
from joyhallo.idle.motion import IdleMotion
from joyhallo.mouth.rest import Rest

_AT_ONCE = 16  # frames whose lips are read together


@dataclass(frozen=True, eq=False)
class Video:
    """Frames with what is needed to write them into a file."""

    frames: np.ndarray  # [N,H,W,3] uint8, the animated crop; of a portrait with a stand-in that one's
    fps: int
    portrait: Portrait
    speech: str | Path | np.ndarray | None  # the recording as it was given; None when only its features were
    rest: Rest | None = None  # the unmoved portrait, and what is heard of lips, where weights predict changes
    idle: IdleMotion | None = None  # of head and eyes, where the weights hold them still

    def write(self, path: str | Path, *, paste_back: bool = True, **output: Any) -> Path:  # noqa: ANN401 (the fields of Output)
        """Write an mp4 with the recording's own sound, the visible mark and the embedded AI label.

        Args:
            path: the file; replaced whole or left as it is.
            paste_back: put the frames back into the full picture.
            output: the fields of `output.Output`.
        """
        from joyhallo.output import Output, TalkingWriter

        how = Output(paste_back=paste_back, fps=self.fps, **output)
        with TalkingWriter(Path(path), self.portrait, self.speech, how, self.rest, self.idle) as writer:
            for start in range(0, len(self.frames), _AT_ONCE):
                writer.write(self.frames[start : start + _AT_ONCE])
        return Path(path)
