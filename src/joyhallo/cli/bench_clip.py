"""What `joyhallo bench` measures: one clip with random contents, part by part, on networks that are loaded or drawn."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joyhallo.presets import num_guided_steps, time_of_steps

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor

    from joyhallo.models.conditions import ClipInputs
    from joyhallo.models.unet import DenoisingNetwork
    from joyhallo.presets import Sampling

PRODUCT_SIDE = 4096
KINDS: tuple[str, ...] = ("spatial attention", "audio attention", "motion attention", "convolutions")  # of a step
_PRODUCT_S = 0.2
_STEPS_S = 30.0  # when this long is measured, the other steps count as equal
_MIN_STEPS = 3


@dataclass(frozen=True)
class ClipCost:
    """What one clip costs; seconds are wall time, arithmetic is products and sums."""

    model: str
    weights: str  # "loaded" or "random"
    frames: int
    height: int
    width: int
    fps: int
    num_steps: int
    num_measured_steps: int
    parts_s: dict[str, float]  # what a clip needs once
    step_s: float  # of a guided one, the median
    first_step_s: float  # of a guided one that begins with the same noise in all frames; else the same
    plain_step_s: float  # of one without guidance, the median; of a guided one where all are
    guidance_end: float  # share of the way that is guided
    step_parts_s: dict[str, float]  # of one step, by KINDS; measured apart, so the sum is a little more than `step_s`
    step_parts_gflop: dict[str, float]
    product_gflop_per_s: float  # of a 4096³ matrix product in the same numbers: the device's measured peak
    memory_gb: float  # at most: allocated by tensors on CUDA, of the whole process elsewhere
    weights_gb: float

    @property
    def clip_s(self) -> float:
        """All parts and all steps."""
        times = self.first_step_s, self.step_s, self.plain_step_s
        return sum(self.parts_s.values()) + time_of_steps(self.num_steps, self.guidance_end, *times)

    @property
    def num_guided_steps(self) -> int:
        """Of the steps of a clip."""
        return num_guided_steps(self.num_steps, self.guidance_end)

    @property
    def step_gflop(self) -> float:
        """All products and sums of a step."""
        return sum(self.step_parts_gflop.values())

    @property
    def share_of_peak(self) -> float:
        """The steps' arithmetic rate over that of the matrix product."""
        return self.step_gflop / self.step_s / self.product_gflop_per_s


