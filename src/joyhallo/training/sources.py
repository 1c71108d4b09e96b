"""Where a run takes latents and speech features from: what was stored, or what it encodes itself.

Axes: N pictures, S pixels of a side, F frames, C channels, h and w the latent place.
"""

import hashlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from joyhallo.conditioning.speech import MelSpeech, SpeechEncoder, Wav2Vec2Speech
from joyhallo.data.dataset import Dataset
from joyhallo.data.latents import LatentCache, fingerprint
from joyhallo.data.picking import Drawing, Pick
from joyhallo.data.randomness import Purpose, stream
from joyhallo.data.row_file import RowFile, num_bytes_missing, open_rows, require_room
from joyhallo.data.samples import Annotations
from joyhallo.data.speech_features import are_of_one_encoder, encode_clip
from joyhallo.device import all_cores
from joyhallo.errors import UserError
from joyhallo.media.files import writing_error, written_whole
from joyhallo.models.latents import downscale_factor
from joyhallo.models.speech_encoder import MelSpeechNetwork
from joyhallo.training.distributed import Processes

logger = logging.getLogger(__name__)
_ENCODED_AT_ONCE = 8  # pictures
_REPORT_EVERY_S = 10.0
_STARTS, _FEATURES = "starts.npy", "features.npy"  # of encoded speech: a sample's first row, and the rows


def latent_generator(seed: int, purpose: Purpose, number: int) -> torch.Generator:
    """What a sample's latents are drawn with."""
    return torch.Generator().manual_seed(int(stream(seed, purpose, number).integers(2**32)))


class CachedLatents:
    """Latents that were encoded before; see `LatentCache`. `seed`: with one, latents are drawn and not the mean."""

    def __init__(self, cache: LatentCache, vae: nn.Module, size_px: int, seed: int | None) -> None:
        self.cache, self.seed = cache, seed
        self._grey = _Grey(vae, size_px, seed)

    def read(self, pick: Pick) -> Tensor:
        """[R,C,h,w]."""
        generator = None if self.seed is None else latent_generator(self.seed, "latents", pick.number)
        if pick.portrait is not None:
            return self.cache.frames(pick.sample, (pick.portrait, *pick.past, *pick.frames), generator)
        portrait = self.cache.portrait(pick.sample, generator)
        assert portrait is not None, "a pick without a portrait's frame is of a sample with a portrait"
        return torch.cat([portrait[None], self.cache.frames(pick.sample, (*pick.past, *pick.frames), generator)])

    def latents(self, rows: Tensor, _picks: Sequence[Pick]) -> Tensor:
        """As they were read."""
        return rows

    def grey(self, picks: Sequence[Pick], num_past: int) -> Tensor:
        """[B,P,C,h,w]."""
        return self._grey.latents(picks, num_past)


class LiveLatents:
    """Pictures are read from the clips and encoded by the autoencoder in every step."""

    def __init__(self, dataset: Dataset, vae: nn.Module, seed: int | None) -> None:
        self.dataset, self.vae, self.seed = dataset, vae, seed
        self._grey = _Grey(vae, dataset.index.size_px, seed)

    def read(self, pick: Pick) -> Tensor:
        """uint8 [R,S,S,3]."""
        own = (*pick.past, *pick.frames)
        if pick.portrait is not None:
            return torch.from_numpy(self.dataset.frames(pick.sample, (pick.portrait, *own)))
        portrait = self.dataset.portrait(pick.sample)
        assert portrait is not None, "a pick without a portrait's frame is of a sample with a portrait"
        return torch.from_numpy(np.concatenate([portrait[None], self.dataset.frames(pick.sample, own)]))

    def latents(self, rows: Tensor, picks: Sequence[Pick]) -> Tensor:
        """uint8 [B,R,S,S,3] → [B,R,C,h,w]."""
        parts = rows.flatten(0, 1).split(_ENCODED_AT_ONCE)
        moments = torch.cat([encode_moments(self.vae, part.permute(0, 3, 1, 2).float() / 127.5 - 1) for part in parts])
        moments = moments.unflatten(0, rows.shape[:2])
        if not isinstance(self.vae, AutoencoderKL):
            return moments
        drawn = []
        for pick, moment in zip(picks, moments, strict=True):
            generator = None if self.seed is None else latent_generator(self.seed, "latents", pick.number)
            # A portrait of its own is drawn before the frames, as it is where they are read from a cache.
            pieces = moment.split([1, len(moment) - 1]) if pick.portrait is None else [moment]
            drawn.append(torch.cat([sampled(piece, generator) for piece in pieces]))
        return torch.stack(drawn)

    def grey(self, picks: Sequence[Pick], num_past: int) -> Tensor:
        """[B,P,C,h,w]."""
        return self._grey.latents(picks, num_past)


