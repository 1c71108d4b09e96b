"""One step of training in stage 2: forward, backward, clipping and AdamW, ours and the published way, in alternation.

    python benchmarks/training.py [mini|reduced|full …] [--dtype fp32|bf16] [--repeats 4] [--threads 1]

`mini` is its recipe; `reduced` has the two upper levels of Stable Diffusion 1.5, one block each, at 128 px with 4 frames;
`full` is the published stage at 512 px with 16 frames, on a GPU alone: step time and memory by batch size, up to the largest
that fits. Random weights and data. Prints seconds, frames per second, the arithmetic rate against that of a 4096³ product in
the same minutes, and (in processes of their own) the memory that a step adds.
"""

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from joyhallo import presets
from joyhallo.data.batches import Batch
from joyhallo.device import DTYPES
from joyhallo.models.conditions import ClipInputs, RegionMasks
from joyhallo.models.networks import Networks, build_networks
from joyhallo.presets import Preset
from joyhallo.training.recipes import Recipe, find_recipe
from joyhallo.training.stages import Draws, velocity_loss
from published import published_velocity

WINDOW = 5  # frames of speech features around every frame
PRODUCT = 4096


@dataclass(frozen=True)
class Case:
    """What a step is made of."""

    preset: Preset
    recipe: Recipe
    num_samples: int
    num_frames: int
    side: int  # of the latents


def reduced() -> Preset:
    shape = {"widths": (320, 640), "attention_levels": (True, True), "layers_per_level": 1}
    whole = presets.joyhallo()
    return replace(whole, reference_network=whole.reference_network | shape, denoising_network=whole.denoising_network | shape)


def find_case(name: str, num_samples: int | None = None) -> Case:
    mini, published = find_recipe("mini", "stage2"), find_recipe("published", "stage2")
    cases = {
        "mini": Case(presets.mini(), mini, mini.drawing.num_at_once, mini.drawing.num_frames, 16),
        "reduced": Case(reduced(), published, 1, 4, 16),
        "full": Case(presets.joyhallo(), published, published.drawing.num_at_once, published.drawing.num_frames, 64),
    }
    return cases[name] if num_samples is None else replace(cases[name], num_samples=num_samples)


class Step:
    """Networks, a batch and an optimiser."""

    def __init__(self, case: Case, device: torch.device, dtype: torch.dtype) -> None:
        self.case, self.device, self.dtype = case, device, dtype
        torch.manual_seed(0)
        with device:
            self.networks = build_networks(case.preset)
        for component, module in self.networks.modules().items():
            nn.Module.to(module, memory_format=torch.channels_last)
            for path, parameter in module.named_parameters():
                parameter.requires_grad_(case.recipe.trains(f"{component}.{path}"))
        self.trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-5, fused=True)
        self.batch, self.draws = draw_batch(case, self.networks, device)

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for module in self.networks.modules().values() for parameter in module.parameters()]

    def loss(self, networks: Networks, checkpointing: bool) -> Tensor:
        is_mixed = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype) if is_mixed else nullcontext():
            objective = replace(self.case.recipe.objective, mouth_weight=0.0)  # the networks alone
            return velocity_loss(networks, self.batch, objective, self.draws, checkpointing).mean()

    def __call__(self, networks: Networks | None = None, checkpointing: bool = False) -> float:
        """One step; returns the gradients' norm."""
        self.loss(networks or self.networks, checkpointing).backward()
        norm = nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm.item()  # waits for a GPU

    def published(self) -> Networks:
        """The same networks, the denoising network computed the published way."""
        return replace(self.networks, denoising_network=PublishedWay(self.networks.denoising_network))


class PublishedWay:
    """Stands for a denoising network; projects everything in every step, for every row."""

    def __init__(self, network: nn.Module) -> None:
        self.network, self.config = network, network.config

    def condition(self, inputs: ClipInputs) -> ClipInputs:
        return inputs

    def __call__(self, latents: Tensor, timestep: Tensor, inputs: ClipInputs) -> Tensor:
        if inputs.portrait_latents is not None:
            portrait = inputs.portrait_latents[:, :, None].expand(-1, -1, latents.shape[2], -1, -1)
            latents = torch.cat([latents, portrait], dim=1)
        return published_velocity(self.network, latents, timestep, inputs)


