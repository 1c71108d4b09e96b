"""The latents of a dataset, encoded once: training then reads them instead of decoding films and running the autoencoder.

DATASET/latents/<fingerprint of the autoencoder>/<tar and the start of its hash>/ holds, for the samples of one tar,

- `frames.npy` [S, D, h, w] float16: the frames of all samples, one after the other
- `portraits.npy` [K, D, h, w] float16: the portraits of those samples that have one, in their order

where D is C, or 2·C with an autoencoder that gives a distribution: the mean, then the log-variance, so that training can
sample. Latents are as the autoencoder gives them, not scaled. A tar that changes has another hash and so another folder; so
has what was computed in other numbers than float32 (<fingerprint>-bf16).

Axes: S frames of all samples, K portraits, n frames asked for, C channels, h and w the place.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from joyhallo.data.dataset import Dataset, ShardPlace
from joyhallo.data.frames import KEY_FRAME_EVERY
from joyhallo.data.index import DatasetError
from joyhallo.data.pixels import to_network
from joyhallo.data.row_file import RowFile, num_bytes_missing, open_rows, require_room
from joyhallo.device import dtype_name
from joyhallo.media.files import writing_error
from joyhallo.models.latents import downscale_factor

FOLDER_NAME = "latents"
_DECODED_FRAMES = 10 * KEY_FRAME_EVERY

OnProgress = Callable[[int, int], None]


class LatentCache:
    """Latents of a `Dataset` that `encode_dataset` has made; the arrays stay on disk until they are touched."""

    def __init__(
        self, dataset: Dataset, vae: nn.Module, folder: str | Path | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        """Raises DatasetError when latents are missing: `encode_dataset` makes them."""
        name = _name(vae, dtype)
        self._places = [_place_of(shard, name, folder) for shard in dataset.shards]
        self._has_variance = isinstance(vae, AutoencoderKL)
        self._shard_of: list[int] = []
        self._first: list[int] = []  # row of a sample's first frame
        self._num_frames = [facts.num_frames for facts in dataset.facts]
        self._portrait_row: list[int | None] = []
        for number, shard in enumerate(dataset.shards):
            row = portrait = 0
            for i in _samples_of(shard):
                self._shard_of.append(number)
                self._first.append(row)
                self._portrait_row.append(portrait if dataset.has_portrait(i) else None)
                row += self._num_frames[i]
                portrait += dataset.has_portrait(i)
            self._check(self._places[number], row, portrait)

    @classmethod
    def encode_dataset(
        cls,
        dataset: Dataset,
        vae: nn.Module,
        folder: str | Path | None = None,
        batch: int = 8,
        dtype: torch.dtype = torch.float32,
        progress: OnProgress | None = None,
    ) -> "LatentCache":
        """Encode what is not there yet, and open the cache. A run that was stopped goes on at the sample it was at.

        Parameters
        ----------
        dataset : one or several.
        vae : the autoencoder, on its device; its weights decide which latents are these.
        folder : where all go; None: into the folder `latents` of each dataset.
        batch : frames encoded at once; never of two samples, so that stopping changes no number.
        dtype : that the products are computed in; latents of another are kept beside these.
        progress : called with the frames that are there and all frames.

        Raises
        ------
        DatasetError : the disk has no room for all of it, is full or cannot be written; a dataset is damaged.
        """
        from filelock import FileLock

        name, encode = _name(vae, dtype), partial(_encode, vae, dtype)
        num_all = sum(facts.num_frames for facts in dataset.facts)
        _require_room(dataset, vae, [_place_of(shard, name, folder) for shard in dataset.shards])
        num_done = 0
        for shard in dataset.shards:
            place = _place_of(shard, name, folder)
            samples = _samples_of(shard)
            try:
                with FileLock(place.with_suffix(".lock")):  # two runs on one dataset do the work once
                    for num_new in _encode_shard(dataset, samples, encode, _Rows(place, _row_shape(dataset, vae)), batch):
                        num_done += num_new
                        if progress:
                            progress(num_done, num_all)
            except OSError as problem:
                raise writing_error(problem, place, "latents", DatasetError) from problem
        return cls(dataset, vae, folder, dtype)

    @classmethod
    def is_encoded(cls, dataset: Dataset, vae: nn.Module, folder: str | Path | None = None) -> bool:
        """Whether all latents are there, in float32's products."""
        try:
            cls(dataset, vae, folder)
        except DatasetError:
            return False
        return True

    def frames(self, i: int, indices: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
        """Latents of frames of sample `i`: [n, C, h, w] float32, in the order asked for.

        With a generator, and an autoencoder that gives a distribution, they are drawn from it; else they are the mean.
        Raises IndexError for numbers that are not in 0..F-1.
        """
        numbers = np.asarray(indices)
        if ((numbers < 0) | (numbers >= self._num_frames[i])).any():
            raise IndexError(f"sample {i} has {self._num_frames[i]} frames, asked for {list(map(int, numbers))}")
        rows = open_rows(self._places[self._shard_of[i]] / "frames.npy")[self._first[i] + numbers]
        return self._drawn(rows, generator)

    def portrait(self, i: int, generator: torch.Generator | None = None) -> Tensor | None:
        """Latent of the portrait of sample `i`: [C, h, w] float32, as `frames`; None where there is none."""
        row = self._portrait_row[i]
        if row is None:
            return None
        rows = open_rows(self._places[self._shard_of[i]] / "portraits.npy")[row : row + 1]
        return self._drawn(rows, generator)[0]

    def _drawn(self, rows: np.ndarray, generator: torch.Generator | None) -> Tensor:
        values = torch.from_numpy(np.array(rows, np.float32))
        if not self._has_variance:
            return values
        mean, log_variance = values.chunk(2, dim=1)
        if generator is None:
            return mean.contiguous()
        noise = torch.randn(mean.shape, generator=generator)
        return mean + (0.5 * log_variance).exp() * noise

    @staticmethod
    def _check(place: Path, num_frames: int, num_portraits: int) -> None:
        for name, num_rows in (("frames.npy", num_frames), ("portraits.npy", num_portraits)):
            path = place / name
            if num_rows and not path.is_file():
                raise DatasetError(f"'{path}' is missing: encode the dataset first")
            if num_rows and len(open_rows(path)) != num_rows:
                raise DatasetError(f"'{path}' has {len(open_rows(path))} rows and not {num_rows}: remove it and encode again")


def fingerprint(vae: nn.Module) -> str:
    """16 hexadecimal digits that change with any weight of an autoencoder or another network; where it runs does not matter."""
    digest = hashlib.sha256(type(vae).__name__.encode())
    for name, value in sorted(vae.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _name(vae: nn.Module, dtype: torch.dtype) -> str:
    return fingerprint(vae) + ("" if dtype == torch.float32 else f"-{dtype_name(dtype)}")


def _place_of(shard: ShardPlace, name: str, folder: str | Path | None) -> Path:
    above = shard.folder / FOLDER_NAME if folder is None else Path(folder)
    return above / name / f"{Path(shard.entry.name).stem}-{shard.entry.sha256[:12]}"


def _samples_of(shard: ShardPlace) -> range:
    return range(shard.first, shard.first + shard.entry.num_samples)


def _require_room(dataset: Dataset, vae: nn.Module, places: Sequence[Path]) -> None:
    """Make the folders, and check that each disk can take what is still to be encoded into them."""
    missing: dict[int, int] = {}
    folders: dict[int, Path] = {}
    for shard, place in zip(dataset.shards, places, strict=True):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            num_frames = sum(dataset.facts[i].num_frames for i in _samples_of(shard))
            disk = place.parent.stat().st_dev
            num_bytes = num_bytes_missing(place / "frames.npy", num_frames, _row_shape(dataset, vae))
        except OSError as problem:
            raise writing_error(problem, place, "latents", DatasetError) from problem
        folders[disk] = place.parent
        missing[disk] = missing.get(disk, 0) + num_bytes
    for disk, num_bytes in missing.items():
        require_room(folders[disk], num_bytes, "latents", DatasetError)


@dataclass(frozen=True)
class _Rows:
    """Where the latents of one tar go, and the shape of one."""

    place: Path
    shape: tuple[int, int, int]

    def file(self, name: str, lengths: list[int]) -> RowFile:
        return RowFile(self.place / name, lengths, self.shape)


def _encode_shard(
    dataset: Dataset, samples: range, encode: Callable[[np.ndarray], np.ndarray], rows: _Rows, batch: int
) -> Iterator[int]:
    """Yields how many frames more are there, for every sample."""
    rows.place.mkdir(exist_ok=True)
    frames = rows.file("frames.npy", [dataset.facts[i].num_frames for i in samples])
    yield frames.num_rows_done
    for i in samples[frames.num_parts_done :]:
        frames.append(np.concatenate([encode(pictures) for pictures in _pictures(dataset, i, batch)]))
        yield dataset.facts[i].num_frames
    frames.finish()
    with_portrait = [i for i in samples if dataset.has_portrait(i)]
    if with_portrait:
        portraits = rows.file("portraits.npy", [1] * len(with_portrait))
        for i in with_portrait[portraits.num_parts_done :]:
            portraits.append(encode(cast(np.ndarray, dataset.portrait(i))[None]))
        portraits.finish()


def _pictures(dataset: Dataset, i: int, batch: int) -> Iterator[np.ndarray]:
    """The frames of a sample, `batch` at a time; decoded in longer runs, because each run starts at a key frame."""
    num_frames = dataset.facts[i].num_frames
    for start in range(0, num_frames, _DECODED_FRAMES):
        pictures = dataset.frames(i, range(start, min(start + _DECODED_FRAMES, num_frames)))
        yield from (pictures[at : at + batch] for at in range(0, len(pictures), batch))


@torch.no_grad()
def _encode(vae: nn.Module, dtype: torch.dtype, pictures: np.ndarray) -> np.ndarray:
    """[n, S, S, 3] uint8 → [n, D, h, w] float16."""
    first = next(vae.parameters())
    with torch.autocast(first.device.type, dtype, enabled=dtype != torch.float32):
        encoded = vae.encode(to_network(pictures).to(first.device, first.dtype))  # type: ignore[operator]
    if isinstance(vae, AutoencoderKL):
        latents = torch.cat([encoded.latent_dist.mean, encoded.latent_dist.logvar], dim=1)
    else:
        latents = encoded
    return latents.half().cpu().numpy()


def _row_shape(dataset: Dataset, vae: nn.Module) -> tuple[int, int, int]:
    channels = int(vae.config["latent_channels"])  # type: ignore[index]
    side = dataset.index.size_px // downscale_factor(vae)
    return (2 * channels if isinstance(vae, AutoencoderKL) else channels, side, side)