class _Grey:
    """The latents of a picture whose numbers are zero, which stand for the past before a video's first clip."""

    def __init__(self, vae: nn.Module, size_px: int, seed: int | None) -> None:
        self.vae, self.size_px, self.seed = vae, size_px, seed
        self._moments: Tensor | None = None  # encoded on first use

    def latents(self, picks: Sequence[Pick], num_past: int) -> Tensor:
        if self._moments is None:
            self._moments = encode_moments(self.vae, torch.zeros(1, 3, self.size_px, self.size_px))
        rows = self._moments.expand(num_past, -1, -1, -1)
        if not isinstance(self.vae, AutoencoderKL):
            return rows.expand(len(picks), -1, -1, -1, -1)
        generators = [None if self.seed is None else latent_generator(self.seed, "start", pick.number) for pick in picks]
        return torch.stack([sampled(rows, generator) for generator in generators])


def sampled(moments: Tensor, generator: torch.Generator | None) -> Tensor:
    """Mean and log-variance [N,2C,h,w] → latents [N,C,h,w]: drawn, or the mean without a generator."""
    mean, log_variance = moments.chunk(2, dim=1)
    if generator is None:
        return mean
    return mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=generator).to(mean)


@torch.no_grad()
def encode_moments(vae: nn.Module, pixels: Tensor) -> Tensor:
    """Pixels [N,3,S,S] in [-1,1] → latents, or of a distribution mean and log-variance side by side, float32."""
    first = next(vae.parameters())
    encoded: Any = vae.encode(pixels.to(first.device, first.dtype))  # type: ignore[operator]
    if not isinstance(vae, AutoencoderKL):
        return encoded.float()
    return torch.cat([encoded.latent_dist.mean, encoded.latent_dist.logvar], dim=1).float()


def latent_side(vae: nn.Module, size_px: int) -> int:
    return size_px // downscale_factor(vae)


def latent_source(
    dataset: Dataset, vae: nn.Module, drawing: Drawing, seed: int, processes: Processes, dtype: torch.dtype
) -> Any:  # noqa: ANN401
    """Where a run's latents come from; those of a cache that are not there yet are encoded first, by the first process.

    It computes them in `dtype`, and on a CPU with all cores, since the other processes wait. Where all are there in float32,
    they are taken.
    """
    drawn = seed if drawing.samples_latents else None
    if drawing.latents == "live":
        return LiveLatents(dataset, vae, drawn)
    if dtype != torch.float32 and not processes.mean([not LatentCache.is_encoded(dataset, vae)])[0]:
        dtype = torch.float32  # all processes go the same way
    if processes.is_first:
        with all_cores():
            LatentCache.encode_dataset(dataset, vae, dtype=dtype, progress=_Told("encoding latents: %d of %d frames"))
    processes.wait()
    return CachedLatents(LatentCache(dataset, vae, dtype=dtype), vae, dataset.index.size_px, drawn)


class _Told:
    """Says how far something is, now and then; nothing when it was done before."""

    def __init__(self, text: str) -> None:
        self.text, self.next_s = text, time.monotonic() + _REPORT_EVERY_S

    def __call__(self, done: int, of: int) -> None:
        if time.monotonic() >= self.next_s:
            logger.info(self.text, done, of)
            self.next_s = time.monotonic() + _REPORT_EVERY_S


class StoredSpeech:
    """Speech features that the dataset holds."""

    def rows(self, _sample: int, annotations: Annotations) -> np.ndarray:
        """[F,blocks,channels] float16."""
        assert annotations.speech_features is not None, "checked when the run began"
        return annotations.speech_features


