"""`joyhallo bench`: what one clip costs on this machine, part by part."""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from joyhallo.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor, nn

    from joyhallo.models.conditions import ClipInputs
    from joyhallo.presets import Preset, Sampling

_PUBLISHED = ("joyhallo", "hallo")
_MEASURED_STEPS = 3  # of many steps of equal cost
_VAE: dict[str, Any] = {  # sd-vae-ft-mse
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}


@dataclass(frozen=True)
class Report:
    """What was measured."""

    model: str
    weights: str  # "loaded" or "random"
    where: str
    clip: str
    reference_s: float
    conditioning_s: float
    step_s: float
    decode_s: float
    num_steps: int
    num_measured_steps: int
    clip_s: float  # estimated from the measured steps when there are more
    per_video_second_s: float
    step_gflop: float
    step_gflop_per_s: float
    product_gflop_per_s: float  # of a 4096³ matrix product in the same type
    memory_gb: float
    weights_gb: float


def bench(
    *,
    model: str = "mini",
    size: str | None = None,
    frames: int | None = None,
    steps: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Measure this machine: time per step and per second of video.

    Parameters
    ----------
    model
        mini, a folder of weights, or joyhallo or hallo: the published sizes with random weights, as fast as real ones.
    size
        HEIGHTxWIDTH of the animated frame in pixels; what the weights were made for by default.
    frames
        Frames of a clip.
    steps
        Denoising steps of a clip; three are measured and the rest counted as equal to them.
    device
        auto, cpu, cuda, cuda:1 or mps.
    dtype
        auto, fp32, bf16 or fp16.
    as_json
        Print one JSON object on standard output instead of text.
    """
    from joyhallo.device import choose_device, choose_dtype, dtype_name
    from joyhallo.models.kernels import choose_linear_kernel

    place = choose_device(device)
    numbers = choose_dtype(dtype, place).value
    where = f"{place}, {dtype_name(numbers)}"
    if place.type == "cpu":
        kernel = choose_linear_kernel()
        where += f", linear layers by {kernel.name} ({kernel.reason})"
    parts, sampling = _load(model, place, numbers)
    sampling = _adjust(sampling, parts["vae"], size, frames, steps)
    report = _measure(parts, sampling, model, where)
    print(json.dumps(asdict(report)) if as_json else _describe(report))
    return 0


def _adjust(sampling: Sampling, vae: nn.Module, size: str | None, frames: int | None, steps: int | None) -> Sampling:
    from joyhallo.models.latents import downscale_factor

    for name, value in (("--frames", frames), ("--steps", steps)):
        if value is not None and value < 1:
            raise UserError(f"{name} {value} is too few: give 1 or more.")
    if size is not None:
        height, _, width = size.partition("x")
        factor = downscale_factor(vae)
        if not (height.isdecimal() and width.isdecimal()) or min(int(height), int(width)) < factor:
            raise UserError(f"--size {size!r} is no size: give HEIGHTxWIDTH in pixels, like 512x512.")
        if int(height) % factor or int(width) % factor:
            raise UserError(f"--size {size} is not divisible by {factor}, as these weights need: give another size.")
        sampling = replace(sampling, height=int(height), width=int(width))
    return replace(sampling, clip_length=frames or sampling.clip_length, num_steps=steps or sampling.num_steps)


def _load(model: str, device: torch.device, dtype: torch.dtype) -> tuple[dict[str, Any], Sampling]:
    from torch import nn

    from joyhallo import presets
    from joyhallo.weights.pipeline_folder import load_components

    if model in _PUBLISHED:
        preset = getattr(presets, model)()
        return _draw(preset, device, dtype), preset.sampling
    components = load_components(model, dtype)
    sampling = presets.Sampling(**components["sampling"])
    modules = {name: part for name, part in components.items() if isinstance(part, nn.Module)}
    return {name: nn.Module.to(part, device) for name, part in modules.items()}, sampling


def _draw(preset: Preset, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The published sizes with random weights: slices of one block of noise, because drawing billions would take long."""
    import torch
    from diffusers import AutoencoderKL

    from joyhallo.models.networks import build_networks

    with torch.device("meta"):
        parts: dict[str, Any] = {**build_networks(preset).modules(), "vae": AutoencoderKL(**_VAE)}
    noise = torch.rand(1 << 20, generator=torch.Generator().manual_seed(0)).sub_(0.5).to(device, dtype)
    for part in parts.values():
        part.to(dtype=dtype, memory_format=torch.channels_last).to_empty(device=device).requires_grad_(False).eval()
        for tensor in (*part.parameters(), *part.buffers()):
            flat = tensor.as_strided((tensor.numel(),), (1,))
            for start in range(0, len(flat), len(noise)):
                flat[start : start + len(noise)].copy_(noise[: len(flat) - start])
            tensor.mul_(3.4 * (tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.1))
    return parts


@dataclass(frozen=True)
class _Workload:
    """A clip with random contents for given networks."""

    parts: dict[str, Any]
    sampling: Sampling
    latent_size: tuple[int, int]
    like: Tensor  # a parameter

    def draw(self, *shape: int) -> Tensor:
        import torch

        return torch.randn(*shape, device=self.like.device, dtype=self.like.dtype)

    def clip(self) -> ClipInputs:
        """Encode the past, run the reference network, and gather the conditions of a guided clip."""
        import torch

        from joyhallo.models.conditions import ClipInputs, RegionMasks
        from joyhallo.models.latents import encode_pixels
        from joyhallo.sampling.guidance import with_unconditional

        parts, sampling = self.parts, self.sampling
        past = encode_pixels(parts["vae"], self.draw(sampling.num_past_frames, 3, sampling.height, sampling.width))
        latents = torch.cat([self.draw(1, *past.shape[1:]), past.to(self.like)])[None]
        face = parts["face_projector"](self.draw(1, parts["face_projector"].config["embedding_size"]))
        is_mixed = parts["reference_network"].config["row_order"] == "interleaved"
        halves = 2 if is_mixed else 1
        audio = parts["audio_projector"].config
        window = self.draw(1, sampling.clip_length, audio["window_length"], audio["num_blocks"], audio["channels"])
        depths = range(len(parts["denoising_network"].config["widths"]))
        masks = tuple(self.draw(1, 1, *(-(-side // 2**depth) for side in self.latent_size)) for depth in depths)
        inputs = ClipInputs(
            reference=parts["reference_network"](latents.expand(halves, -1, -1, -1, -1), face.expand(halves, -1, -1)),
            face_tokens=face,
            audio_tokens=parts["audio_projector"](window),
            location=parts["face_locator"](self.draw(1, 3, sampling.height, sampling.width)),
            masks=RegionMasks(masks, masks, masks),
            portrait_latents=latents[:, 0] if parts["denoising_network"].config["portrait_in_input"] else None,
        )
        return with_unconditional(inputs, sampling.unconditional_drops, face)  # type: ignore[arg-type]


def _measure(parts: dict[str, Any], sampling: Sampling, model: str, where: str) -> Report:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from joyhallo.models.latents import decode_latents, downscale_factor

    network, factor = parts["denoising_network"], downscale_factor(parts["vae"])
    work = _Workload(parts, sampling, (sampling.height // factor, sampling.width // factor), next(network.parameters()))
    channels, device = network.config["out_channels"], work.like.device
    with torch.no_grad():
        matrix = torch.ones(4096, 4096, device=device, dtype=work.like.dtype)
        product_s = min(_seconds(lambda: matrix @ matrix, device) for _ in range(3))
        clip = work.clip()  # the first call sets up the kernels
        reference_s = _seconds(work.clip, device)
        conditioning = network.condition(clip)
        conditioning_s = _seconds(lambda: network.condition(clip), device)
        latents = work.draw(2, channels, sampling.clip_length, *work.latent_size)
        timestep = torch.tensor([601], device=device)
        # The counter does not know oneDNN's linear layers; where gradients are allowed, PyTorch's own kernels run.
        with torch.enable_grad(), FlopCounterMode(display=False) as counter:
            network(latents, timestep, conditioning)
        num_measured = min(_MEASURED_STEPS, sampling.num_steps)
        step_s = min(_seconds(lambda: network(latents, timestep, conditioning), device) for _ in range(num_measured))
        decode_s = _seconds(lambda: decode_latents(parts["vae"], latents[0].transpose(0, 1)), device)
    clip_s = reference_s + conditioning_s + sampling.num_steps * step_s + decode_s
    gflop = counter.get_total_flops() / 1e9
    return Report(
        model=model,
        weights="random" if model in _PUBLISHED else "loaded",
        where=where,
        clip=f"{sampling.clip_length} frames of {sampling.height}x{sampling.width}, guided",
        reference_s=reference_s,
        conditioning_s=conditioning_s,
        step_s=step_s,
        decode_s=decode_s,
        num_steps=sampling.num_steps,
        num_measured_steps=num_measured,
        clip_s=clip_s,
        per_video_second_s=clip_s * sampling.fps / sampling.clip_length,
        step_gflop=gflop,
        step_gflop_per_s=gflop / step_s,
        product_gflop_per_s=2 * 4096**3 / 1e9 / product_s,
        memory_gb=_peak_bytes(device) / 1e9,
        weights_gb=sum(tensor.nbytes for part in parts.values() for tensor in (*part.parameters(), *part.buffers())) / 1e9,
    )


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    import torch

    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, lambda: None)
    wait()
    before = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - before


def _peak_bytes(device: torch.device) -> int:
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _describe(report: Report) -> str:
    estimated = ", estimated from the measured ones" if report.num_steps > report.num_measured_steps else ""
    share = report.step_gflop_per_s / report.product_gflop_per_s
    lines = (
        f"{report.model}, {report.weights} weights, {report.clip}",
        f"on {report.where}",
        f"reference      {report.reference_s:8.3f} s  past frames encoded, reference network, projectors",
        f"conditioning   {report.conditioning_s:8.3f} s  what the steps share",
        f"step           {report.step_s:8.3f} s  best of {report.num_measured_steps}; {report.step_gflop:.0f} GFLOP at "
        f"{report.step_gflop_per_s:.0f} GFLOP/s, {share:.0%} of a 4096³ product's {report.product_gflop_per_s:.0f}",
        f"decode         {report.decode_s:8.3f} s",
        f"clip           {report.clip_s:8.2f} s  {report.num_steps} steps{estimated}",
        f"video          {report.per_video_second_s:8.2f} s  per second",
        f"memory         {report.memory_gb:8.2f} GB at most, weights {report.weights_gb:.2f} GB",
    )
    return "\n".join(lines)