def draw_batch(case: Case, networks: Networks, device: torch.device) -> tuple[Batch, Draws]:
    """Random clips; nothing is dropped."""
    num, frames, side = case.num_samples, case.num_frames, case.side
    generator = torch.Generator(device).manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    denoising, speech = networks.denoising_network.config, networks.audio_projector.config
    channels, pixels = denoising["out_channels"], side * 2 ** (len(networks.face_locator.config["widths"]) - 1)
    sides = [-(-side // 2**depth) for depth in range(len(denoising["widths"]))]
    masks = RegionMasks(*(tuple(draw(num, 1, s, s).sigmoid() for s in sides) for _ in range(3)))
    batch = Batch(
        latents=draw(num, channels, frames, side, side),
        reference_latents=draw(num, 1 + case.recipe.drawing.num_past, channels, side, side),
        face_embedding=draw(num, networks.face_projector.config["embedding_size"]),
        audio_window=draw(num, frames, WINDOW, speech["num_blocks"], speech["channels"]),
        face_region=(draw(num, 3, pixels, pixels) > 0).float(),
        masks=masks,
    )
    nobody = torch.zeros(num, dtype=torch.bool)
    timesteps = torch.linspace(100, 900, num).long()
    return batch, Draws(timesteps, draw(*batch.latents.shape).cpu(), 0, nobody, nobody)


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Wall time; on a CPU with one thread the CPU's time, which other programs on the machine disturb less."""
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    before = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - before


def compare(name: str, device: torch.device, dtype: torch.dtype, repeats: int) -> None:
    """Time a step without and with checkpointing and the published way, and the matrix product between them."""
    case = find_case(name)
    step = Step(case, device, dtype)
    published = step.published()
    matrix = torch.ones(PRODUCT, PRODUCT, device=device, dtype=dtype)
    runs = {
        "product": lambda: matrix @ matrix,
        "published": lambda: step(published),
        "ours": step,
        "recomputed": lambda: step(checkpointing=True),
    }
    losses = [step.loss(networks, checkpointing=False).item() for networks in (step.networks, published)]
    gflop = {"ours": count_gflop(step.networks, step), "published": count_gflop(published, step)}
    gflop["recomputed"] = gflop["ours"]  # what is computed twice is no progress
    times: dict[str, list[float]] = {run: [] for run in runs}
    for _ in range(1 + repeats):
        for run, call in runs.items():
            times[run].append(seconds(call, device))
    times = {run: taken[1:] for run, taken in times.items()}  # the first call sets up kernels and memory
    peak = 2e-9 * PRODUCT**3 / min(times["product"])
    trained, every = (sum(p.numel() for p in parameters) / 1e6 for parameters in (step.trained, step.parameters()))
    size = f"{case.num_samples} × {case.num_frames} frames, latents {case.side}×{case.side}"
    print(f"{name}: {size}, trains {trained:.1f} of {every:.1f} M parameters, {torch.get_num_threads()} threads")
    print(f"  {PRODUCT}³      {peak:.0f} GFLOP/s; losses differ by {abs(losses[0] / losses[1] - 1):.1e}")
    for run in ("published", "ours", "recomputed"):
        best, rate = min(times[run]), gflop[run] / min(times[run])
        pace = case.num_samples * case.num_frames / best
        print(
            f"  {run:10} {best:.2f} s (median {statistics.median(times[run]):.2f}), {pace:.1f} frames/s; "
            f"{gflop[run]:.0f} GFLOP at {rate:.0f} GFLOP/s, {rate / peak:.0%}",
            flush=True,
        )


def count_gflop(networks: Networks, step: Step) -> float:
    """Products and sums of the forward and the backward pass."""
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        step.loss(networks, checkpointing=False).backward()
    step.optimizer.zero_grad(set_to_none=True)
    return counter.get_total_flops() / 1e9


def attention_flop(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
    return sdpa_flop_count(query, key, value)


def attention_backward_flop(*shapes: torch.Size, **_: object) -> int:
    return sdpa_backward_flop_count(*shapes[:4])  # of the gradient, the queries, the keys, the values


# PyTorch counts attention's products on a GPU alone.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flop,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward_flop,
}


def measure_memory(name: str, way: str, device: torch.device, dtype: torch.dtype) -> None:
    """What two steps add in this process to the networks, their gradients and AdamW's averages."""
    step = Step(find_case(name), device, dtype)
    before = memory_bytes(device, "VmRSS")
    for _ in range(2):
        step(step.published() if way == "published" else None, checkpointing=way == "recomputed")
    kept = 3 * sum(parameter.nbytes for parameter in step.trained)  # gradients, two averages
    added = memory_bytes(device, "VmHWM") - before
    weights = sum(parameter.nbytes for parameter in step.parameters())
    sizes = f"{weights / 1e9:.2f} GB of weights, {kept / 1e9:.2f} to train, {(added - kept) / 1e9:.2f} on the way"
    print(f"  {way:10} memory: {sizes}")


def memory_bytes(device: torch.device, mark: str) -> int:
    """`VmRSS` now, or `VmHWM` at most."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() if mark == "VmHWM" else torch.cuda.memory_allocated()
    # Linux's own marks: `getrusage` would also count what the process that started this one held.
    return int(re.search(mark + r":\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def find_largest(name: str, device: torch.device, dtype: torch.dtype, repeats: int, most: int) -> None:
    """Step time and memory of the three ways by batch size, up to the largest that fits, or `most`."""
    peak = 2e-12 * PRODUCT**3 / product_s(device, dtype)
    machine = torch.cuda.get_device_name() if device.type == "cuda" else device.type
    print(f"{name} on {machine}, {dtype}: a {PRODUCT}³ product runs at {peak:.2f} TFLOP/s")
    tflop = count_of_one(name, device, dtype)
    for way in ("recomputed", "ours", "published"):
        num = 1
        while num <= most and (found := time_batch(find_case(name, num), way, device, dtype, repeats)) is not None:
            step_s, num_bytes = found
            pace, rate = num * find_case(name).num_frames / step_s, num * tflop / step_s
            share = f", {rate:.2f} TFLOP/s, {rate / peak:.0%}" if tflop else ""
            print(f"  {way:10} batch {num}: {step_s:.3f} s, {pace:.1f} frames/s, {num_bytes / 1e9:.1f} GB{share}", flush=True)
            num += max(1, num // 2)
        if num <= most:
            print(f"  {way:10} batch {num}: too little memory", flush=True)


def count_of_one(name: str, device: torch.device, dtype: torch.dtype) -> float:
    """TFLOP of our step with one sample, the measure for all ways; 0 where even that does not fit without checkpointing."""
    try:
        step = Step(find_case(name, 1), device, dtype)
        return count_gflop(step.networks, step) / 1e3
    except torch.OutOfMemoryError:
        return 0.0


def time_batch(case: Case, way: str, device: torch.device, dtype: torch.dtype, repeats: int) -> tuple[float, int] | None:
    """Median seconds of a step and peak bytes; None where the memory does not suffice."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        step = Step(case, device, dtype)
        networks = step.published() if way == "published" else step.networks
        times = [seconds(lambda: step(networks, checkpointing=way == "recomputed"), device) for _ in range(2 + repeats)]
    except torch.OutOfMemoryError:
        return None
    return statistics.median(times[2:]), memory_bytes(device, "VmHWM")


def product_s(device: torch.device, dtype: torch.dtype) -> float:
    matrix = torch.ones(PRODUCT, PRODUCT, device=device, dtype=dtype)
    return min(seconds(lambda: matrix @ matrix, device) for _ in range(5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*", choices=("mini", "reduced", "full", []), default=[])
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, help="step time and memory by batch size, up to this one")
    parser.add_argument("--memory", choices=("ours", "recomputed", "published"), help="only the peak memory of one way")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = DTYPES[options.dtype]
    for name in options.cases or ("mini", "reduced", *(["full"] if device.type == "cuda" else [])):
        if options.memory:
            measure_memory(name, options.memory, device, dtype)
        elif name == "full" or options.batches:
            if name == "full" and device.type != "cuda":
                sys.exit("full needs a GPU: the published stage takes many minutes a step on a CPU")
            find_largest(name, device, dtype, options.repeats, options.batches or 1024)
        else:
            compare(name, device, dtype, options.repeats)
            for way in ("published", "ours", "recomputed"):
                again = [sys.executable, __file__, name, "--memory", way, "--dtype", options.dtype]
                subprocess.run([*again, "--threads", str(options.threads)], check=True)


if __name__ == "__main__":
    main()