@dataclass(frozen=True)
class Clip:
    """A guided clip with random contents for given networks; every method is one part of the work."""

    networks: dict[str, Any]
    sampling: Sampling
    latent_size: tuple[int, int]
    like: Tensor  # a parameter

    @classmethod
    def of(cls, networks: dict[str, Any], sampling: Sampling) -> Clip:
        from joyhallo.models.latents import downscale_factor

        factor = downscale_factor(networks["vae"])
        like = next(networks["denoising_network"].parameters())
        return cls(networks, sampling, (sampling.height // factor, sampling.width // factor), like)

    def draw(self, *shape: int) -> Tensor:
        import torch

        return torch.randn(*shape, device=self.like.device, dtype=self.like.dtype)

    def past(self) -> Tensor:
        """Past frames, encoded, with the portrait before them: [1,1+P,C,h,w]."""
        import torch

        from joyhallo.models.latents import encode_pixels

        pixels = self.draw(self.sampling.num_past_frames, 3, self.sampling.height, self.sampling.width)
        past = encode_pixels(self.networks["vae"], pixels)
        return torch.cat([self.draw(1, *past.shape[1:]), past.to(self.like)])[None]

    def face(self) -> Tensor:
        projector = self.networks["face_projector"]
        return projector(self.draw(1, projector.config["embedding_size"]))

    def reference(self, past: Tensor, face: Tensor) -> Any:  # noqa: ANN401  ReferenceFeatures
        network = self.networks["reference_network"]
        halves = 2 if network.config["row_order"] == "interleaved" else 1
        return network(past.expand(halves, -1, -1, -1, -1), face.expand(halves, -1, -1))

    def inputs(self, past: Tensor, face: Tensor, reference: Any) -> ClipInputs:  # noqa: ANN401
        """Speech and place projected, both halves put together."""
        from joyhallo.models.conditions import ClipInputs, RegionMasks
        from joyhallo.sampling.guidance import with_unconditional

        config, audio = self.networks["denoising_network"].config, self.networks["audio_projector"].config
        window = self.draw(1, self.sampling.clip_length, audio["window_length"], audio["num_blocks"], audio["channels"])
        depths = range(len(config["widths"]))
        masks = tuple(self.draw(1, 1, *(-(-side // 2**depth) for side in self.latent_size)) for depth in depths)
        inputs = ClipInputs(
            reference=reference,
            face_tokens=face,
            audio_tokens=self.networks["audio_projector"](window),
            location=self.networks["face_locator"](self.draw(1, 3, self.sampling.height, self.sampling.width)),
            masks=RegionMasks(masks, masks, masks),
            portrait_latents=past[:, 0] if config["portrait_in_input"] else None,
        )
        return with_unconditional(inputs, self.sampling.unconditional_drops, face)

    def noise(self) -> Tensor:
        """Noisy latents [2,C,F,h,w] of both halves."""
        channels = self.networks["denoising_network"].config["out_channels"]
        return self.draw(2, channels, self.sampling.clip_length, *self.latent_size)


class Stopwatch:
    """Seconds by name, the last time of each."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.seconds: dict[str, float] = {}
        self._clock = clock

    def __call__(self, name: str, part: Callable[..., Any], *inputs: Any) -> Any:  # noqa: ANN401  whatever the part takes and gives
        before = self._clock()
        result = part(*inputs)
        self.seconds[name] = self._clock() - before
        return result


def measure(networks: dict[str, Any], sampling: Sampling, model: str, weights: str) -> ClipCost:
    """Time every part of a clip, count a step's arithmetic, and read the memory."""
    import torch

    from joyhallo.models.latents import decode_latents
    from joyhallo.sampling.guidance import conditional_half, unconditional_frame

    clip = Clip.of(networks, sampling)
    for part in networks.values():
        part.requires_grad_(False)
    network, device = networks["denoising_network"], clip.like.device
    clock = _clock(device)
    with torch.no_grad():
        watch = Stopwatch(clock)
        timestep = torch.tensor([601], device=device)
        for _ in range(2):  # the first time sets up kernels and memory, and does not count
            past = watch("past frames encoded", clip.past)
            face = clip.face()
            reference = watch("reference network", clip.reference, past, face)
            inputs = watch("speech, place", clip.inputs, past, face, reference)
            conditioning = watch("shared by the steps", network.condition, inputs)
            latents = clip.noise()
            velocity = network(latents, timestep, conditioning)
            watch("frames decoded", decode_latents, networks["vae"], velocity[0].transpose(0, 1))
        step = lambda: network(latents, timestep, conditioning)  # noqa: E731
        steps = first_steps = plain_steps = _steps(step, sampling.num_steps, clock)
        if sampling.guided_until < 1:
            conditional = network.condition(conditional_half(inputs))
            plain = lambda: network(latents[1:], timestep, conditional)  # noqa: E731
            plain_steps = _steps(plain, sampling.num_steps, clock)
            if sampling.begins_alike:
                frame = network.condition(unconditional_frame(inputs))
                first_steps = _steps(lambda: (plain(), network(latents[:1, :, :1], timestep, frame)), sampling.num_steps, clock)
        memory_gb = _peak_bytes(device) / 1e9
        parts_of_step_s = _by_kind(network, step, clock)
        gflop = _count(network, step)
    return ClipCost(
        model=model,
        weights=weights,
        frames=sampling.clip_length,
        height=sampling.height,
        width=sampling.width,
        fps=sampling.fps,
        num_steps=sampling.num_steps,
        num_measured_steps=len(steps),
        parts_s=watch.seconds,
        step_s=statistics.median(steps),
        first_step_s=statistics.median(first_steps),
        plain_step_s=statistics.median(plain_steps),
        guidance_end=sampling.guided_until,
        step_parts_s=parts_of_step_s,
        step_parts_gflop=gflop,
        product_gflop_per_s=_product_rate(clip, clock),
        memory_gb=memory_gb,
        weights_gb=sum(t.nbytes for part in networks.values() for t in (*part.parameters(), *part.buffers())) / 1e9,
    )


def _steps(step: Callable[[], object], num_steps: int, clock: Callable[[], float]) -> list[float]:
    """Seconds of each measured step."""
    edges = [clock()]
    while len(edges) <= num_steps and (len(edges) <= _MIN_STEPS or edges[-1] - edges[0] < _STEPS_S):
        step()
        edges.append(clock())
    return [end - start for start, end in pairwise(edges)]


def _count(network: DenoisingNetwork, step: Callable[[], object]) -> dict[str, float]:
    """GFLOP of a step by KINDS."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    # The counter does not know oneDNN's linear layers; where gradients are allowed, PyTorch's own kernels run.
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        return _by_kind(network, step, lambda: counter.get_total_flops() / 1e9)


def _by_kind(network: DenoisingNetwork, step: Callable[[], object], meter: Callable[[], float]) -> dict[str, float]:
    """How far `meter` goes in each kind of module during one step."""
    totals = dict.fromkeys(KINDS, 0.0)
    starts: list[float] = []
    hooks = []
    for kind, module in (pair for _, site in network.plan for pair in zip(KINDS, site.children(), strict=False)):

        def close(*_: object, kind: str = kind) -> None:
            totals[kind] += meter() - starts.pop()

        hooks.append(module.register_forward_pre_hook(lambda *_: starts.append(meter())))
        hooks.append(module.register_forward_hook(close))
    before = meter()
    step()
    totals[KINDS[-1]] = meter() - before - sum(totals.values())
    for hook in hooks:
        hook.remove()
    return totals


def _product_rate(clip: Clip, clock: Callable[[], float]) -> float:
    """GFLOP/s of a matrix product: the best of three series."""
    import torch

    left, right = (clip.draw(PRODUCT_SIDE, PRODUCT_SIDE) for _ in range(2))
    rates = []
    for _ in range(4):  # the first sets up
        count, before = 0, clock()
        while count == 0 or clock() - before < _PRODUCT_S:
            for _ in range(1 if clip.like.device.type == "cpu" else 100):
                torch.mm(left, right)
                count += 1
        rates.append(count * 2 * PRODUCT_SIDE**3 / 1e9 / (clock() - before))
    return max(rates[1:])


def _clock(device: torch.device) -> Callable[[], float]:
    """Seconds, after all that was asked of the device is done."""
    import torch

    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)

    def read() -> float:
        wait()
        return time.perf_counter()

    return read


def _peak_bytes(device: torch.device) -> int:
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():  # `getrusage` would also count what the process that started this one held
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
