"""Small samples and datasets for tests: every frame can be told from every other, nothing is a real person."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from joyhallo.data.samples import Annotations, Facts, write_sample
from joyhallo.data.shards import pack

SIZE_PX = 64
NUM_FRAMES = 30


def made_facts(key: str = "clip", **changes: object) -> Facts:
    facts = Facts(
        key=key, source="film.mp4", start_s=1.5, num_frames=NUM_FRAMES, size_px=SIZE_PX, speaker="小明", is_held_out=False,
        is_synthetic=False, identity_encoder="mini", speech_encoder="mini", face_share=0.4, sharpness=50.0, speech_share=0.9,
        sync_offset_frames=0, sync_confidence=3.5,
    )  # fmt: skip
    return replace(facts, **changes)


def made_annotations(num_frames: int = NUM_FRAMES, size_px: int = SIZE_PX, seed: int = 0) -> Annotations:
    random = np.random.default_rng(seed)
    low, high = size_px // 4, 3 * size_px // 4
    masks = np.zeros((3, 64, 64), np.uint8)
    masks[0, 38:48, 24:40], masks[1, 16:38, 16:48], masks[2, :, :12] = 255, 200, 150
    return Annotations(
        points=random.uniform(low, high, (num_frames, 478, 3)).astype(np.float32),
        speech=random.integers(-8000, 8000, num_frames * 640).astype(np.int16),
        masks=masks,
        face_box=np.array([low, low, high, high], np.int32),
        face_embedding=random.standard_normal(128).astype(np.float32),
        speech_features=random.standard_normal((num_frames, 3, 8)).astype(np.float16),
    )


def made_frames(num_frames: int = NUM_FRAMES, size_px: int = SIZE_PX, seed: int = 0) -> Iterator[np.ndarray]:
    """A grey level per frame, far enough apart from its neighbours' to survive the encoder."""
    for number in range(num_frames):
        yield np.full((size_px, size_px, 3), grey_of(number, seed), np.uint8)


def grey_of(number: int, seed: int = 0) -> int:
    return 20 + (number * 67 + seed * 31) % 210


def made_portrait(size_px: int = SIZE_PX) -> np.ndarray:
    rows, columns = np.mgrid[:size_px, :size_px]
    return np.stack([rows * 3, columns * 3, rows + columns], axis=-1).astype(np.uint8)


def write_made_samples(folder: Path, keys: list[str], *, is_synthetic: bool = True, **changes: object) -> None:
    """Samples that have a portrait when they are synthetic."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, key in enumerate(keys):
        facts = made_facts(key, is_synthetic=is_synthetic, **changes)
        annotations = made_annotations(facts.num_frames, facts.size_px, seed)
        portrait = made_portrait(facts.size_px) if is_synthetic else None
        write_sample(folder, facts, annotations, made_frames(facts.num_frames, facts.size_px, seed), portrait)


def make_dataset(folder: Path, num_samples: int = 3, max_bytes: float = 1e9, **changes: object) -> Path:
    """A dataset in `folder`/dataset; the samples are left in `folder`/work."""
    write_made_samples(folder / "work", [f"clip_{number}" for number in range(num_samples)], **changes)
    pack(folder / "work", folder / "dataset", max_bytes)
    return folder / "dataset"


@contextmanager
def nearly_full_disk(num_bytes: int) -> Iterator[None]:
    """No file can grow beyond `num_bytes`: stands for a disk that is full, for all of this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
