"""One sample of a dataset: what is known of a clip, and its files KEY.mp4, KEY.safetensors, KEY.json and perhaps KEY.png.

Axes: F frames, S pixels of a side, E numbers of a face embedding.
"""

import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load, save

from joyhallo.data.frames import SAMPLES_PER_FRAME, write_clip
from joyhallo.errors import UserError
from joyhallo.media.files import publish, writing_error

NUM_POINTS = 478
MASK_SIDE = 64
FACTS_SUFFIX = "json"  # the file that makes a sample whole
REQUIRED = ("mp4", "safetensors", FACTS_SUFFIX)
OPTIONAL = ("png",)

# Readers of tars take what comes before the first dot for the key; names up to 100 bytes fit into the plainest header.
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")


class SampleError(UserError):
    """A sample that cannot be written or read; the message says why and what to do."""


@dataclass(frozen=True)
class Facts:
    """What is known of a clip, in plain values."""

    key: str  # letters, digits, "_" and "-", 80 at most; unique in its dataset
    source: str  # the file it was made from
    start_s: float  # where it begins in that file
    num_frames: int  # at 25 a second
    size_px: int
    speaker: str
    is_held_out: bool  # never trained on
    is_synthetic: bool
    identity_encoder: str  # what made the face embedding: "mini", "glintr100"
    speech_encoder: str | None  # what made the stored speech features: "mini", "chinese-wav2vec2-base"; None without them
    face_share: float  # of the picture's area, in [0, 1]
    sharpness: float
    speech_share: float  # of the clip's duration, in [0, 1]
    sync_offset_frames: int | None  # by how much the lips lag behind the sound
    sync_confidence: float | None


