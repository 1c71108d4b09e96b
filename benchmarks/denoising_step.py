"""One denoising step at Stable Diffusion 1.5's widths, ours against the published way, in alternation.

    python benchmarks/denoising_step.py [--dtype fp32|bf16] [--variant joyhallo|hallo] [--repeats 4] [--threads 2]

128×128 pixels (16×16 latents), 8 frames, guidance, random weights. Prints seconds, arithmetic rate, the rate of a 4096³
product in the same minutes, and (in a process of its own, without the published way) the peak memory of our steps.
"""

import argparse
import copy
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from joyhallo import presets
from joyhallo.device import DTYPES
from joyhallo.models.conditions import ClipInputs, ReferenceFeatures, RegionMasks
from joyhallo.models.kernels import choose_linear_kernel
from joyhallo.models.unet import DenoisingNetwork
from joyhallo.sampling.guidance import PUBLISHED_DROPS, with_unconditional
from published import published_velocity

NUM_FRAMES, NUM_PAST, SIDE = 8, 2, 16
TIMESTEP = torch.tensor([601])


@torch.no_grad()
def draw_network(variant: str, dtype: torch.dtype, device: str = "cpu") -> DenoisingNetwork:
    """A network whose weights are slices of one block of noise: filling 1.4 billion of them one by one would take longer."""
    with torch.device("meta"):
        network = DenoisingNetwork(**getattr(presets, variant)().denoising_network).requires_grad_(False)
    nn.Module.to(network, dtype, memory_format=torch.channels_last)
    if device == "meta":
        return network
    network.to_empty(device=device)
    noise = torch.rand(1 << 20, generator=torch.Generator().manual_seed(0)).sub_(0.5).to(dtype)
    for tensor in (*network.parameters(), *network.buffers()):
        flat = tensor.as_strided((tensor.numel(),), (1,))
        for start in range(0, len(flat), len(noise)):
            part = flat[start : start + len(noise)]
            part.copy_(noise[: len(part)])
        tensor.mul_(3.4 * (tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.1))
    return network


def with_plain_convolutions(network: DenoisingNetwork) -> DenoisingNetwork:
    """The same network with its convolutions' weights as the published code keeps them; all others are shared."""
    shared = {id(parameter): parameter for parameter in network.parameters() if parameter.ndim < 4}
    return nn.Module.to(copy.deepcopy(network, shared), memory_format=torch.contiguous_format)


def draw_clip(
    network: DenoisingNetwork, dtype: torch.dtype, device: str = "cpu", num_frames: int = NUM_FRAMES, side: int = SIDE
) -> ClipInputs:
    """Random conditions of a guided clip, the features of both halves."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype, device=device)

    sides = [-(-side // 2**depth) for depth in range(len(network.config["widths"]))]
    features = [draw(2, 1 + NUM_PAST, sides[depth] ** 2, site.spatial.proj_in.out_features) for depth, site in network.plan]
    masks = RegionMasks(*(tuple(draw(1, 1, s, s).sigmoid() for s in sides) for _ in range(3)))
    audio, location = draw(1, num_frames, 32, 768), draw(1, network.config["widths"][0], side, side)
    clip = ClipInputs(ReferenceFeatures(tuple(features)), draw(1, 4, 768), audio, location, masks)
    return with_unconditional(clip, PUBLISHED_DROPS, draw(1, 4, 768))


@torch.no_grad()
def count_gflop(variant: str, num_frames: int, side: int) -> tuple[float, float]:
    """Products and sums of one step, published and ours, in GFLOP."""
    network = draw_network(variant, torch.float32, "meta")
    clip = draw_clip(network, torch.float32, "meta", num_frames, side)
    latents, timestep = torch.empty(2, 4, num_frames, side, side, device="meta"), TIMESTEP.to("meta")
    conditioning = network.condition(clip)
    counts = []
    for run in (lambda: published_velocity(network, latents, timestep, clip), lambda: network(latents, timestep, conditioning)):
        with FlopCounterMode(display=False) as counter:
            run()
        counts.append(counter.get_total_flops() / 1e9)
    return counts[0], counts[1]


def seconds(run: Callable[[], object]) -> float:
    """Wall time; with one thread the CPU's time, which other programs on the machine disturb less."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    before = clock()
    run()
    return clock() - before


def describe(name: str, times: list[float], gflop: float, peak: float) -> None:
    rate = gflop / min(times)
    print(
        f"{name:10} min {min(times):.2f} s, median {statistics.median(times):.2f} s; {gflop:.0f} GFLOP at {rate:.0f} GFLOP/s, "
        f"{rate / peak:.0%} of the product's rate",
        flush=True,
    )


@torch.inference_mode()
def compare(variant: str, dtype: torch.dtype, repeats: int, gflop: tuple[float, float]) -> None:
    network = draw_network(variant, dtype)
    clip, latents = draw_clip(network, dtype), torch.randn(2, 4, NUM_FRAMES, SIDE, SIDE, dtype=dtype)
    conditioning, plain = network.condition(clip), with_plain_convolutions(network)
    matrix = torch.ones(4096, 4096, dtype=dtype)
    runs = {
        "product": lambda: matrix @ matrix,
        "published": lambda: published_velocity(plain, latents, TIMESTEP, clip),
        "ours": lambda: network(latents, TIMESTEP, conditioning),
    }
    results = {name: run() for name, run in runs.items()}  # the first call sets up kernels and memory
    expected = results["published"].float()
    difference = (results["ours"].float() - expected).abs().max() / expected.abs().max()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(seconds(run))
        print("          ", ", ".join(f"{name} {taken[-1]:.2f} s" for name, taken in times.items()), flush=True)
    peak = 2 * 4096**3 / 1e9 / min(times["product"])
    print(f"4096³      {peak:.0f} GFLOP/s")
    describe("published", times["published"], gflop[0], peak)
    describe("ours", times["ours"], gflop[1], peak)
    ratio = statistics.median(o / p for o, p in zip(times["ours"], times["published"], strict=True))
    print(f"ratio      {ratio:.2f} (median of pairs); largest difference {difference:.1e} of the largest value")


@torch.inference_mode()
def measure_memory(variant: str, dtype: torch.dtype) -> None:
    network = draw_network(variant, dtype)
    clip, latents = draw_clip(network, dtype), torch.randn(2, 4, NUM_FRAMES, SIDE, SIDE, dtype=dtype)
    conditioning = network.condition(clip)
    for _ in range(2):
        network(latents, TIMESTEP, conditioning)
    # Linux's own mark: `getrusage` would also count what the process that started this one held.
    peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    weights = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
    print(f"memory     peak {peak / 1e9:.2f} GB, {peak / weights:.2f} of the weights' {weights / 1e9:.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--variant", choices=("joyhallo", "hallo"), default="joyhallo")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--linear", choices=("auto", "mkl", "onednn"), default="auto")
    parser.add_argument("--memory", action="store_true", help="only the peak memory of our steps")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    kernel = choose_linear_kernel(options.linear)
    dtype = DTYPES[options.dtype]
    if options.memory:
        measure_memory(options.variant, dtype)
        return
    print(f"{options.variant}, {options.dtype}, {options.threads} threads; linear layers by {kernel.name}: {kernel.reason}")
    compare(options.variant, dtype, options.repeats, count_gflop(options.variant, NUM_FRAMES, SIDE))
    again = [sys.executable, str(Path(__file__)), "--memory", "--dtype", options.dtype, "--variant", options.variant]
    subprocess.run([*again, "--threads", str(options.threads), "--linear", kernel.name], check=True, env=os.environ)


if __name__ == "__main__":
    main()
