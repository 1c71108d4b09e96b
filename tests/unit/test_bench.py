"""`joyhallo bench`, and the file of ratios that guards the speed on a CPU."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from joyhallo import presets
from joyhallo.cli import bench_clip, bench_networks, main
from joyhallo.cli.bench import describe

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import table3_cpu  # noqa: E402

SMALL = ("--size", "64x128", "--frames", "3", "--steps", "4", "--device", "cpu", "--dtype", "fp32")


@pytest.fixture(autouse=True)
def small_product(monkeypatch):
    monkeypatch.setattr(bench_clip, "PRODUCT_SIDE", 256)


def test_one_model_is_measured_part_by_part(capsys):
    assert main(["bench", "--model", "mini", *SMALL, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (cost,) = found["models"]
    assert (cost["frames"], cost["height"], cost["width"], cost["num_steps"]) == (3, 64, 128, 4)
    assert (cost["weights"], found["is_reduced"]) == ("loaded", False)
    assert cost["num_measured_steps"] == 4
    assert set(cost["parts_s"]) == {
        "past frames encoded", "reference network", "speech, place", "shared by the steps", "frames decoded"
    }  # fmt: skip
    assert min(cost["parts_s"].values()) > 0
    assert (cost["guidance_end"], cost["num_guided_steps"]) == (0.0, 0)
    assert cost["clip_s"] == pytest.approx(sum(cost["parts_s"].values()) + 4 * cost["plain_step_s"])
    assert cost["plain_step_s"] > 0
    assert set(cost["step_parts_gflop"]) == set(bench_clip.KINDS)
    assert min(cost["step_parts_gflop"].values()) > 0
    assert cost["share_of_peak"] == pytest.approx(cost["step_gflop"] / cost["step_s"] / cost["product_gflop_per_s"])
    assert cost["memory_gb"] > cost["weights_gb"] > 0.05


def drawn_cost(preset: presets.Preset, **sampling) -> bench_clip.ClipCost:
    """Of networks with the preset's options at sizes that fit into a test."""
    narrow = {"widths": (32, 64), "attention_levels": (True, True), "layers_per_level": 1, "num_groups": 8}
    small = presets.Preset(
        preset.reference_network | narrow,
        preset.denoising_network | narrow,
        preset.face_projector,
        preset.audio_projector,
        {"out_channels": 32},
        presets.Sampling(height=64, width=64, clip_length=2, num_steps=3, **sampling),
    )
    networks = bench_networks.draw_networks(small, torch.device("cpu"), torch.float32)
    assert all(torch.isfinite(p).all() for p in networks["denoising_network"].parameters())
    return bench_clip.measure(networks, small.sampling, "drawn", "random")


def test_joyhallo_beside_hallo_with_random_weights(monkeypatch):
    monkeypatch.setitem(bench_networks._VAE, "block_out_channels", (32, 32, 32, 32))
    ours, hallo = (drawn_cost(preset()) for preset in (presets.joyhallo, presets.hallo))
    gflop = ours.step_parts_gflop, hallo.step_parts_gflop
    for kind in bench_clip.KINDS:
        if kind == "audio attention":
            assert gflop[0][kind] < gflop[1][kind]  # what semi-decoupled attention saves
        else:
            assert gflop[0][kind] == pytest.approx(gflop[1][kind])
    text = describe({"device": "cpu, fp32", "is_reduced": True, "models": [vars(ours), vars(hallo) | {"model": "hallo"}]})
    for words in ("random weights, on which time and memory do not depend", "--size 512x512 --frames 16", "hallo / drawn",
                  "share of the peak, %", "memory at most, GB", "  audio attention, ms", "3 of 3 steps measured"):  # fmt: skip
        assert words in text, words
    row = next(line for line in text.splitlines() if line.startswith("weights, GB"))
    assert float(row.split()[-1]) == pytest.approx(hallo.weights_gb / ours.weights_gb, abs=0.006)


def test_the_arithmetic_of_the_kinds_is_that_of_the_whole_step():
    network = torch.nn.Module()
    layers = [torch.nn.Linear(8, 8) for _ in range(4)]
    site = torch.nn.Module()
    site.spatial, site.audio, site.motion = layers[:3]
    network.plan = [(0, site)]
    x = torch.randn(10, 8)

    def step() -> None:
        for layer, times in zip(layers, (1, 2, 3, 4), strict=True):
            for _ in range(times):
                layer(x)

    found = bench_clip._count(network, step)
    one = 2 * 10 * 8 * 8 / 1e9
    assert list(found) == list(bench_clip.KINDS)
    assert list(found.values()) == pytest.approx([one, 2 * one, 3 * one, 4 * one])
    with FlopCounterMode(display=False) as counter:
        step()
    assert sum(found.values()) == pytest.approx(counter.get_total_flops() / 1e9)


def test_steps_beyond_the_time_are_not_measured(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr(bench_clip, "_STEPS_S", 5)
    assert bench_clip._steps(lambda: None, 40, lambda: float(next(now))) == [1.0] * 5
    monkeypatch.setattr(bench_clip, "_STEPS_S", 0)
    assert len(bench_clip._steps(lambda: None, 40, lambda: float(next(now)))) == 3
    assert len(bench_clip._steps(lambda: None, 2, lambda: float(next(now)))) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size", "512"], "'512' is no size"),
        (["--size", "0x64"], "'0x64' is no size"),
        (["--model", "mini", "--size", "70x64"], "not divisible by"),
        (["--frames", "0"], "--frames 0 is too few"),
        (["--steps", "-1"], "--steps -1 is too few"),
        (["--device", "gpu"], "device 'gpu' is not known"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, words):
    assert main(["bench", "--device", "cpu", *arguments] if "--device" not in arguments else ["bench", *arguments]) == 2
    line = capsys.readouterr().err.strip()
    assert words in line
    assert "\n" not in line


def test_several_models_are_measured_in_processes_of_their_own(capfd):
    assert main(["bench", "--model", "nowhere", "mini", *SMALL]) == 2
    said = capfd.readouterr().err
    assert "measuring nowhere" in said
    assert "'nowhere'" in said
    assert "Traceback" not in said


def test_a_ratio_that_got_worse_is_named():
    kept = {"time": {"ratio": 0.8, "tolerance": 0.1}, "count": {"ratio": 0.86, "tolerance": 0.005}}
    assert table3_cpu.worse({"time": 0.87, "count": 0.863}, kept) == []
    assert table3_cpu.worse({"time": 0.1, "count": 0.1}, kept) == []
    assert table3_cpu.worse({"time": 0.89, "count": 0.87}, kept) == ["time", "count"]
    assert table3_cpu.worse({"time": float("nan"), "new": 1.0}, kept) == ["time", "new"]
    assert table3_cpu.ratio([1.0, 4.0, 3.0], [1.0, 2.0, 3.0]) == 1.0


def test_the_kept_ratios_are_whole_and_the_arithmetic_is_as_kept():
    kept = json.loads(table3_cpu.KEPT.read_text(encoding="utf-8"))
    assert set(kept) == set(table3_cpu.TOLERANCES)
    assert {name: entry["tolerance"] for name, entry in kept.items()} == table3_cpu.TOLERANCES
    published, ours = table3_cpu.count_gflop("joyhallo", table3_cpu.NUM_FRAMES, table3_cpu.SIDE)
    _, of_hallo = table3_cpu.count_gflop("hallo", table3_cpu.NUM_FRAMES, table3_cpu.SIDE)
    found = {"arithmetic: ours / published way": ours / published, "arithmetic: JoyHallo / Hallo": ours / of_hallo}
    assert table3_cpu.worse(found, kept) == []