_FACTS = tuple(field.name for field in fields(Facts))
_KINDS = {
    "key": str, "source": str, "num_frames": int, "size_px": int, "speaker": str, "is_held_out": bool, "is_synthetic": bool,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Annotations:
    """What was measured in a clip."""

    points: np.ndarray  # [F, 478, 3] float32: the face mesh in pixels of the frames; NaN where it is not known
    speech: np.ndarray  # [F·640] int16: 16 kHz mono
    masks: np.ndarray  # [3, 64, 64] uint8: lip, expression, pose of the whole clip
    face_box: np.ndarray  # [4] int32: x0, y0, x1, y1 around the face in all frames
    face_embedding: np.ndarray  # [E] float32
    speech_features: np.ndarray | None  # [F, blocks, channels] float16, one row a frame, no window


_TYPES = {
    "points": np.float32,
    "speech": np.int16,
    "masks": np.uint8,
    "face_box": np.int32,
    "face_embedding": np.float32,
    "speech_features": np.float16,
}


def write_sample(
    folder: Path, facts: Facts, annotations: Annotations, frames: Iterable[np.ndarray], portrait: np.ndarray | None
) -> None:
    """Write the files of one sample into `folder`, which must exist; KEY.json comes last and makes the sample whole.

    Parameters
    ----------
    folder : any; a sample of the same key that is there is replaced.
    facts, annotations : what is known of the clip.
    frames : `facts.num_frames` of [S, S, 3], uint8, RGB; taken one after the other.
    portrait : [S, S, 3], uint8: the picture that a synthetic clip was made from; filmed clips have none.

    Raises
    ------
    ValueError : arrays that do not fit one another or the facts.
    SampleError : the files cannot be written (no folder, no right, disk full).
    """
    check_facts(facts)
    check_annotations(annotations, facts.num_frames)
    size = (facts.size_px, facts.size_px, 3)
    if portrait is not None and (portrait.shape != size or portrait.dtype != np.uint8):
        raise ValueError(f"the portrait of '{facts.key}' is {portrait.dtype} {portrait.shape}, not uint8 {size}")
    folder = Path(folder)
    part = folder / f".{facts.key}.part"
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        write_clip(part / f"{facts.key}.mp4", frames, annotations.speech, facts.num_frames, facts.size_px)
        (part / f"{facts.key}.safetensors").write_bytes(_to_bytes(annotations))
        if portrait is not None:
            Image.fromarray(portrait).save(part / f"{facts.key}.png", optimize=False)
        (part / f"{facts.key}.{FACTS_SUFFIX}").write_text(facts_text(asdict(facts)), encoding="utf-8")
        (folder / f"{facts.key}.{FACTS_SUFFIX}").unlink(missing_ok=True)
        for suffix in ("mp4", "safetensors", "png", FACTS_SUFFIX):
            name = f"{facts.key}.{suffix}"
            if (part / name).exists():
                publish(part / name, folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
    except OSError as problem:
        raise writing_error(problem, folder / facts.key, "sample", SampleError) from problem
    finally:
        shutil.rmtree(part, ignore_errors=True)


def facts_text(values: dict[str, object]) -> str:
    """JSON as all datasets have it: keys sorted, so that the same facts are the same bytes."""
    return json.dumps(values, ensure_ascii=False, sort_keys=True, indent=1) + "\n"


def read_facts(values: object, where: str) -> Facts:
    """Facts out of parsed JSON; entries that are not known are left out. Raises SampleError when some are missing."""
    known = values if isinstance(values, dict) else {}
    missing = [name for name in _FACTS if name not in known]
    if missing:
        raise SampleError(f"the facts in '{where}' have no '{missing[0]}': prepare this sample again")
    for name, kind in _KINDS.items():
        if type(known[name]) is not kind:
            raise SampleError(f"the facts in '{where}' have {known[name]!r} for '{name}': prepare this sample again")
    return Facts(**{name: known[name] for name in _FACTS})


def read_annotations(content: bytes, where: str) -> Annotations:
    """Annotations out of the bytes of KEY.safetensors. Raises SampleError when it is not whole."""
    try:
        arrays = load(content)
    except SafetensorError as problem:
        raise SampleError(f"the annotations '{where}' are broken: prepare this sample again") from problem
    missing = [name for name in _TYPES if name not in arrays and name != "speech_features"]
    if missing:
        raise SampleError(f"the annotations '{where}' have no '{missing[0]}': prepare this sample again")
    found = Annotations(**{name: arrays.get(name) for name in _TYPES})  # type: ignore[arg-type]
    try:
        check_annotations(found, len(found.points))
    except ValueError as problem:
        raise SampleError(f"the annotations '{where}' are not as they should be ({problem}): prepare it again") from problem
    return found


def check_facts(facts: Facts) -> None:
    """Raise ValueError when the key, the number of frames or the size cannot be."""
    if not _KEY.fullmatch(facts.key):
        raise ValueError(f"'{facts.key}' is no key: it must be 1 to 80 letters, digits, '_' and '-'")
    if facts.num_frames < 1:
        raise ValueError(f"the sample '{facts.key}' has {facts.num_frames} frames: it needs one at least")
    if facts.size_px < 2 or facts.size_px % 2:
        raise ValueError(f"the sample '{facts.key}' is {facts.size_px} px large: an even number is needed")


def check_annotations(annotations: Annotations, num_frames: int) -> None:
    """Raise ValueError when an array has another type or shape than a clip of `num_frames` needs."""
    shapes = {
        "points": (num_frames, NUM_POINTS, 3),
        "speech": (num_frames * SAMPLES_PER_FRAME,),
        "masks": (3, MASK_SIDE, MASK_SIDE),
        "face_box": (4,),
        "face_embedding": (None,),
        "speech_features": (num_frames, None, None),
    }
    for name, shape in shapes.items():
        array: np.ndarray | None = getattr(annotations, name)
        if array is None and name == "speech_features":
            continue
        assert array is not None
        fits = len(array.shape) == len(shape) and all(
            want in (None, have) for have, want in zip(array.shape, shape, strict=True)
        )
        if array.dtype != _TYPES[name] or not fits:
            wanted = [f"{np.dtype(_TYPES[name])}", *("any" if side is None else str(side) for side in shape)]
            raise ValueError(f"'{name}' is {array.dtype} {list(array.shape)}, not {wanted[0]} [{', '.join(wanted[1:])}]")
    if not np.isfinite(annotations.face_embedding).all():
        raise ValueError("'face_embedding' has numbers that are not finite")
    if annotations.speech_features is not None and not np.isfinite(annotations.speech_features).all():
        raise ValueError("'speech_features' has numbers that are not finite")


def _to_bytes(annotations: Annotations) -> bytes:
    arrays = {name: getattr(annotations, name) for name in _TYPES}
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items() if array is not None})
