"""Where a run takes latents and speech features from: what was stored, or what it encodes itself.

Axes: N pictures, S pixels of a side, F frames, C channels, h and w the latent place.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from joyhallo.conditioning.speech import WINDOW_RADIUS, MelSpeech, Wav2Vec2Speech, prepare_speech
from joyhallo.data.dataset import Dataset
from joyhallo.data.latents import LatentCache, fingerprint
from joyhallo.data.picking import Drawing, Pick
from joyhallo.data.randomness import Purpose, stream
from joyhallo.data.samples import Annotations
from joyhallo.models.latents import downscale_factor
from joyhallo.models.speech_encoder import MelSpeechNetwork
from joyhallo.training.distributed import Processes

logger = logging.getLogger(__name__)
_ENCODED_AT_ONCE = 8  # pictures
_FULL_SCALE = 32768.0  # of 16-bit sound
_REPORT_EVERY_S = 10.0


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


def latent_source(dataset: Dataset, vae: nn.Module, drawing: Drawing, seed: int, processes: Processes) -> Any:  # noqa: ANN401
    """Where a run's latents come from; those of a cache that are not there yet are encoded first, by the first process."""
    drawn = seed if drawing.samples_latents else None
    if drawing.latents == "live":
        return LiveLatents(dataset, vae, drawn)
    if processes.is_first:
        LatentCache.encode_dataset(dataset, vae, progress=_Told("encoding latents: %d of %d frames"))
    processes.wait()
    return CachedLatents(LatentCache(dataset, vae), vae, dataset.index.size_px, drawn)


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
        self._starts = np.load(folder / "starts.npy")
        self._features = np.load(folder / "features.npy", mmap_mode="r")

    def rows(self, sample: int, _annotations: Annotations) -> np.ndarray:
        """[F,blocks,channels] float16."""
        return self._features[self._starts[sample] : self._starts[sample + 1]]


def speech_source(dataset: Dataset, samples: Sequence[int], encoder: nn.Module, folder: Path, processes: Processes) -> Any:  # noqa: ANN401
    """What gives speech features for `samples`: the dataset's own where they are this encoder's, else the encoder's, once.

    The features of mini's small encoder are always made anew: they cost little, and its weights may differ from one folder
    to the next under the same name.
    """
    is_stored = not isinstance(encoder, MelSpeechNetwork) and all(
        dataset.facts[i].speech_encoder == encoder_name(encoder) for i in samples
    )
    if is_stored:
        return StoredSpeech()
    parts = [fingerprint(encoder), *(shard.entry.sha256 for shard in dataset.shards), *map(str, samples)]
    folder = folder / hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]  # other data or another encoder: other features
    if processes.is_first and not (folder / "done.json").is_file():
        logger.info("encoding the speech of %d samples, once", len(samples))
        encode_speech(dataset, samples, encoder, folder)
    processes.wait()
    return EncodedSpeech(folder)


def encoder_name(encoder: nn.Module) -> str:
    """How datasets call a speech encoder."""
    if isinstance(encoder, MelSpeechNetwork):
        return "mini"
    depth = int(getattr(getattr(encoder, "config", None), "num_hidden_layers", 0))
    return "chinese-wav2vec2-base" if depth == 12 else f"wav2vec2 of {depth} layers"


def encode_speech(dataset: Dataset, samples: Sequence[int], encoder: nn.Module, folder: Path) -> None:
    """Write the features of `samples` (of the others there are none) below `folder`, whole or not at all."""
    listens: Any = MelSpeech(encoder) if isinstance(encoder, MelSpeechNetwork) else Wav2Vec2Speech(encoder)  # type: ignore[arg-type]
    wanted = set(samples)
    lengths = [facts.num_frames if i in wanted else 0 for i, facts in enumerate(dataset.facts)]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    shape = (int(starts[-1]), listens.num_blocks, listens.channels)
    features = np.lib.format.open_memmap(partial / "features.npy", mode="w+", dtype=np.float16, shape=shape)
    tell = _Told("encoding speech: %d of %d samples")
    for done, sample in enumerate(sorted(wanted)):
        waveform = dataset.annotations(sample).speech.astype(np.float32) / _FULL_SCALE
        features[starts[sample] : starts[sample + 1]] = clip_features(waveform, listens, lengths[sample])
        tell(done + 1, len(wanted))
    features.flush()
    np.save(partial / "starts.npy", starts)
    (partial / "done.json").write_text(json.dumps({"num_samples": len(wanted)}))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def clip_features(waveform: np.ndarray, encoder: Any, num_frames: int) -> np.ndarray:  # noqa: ANN401
    """Features [F,blocks,channels] of one clip's sound, normalised over the clip; a silent clip has those of silence."""
    if waveform.min() != waveform.max():
        speech = prepare_speech(waveform, encoder, clip_length=1)
        return speech.window(0, num_frames)[:, WINDOW_RADIUS].numpy()
    return encoder.encode(torch.from_numpy(waveform), num_frames).numpy()
