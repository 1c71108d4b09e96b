"""What the weights cost: seconds of computing and bytes."""

import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import safe_open

from joyhallo.errors import UserError
from joyhallo.media.files import written_whole
from joyhallo.weights.pipeline_folder import INDEX, find_folder, read_json

_EXAMPLES = Path(__file__).parents[2] / "examples"
_NUM_THREADS = 2


@dataclass(frozen=True)
class Effort:
    """What `joyhallo animate` takes for the example, from its start to its end; seconds for each second of video."""

    wall_s: float
    processor_s: float  # of all its threads


def measure_effort(model: str, kept: Path, num_frames: int) -> Effort:
    """Animate the example portrait with the example speech on two threads, in a process of its own; kept in a file."""
    if kept.is_file():
        return Effort(**json.loads(kept.read_text(encoding="utf-8")))
    environment = {**os.environ, "OMP_NUM_THREADS": str(_NUM_THREADS), "MKL_NUM_THREADS": str(_NUM_THREADS)}
    with tempfile.TemporaryDirectory() as folder:
        files = [str(_EXAMPLES / name) for name in ("portrait.png", "speech_zh.wav")]
        command = [sys.executable, "-m", "joyhallo", "animate", *files, "-o", f"{folder}/example.mp4", "--model", model]
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        ended = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
        wall_s, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.returncode:
        raise UserError(f"the example cannot be animated with '{model}': {ended.stderr.strip() or ended.stdout.strip()}")
    processor_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    duration_s = num_frames / 25
    effort = Effort(wall_s / duration_s, processor_s / duration_s)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(kept, "measurement", UserError) as temporary:
        temporary.write_text(json.dumps(asdict(effort)) + "\n", encoding="utf-8")
    return effort


def size_mb(model: str) -> float:
    """Of the weights of all components, in millions of bytes, as they are when stored in float16."""
    folder, num_entries = find_folder(model), 0
    for name, value in read_json(folder / INDEX).items():
        if isinstance(value, list):
            for path in (folder / name).glob("*.safetensors"):
                with safe_open(path, "np") as file:
                    num_entries += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    return 2 * num_entries / 1e6


def example_frames() -> int:
    """Frames of the example's video."""
    from joyhallo.media.audio import read_speech

    return -(-len(read_speech(_EXAMPLES / "speech_zh.wav")) // 640)
