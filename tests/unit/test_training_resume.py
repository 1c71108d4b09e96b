"""A run that is killed for real goes on as if nothing had happened: alone, and spread over two processes."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training_runs import USUAL, losses, make_dataset, make_start, request, run_elsewhere, run_here, tiny_recipe


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("made")
    return make_dataset(folder), make_start(folder / "start")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, made) -> Path:
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_here(folder, *made, tiny_recipe())
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "denoising_network" / "diffusion_pytorch_model.safetensors")


def assert_same(one: Path, other: Path) -> None:
    assert losses(one) == losses(other)
    ours, theirs = weights(one), weights(other)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def assert_same_but_for_rounding(one: Path, other: Path) -> None:
    """Two processes compute what one does, but add up in another order; every step makes more of the difference."""
    for found, expected in zip(losses(one), losses(other), strict=True):
        is_early = found["step"] <= 2
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5 if is_early else 1e-2)
        assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4 if is_early else 1e-2)


@pytest.mark.parametrize("kill", [5, "saving"])
def test_a_killed_run_goes_on_with_the_same_losses(tmp_path, made, whole, kill):
    asked = request(tmp_path / "run", *made, tiny_recipe())
    assert run_elsewhere(asked, kill=kill) == [-signal.SIGKILL]
    assert not (tmp_path / "run" / "model_index.json").exists()
    run_here(tmp_path / "run", *made, None, is_resumed=True)
    assert_same(tmp_path / "run", whole)
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("spread", ["ddp", "fsdp"])
def test_two_processes_that_are_killed_go_on_with_the_same_losses(tmp_path, made, whole, spread):
    asked = request(tmp_path / "whole", *made, tiny_recipe(), spread=spread)
    assert run_elsewhere(asked, count=2) == [0, 0]
    asked = request(tmp_path / "cut", *made, tiny_recipe(), spread=spread)
    assert run_elsewhere(asked, count=2, kill=5)[0] == -signal.SIGKILL
    shutil.copytree(tmp_path / "cut", tmp_path / "alone")
    asked = request(tmp_path / "cut", *made, None, spread=spread, is_resumed=True)
    assert run_elsewhere(asked, count=2) == [0, 0]
    assert_same(tmp_path / "cut", tmp_path / "whole")
    assert_same_but_for_rounding(tmp_path / "whole", whole)
    # What two processes saved, one goes on with: shards are put together again.
    run_here(tmp_path / "alone", *made, None, is_resumed=True)
    assert_same_but_for_rounding(tmp_path / "alone", whole)


def test_torchrun_starts_it(tmp_path, made, whole):
    data, start = made
    recipe = ["--recipe", "smoke", "--set", *USUAL]
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "joyhallo", "train", "stage2"]
    place = ["--data", str(data), "-o", str(tmp_path / "run"), "--init", str(start), "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, *command, *place, *recipe],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [line["loss"] for line in losses(tmp_path / "run")] == pytest.approx([x["loss"] for x in losses(whole)], rel=1e-4)
    assert done.stdout.count("steps done") == 1  # the first process speaks for both