class EncodedSpeech:
    """Speech features of all samples in one array on disk, made before the first step."""

    def __init__(self, folder: Path) -> None:
        self._starts = open_rows(folder / _STARTS)
        self._features = open_rows(folder / _FEATURES)

    def rows(self, sample: int, _annotations: Annotations) -> np.ndarray:
        """[F,blocks,channels] float16."""
        return self._features[self._starts[sample] : self._starts[sample + 1]]


def speech_source(dataset: Dataset, samples: Sequence[int], encoder: nn.Module, folder: Path, processes: Processes) -> Any:  # noqa: ANN401
    """What gives speech features for `samples`: the dataset's own where they are this encoder's, else the encoder's, once.

    The features of mini's small encoder are always made anew: they cost little, and its weights may differ from one folder
    to the next under the same name.

    Raises:
        UserError: the disk has no room for them, or is full.
    """
    is_mini = isinstance(encoder, MelSpeechNetwork)
    if not is_mini and all(dataset.facts[i].speech_encoder for i in samples):
        foreign = foreign_features(dataset, samples, encoder)
        if not processes.mean([foreign is not None])[0]:  # all processes go the same way
            return StoredSpeech()
        logger.info("the speech features in '%s' are not of this run's speech encoder: they are not used", foreign)
    parts = [fingerprint(encoder), *(shard.entry.sha256 for shard in dataset.shards), *map(str, samples)]
    folder = folder / hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]  # other data or another encoder: other features
    if processes.is_first and not (folder / _FEATURES).is_file():
        logger.info("encoding the speech of %d samples, once", len(samples))
        encode_speech(dataset, samples, encoder, folder)
    processes.wait()
    return EncodedSpeech(folder)


def foreign_features(dataset: Dataset, samples: Sequence[int], encoder: nn.Module) -> Path | None:
    """The first dataset whose stored features of `samples` are not this encoder's, None where there is none.

    Heard, not read: in the clip of each dataset and name of an encoder in which somebody speaks most.
    """
    loudest: dict[tuple[Path, str | None], int] = {}
    for i in samples:
        group = dataset.folder_of(i), dataset.facts[i].speech_encoder
        if group not in loudest or dataset.facts[i].speech_share > dataset.facts[loudest[group]].speech_share:
            loudest[group] = i
    listens = _listener(encoder)
    for (folder, _), i in loudest.items():
        annotations = dataset.annotations(i)
        assert annotations.speech_features is not None, "its facts name an encoder"
        if not are_of_one_encoder(annotations.speech_features, encode_clip(annotations.speech, listens)):
            return folder
    return None


def encode_speech(dataset: Dataset, samples: Sequence[int], encoder: nn.Module, folder: Path) -> None:
    """Write the features of `samples` (of the others there are none) into `folder`, whole or not at all.

    A run that was stopped goes on at the sample it was at.

    Raises:
        UserError: the disk has no room for them, or is full.
    """
    listens, wanted = _listener(encoder), sorted(set(samples))
    lengths = np.zeros(len(dataset), np.int64)
    lengths[wanted] = [dataset.facts[i].num_frames for i in wanted]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    path, row_shape = folder / _FEATURES, (listens.num_blocks, listens.channels)
    tell = _Told("encoding speech: %d of %d samples")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        require_room(folder, num_bytes_missing(path, int(starts[-1]), row_shape), "speech features", UserError)
        with written_whole(folder / _STARTS, "speech features", UserError) as temporary:
            np.save(temporary, starts)
        rows = RowFile(path, lengths[wanted].tolist(), row_shape)
        for number in range(rows.num_parts_done, len(wanted)):
            rows.append(encode_clip(dataset.annotations(wanted[number]).speech, listens))
            tell(number + 1, len(wanted))
        rows.finish()
    except OSError as problem:
        raise writing_error(problem, path, "speech features", UserError) from problem


def _listener(encoder: nn.Module) -> SpeechEncoder:
    return MelSpeech(encoder) if isinstance(encoder, MelSpeechNetwork) else Wav2Vec2Speech(encoder)  # type: ignore[arg-type]
