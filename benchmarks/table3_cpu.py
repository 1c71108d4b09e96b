"""The paper's Table 3 on a CPU as ratios, kept in table3_cpu.json: measures them again and fails when one got worse.

    python benchmarks/table3_cpu.py                # exit code 1 when a ratio is worse by more than its tolerance
    python benchmarks/table3_cpu.py --write        # keeps what is measured, with the tolerances as they are

One denoising step at Stable Diffusion 1.5's widths, 64×64 pixels, 8 frames, guidance, random weights, fp32, one thread: a
minute of computing. The clock is the CPU's, which other programs disturb little; what is compared alternates, and the median of
the pairs counts. All ratios are better when smaller. Needs 9 GB of memory.
"""

import argparse
import json
import re
import statistics
import sys
from pathlib import Path

import torch
from torch import nn

from denoising_step import TIMESTEP, count_gflop, draw_clip, draw_network, seconds, with_plain_convolutions
from joyhallo.models.kernels import choose_linear_kernel
from joyhallo.models.unet import DenoisingNetwork
from published import published_velocity

NUM_FRAMES, SIDE = 8, 8  # of latents
KEPT = Path(__file__).with_suffix(".json")
TIME, COUNT, MEMORY = 0.1, 0.005, 0.03  # tolerances: clocks of shared machines wander, arithmetic does not
TOLERANCES = {
    "step: ours / published way": TIME,
    "step: ours / the time its arithmetic takes in a 4096³ product": TIME,
    "step: JoyHallo / Hallo": TIME,
    "arithmetic: ours / published way": COUNT,
    "arithmetic: JoyHallo / Hallo": COUNT,
    "memory at most / weights": MEMORY,
}


def draw_hallo(joyhallo: DenoisingNetwork) -> DenoisingNetwork:
    """Hallo's network on JoyHallo's weights wherever the two are alike, so that memory holds little more than one of them."""
    hallo = draw_network("hallo", torch.float32, "meta")
    shared = dict(joyhallo.named_parameters()) | dict(joyhallo.named_buffers())
    for name, tensor in [*hallo.named_parameters(), *hallo.named_buffers()]:
        owner, _, leaf = name.rpartition(".")
        given = shared.get(name)
        if given is None or given.shape != tensor.shape:
            given = nn.Parameter(torch.randn(tensor.shape).mul_(tensor[0].numel() ** -0.5), requires_grad=False)
        setattr(hallo.get_submodule(owner), leaf, given)
    return hallo


@torch.inference_mode()
def measure_clocks_and_memory(repeats: int, gflop: float) -> dict[str, float]:
    """The ratios of CPU time, and of memory: the latter first, before anything else than our network is there."""
    network = draw_network("joyhallo", torch.float32)
    clip = draw_clip(network, torch.float32, num_frames=NUM_FRAMES, side=SIDE)
    latents, conditioning = torch.randn(2, 4, NUM_FRAMES, SIDE, SIDE), network.condition(clip)
    for _ in range(2):
        network(latents, TIMESTEP, conditioning)
    memory = peak_bytes() / sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
    hallo, plain = draw_hallo(network), with_plain_convolutions(network)
    conditioning_of_hallo = hallo.condition(clip)
    matrix = torch.randn(4096, 4096)
    runs = {
        "product": lambda: matrix @ matrix,
        "published": lambda: published_velocity(plain, latents, TIMESTEP, clip),
        "ours": lambda: network(latents, TIMESTEP, conditioning),
        "hallo": lambda: hallo(latents, TIMESTEP, conditioning_of_hallo),
    }
    for run in runs.values():
        run()  # sets up kernels and memory
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(seconds(run))
        print(", ".join(f"{name} {taken[-1]:.2f} s" for name, taken in times.items()), file=sys.stderr, flush=True)
    least_s = [gflop / (2 * 4096**3 / 1e9) * product for product in times["product"]]
    return {
        "step: ours / published way": ratio(times["ours"], times["published"]),
        "step: ours / the time its arithmetic takes in a 4096³ product": ratio(times["ours"], least_s),
        "step: JoyHallo / Hallo": ratio(times["ours"], times["hallo"]),
        "memory at most / weights": memory,
    }


def ratio(these: list[float], those: list[float]) -> float:
    """The median over pairs."""
    return statistics.median(one / other for one, other in zip(these, those, strict=True))


def peak_bytes() -> int:
    """What this process held at most. `getrusage` would also count what the process that started it held."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def measure(repeats: int) -> dict[str, float]:
    """All ratios of `TOLERANCES`."""
    published, ours = count_gflop("joyhallo", NUM_FRAMES, SIDE)
    _, of_hallo = count_gflop("hallo", NUM_FRAMES, SIDE)
    found = {
        **measure_clocks_and_memory(repeats, ours),
        "arithmetic: ours / published way": ours / published,
        "arithmetic: JoyHallo / Hallo": ours / of_hallo,
    }
    return {name: round(found[name], 4) for name in TOLERANCES}


def worse(found: dict[str, float], kept: dict[str, dict[str, float]]) -> list[str]:
    """The names of ratios that exceed the kept ones by more than their tolerance, or that were not kept."""
    return [name for name, value in found.items() if name not in kept or not value <= limit(kept[name])]


def limit(kept: dict[str, float]) -> float:
    """The largest ratio that still passes."""
    return kept["ratio"] * (1 + kept["tolerance"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="keep what is measured")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    choose_linear_kernel("mkl")
    found = measure(options.repeats)
    if options.write:
        kept = {name: {"ratio": value, "tolerance": TOLERANCES[name]} for name, value in found.items()}
        KEPT.write_text(json.dumps(kept, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    failed = worse(found, kept)
    for name, value in found.items():
        known = kept.get(name)
        against = "not kept yet: --write" if known is None else f"kept {known['ratio']:.3f}, at most {limit(known):.3f}"
        print(f"{'WORSE' if name in failed else 'ok':>5}  {name}: {value:.3f} ({against})")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
