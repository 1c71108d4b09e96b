"""Whole runs on tiny networks: what the folder holds, what is refused, how a run is stopped, adapters, validation."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from joyhallo.cli import main
from joyhallo.errors import UserError
from joyhallo.pipeline import JoyHalloPipeline
from joyhallo.training.adapters import Adapters
from joyhallo.training.overrides import with_changes
from joyhallo.training.recipes import find_recipe
from joyhallo.training.request import training_dtype
from joyhallo.training.run import train
from joyhallo.training.state import checkpoints
from tiny import drawn_pipeline, drawn_portrait, drawn_speech
from training_runs import SIZE_PX, losses, make_dataset, make_start, request, run_here, tiny_recipe

SHORT = ("schedule.num_steps=2", "saving.every_steps=2")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    return make_dataset(folder), make_start(folder / "start")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, made):
    """A stage 1 and the stage 2 that starts from it."""
    folder, data = tmp_path_factory.mktemp("finished"), made[0]
    run_here(folder / "one", *made, tiny_recipe("stage1"))
    run_here(folder / "two", data, folder / "one", tiny_recipe("stage2", "saving.dtype=fp16"))
    return folder


def video(folder, **options: object) -> np.ndarray:
    pipe = JoyHalloPipeline.from_pretrained(folder)
    return pipe(drawn_portrait((SIZE_PX, SIZE_PX)), drawn_speech(6), num_steps=2, **options).frames


def test_the_folder_is_a_pipeline(finished, made):
    for name in ("one", "two"):
        assert video(finished / name).shape == (6, SIZE_PX, SIZE_PX, 3)
    assert not np.array_equal(video(finished / "one"), video(made[1]))
    tensors = load_file(finished / "two" / "denoising_network" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    listed = {path.name for path in (finished / "two" / "training").iterdir()}
    assert {"recipe.json", "losses.jsonl", "checkpoints", "speech"} <= listed
    assert [line["step"] for line in losses(finished / "two")] == [1, 2, 3, 4, 5, 6]
    assert len(checkpoints(finished / "two" / "training" / "checkpoints")) == 2
    assert json.loads((finished / "two" / "training" / "recipe.json").read_text())["start"]["init"].endswith("one")


def test_averaged_weights_are_handed_out(tmp_path, made):
    run_here(tmp_path / "averaged", *made, tiny_recipe("stage2", *SHORT))
    run_here(tmp_path / "plain", *made, tiny_recipe("stage2", *SHORT, "schedule.ema_decay=0"))
    assert losses(tmp_path / "averaged") == losses(tmp_path / "plain")
    assert not np.array_equal(video(tmp_path / "averaged"), video(tmp_path / "plain"))


def test_a_run_goes_on_only_as_it_was_begun(finished, made, tmp_path):
    data, start = made
    run = finished / "one"
    with pytest.raises(UserError, match=r"schedule.num_steps is 9 here and was 6"):
        run_here(run, data, start, tiny_recipe("stage1", "schedule.num_steps=9"), is_resumed=True)
    with pytest.raises(UserError, match="init is mini here"):
        run_here(run, data, "mini", None, is_resumed=True)
    other = make_dataset(tmp_path / "other", 3)
    with pytest.raises(UserError, match="data is"):
        run_here(run, other, start, None, is_resumed=True)
    with pytest.raises(UserError, match="go on with --resume"):
        run_here(run, data, start, tiny_recipe("stage1"))
    with pytest.raises(UserError, match="no run to go on with"):
        run_here(tmp_path / "nothing", data, start, None, is_resumed=True)
    with pytest.raises(UserError, match="is not empty"):
        run_here(data, data, start, tiny_recipe("stage1"))


def test_what_does_not_fit_is_one_line(made, tmp_path):
    data, start = made
    with pytest.raises(UserError, match="pictures of 32 px, the networks take 256 px"):
        run_here(tmp_path / "a", data, "mini", tiny_recipe("stage1"))
    with pytest.raises(UserError, match="does not start from nothing"):
        train(request(tmp_path / "b", data, "", find_recipe("published", "stage1")), print)
    with pytest.raises(UserError, match="fp16 overflows"):
        training_dtype("fp16", torch.device("cpu"))
    with pytest.raises(UserError, match="trains no parameter"):
        run_here(tmp_path / "c", data, start, tiny_recipe("stage1", "trained=nothing"))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_saves_and_goes_on_later(tmp_path, made, finished, number):
    asked = request(tmp_path / "run", *made, tiny_recipe("stage1"))

    def show(report) -> None:
        if report.step == 2:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    outcome = train(asked, show)
    assert signal.getsignal(number) is before
    assert (outcome.step, outcome.is_finished) == (3, False)
    assert video(tmp_path / "run").shape[0] == 6  # what there is can be used
    run_here(tmp_path / "run", *made, None, is_resumed=True)
    assert losses(tmp_path / "run") == losses(finished / "one")


def test_adapters_are_all_that_trains(tmp_path, made):
    recipe = tiny_recipe("stage2", *SHORT, "schedule.learning_rate=0.05")
    run_here(tmp_path / "run", *made, recipe, adapters=Adapters(rank=2))
    before = load_file(made[1] / "denoising_network" / "diffusion_pytorch_model.safetensors")
    after = load_file(tmp_path / "run" / "denoising_network" / "diffusion_pytorch_model.safetensors")
    changed = {name for name in before if not torch.allclose(before[name].float(), after[name].float(), atol=2e-3)}
    assert changed
    assert all(".to_" in name for name in changed)
    # The file on the weights that the run started from is the pipeline in its folder.
    pipe = JoyHalloPipeline.from_pretrained(made[1])
    pipe.load_lora(tmp_path / "run" / "lora.safetensors")
    merged = pipe.denoising_network.state_dict()
    assert all(torch.allclose(merged[name], after[name].float(), atol=2e-3) for name in merged)
    assert run_here(tmp_path / "run", *made, None, is_resumed=True).is_finished  # the run knows its adapters
    with pytest.raises(UserError, match="adapters is"):
        run_here(tmp_path / "run", *made, None, is_resumed=True, adapters=Adapters(rank=3))


def test_other_encoders_take_their_place(tmp_path, made):
    encoders = tmp_path / "encoders"
    drawn_pipeline().vae.save_pretrained(encoders / "vae")
    other = load_file(encoders / "vae" / "diffusion_pytorch_model.safetensors")
    save_file({name: 0.5 * tensor for name, tensor in other.items()}, encoders / "vae" / "diffusion_pytorch_model.safetensors")
    run_here(tmp_path / "run", *made, tiny_recipe("stage2", *SHORT), encoders=encoders)
    kept = load_file(tmp_path / "run" / "vae" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(kept[name], 0.5 * other[name]) for name in other)
    with pytest.raises(UserError, match="holds no encoders"):
        run_here(tmp_path / "not", *made, tiny_recipe("stage2"), encoders=tmp_path)


def test_the_published_recipes_run(tmp_path, made):
    """At their smallest: coins of a batch, grey starts, the published reduction, checkpointing, no average."""
    small = ("schedule.num_steps=3", "drawing.num_samples=2", "drawing.num_at_once=2", "saving.validate_every_steps=0")
    more = ("objective.portrait_dropout=0.5", "objective.start_dropout=0.5")
    first = with_changes(find_recipe("published", "stage1"), (*small, *more))
    run_here(tmp_path / "one", *made, first)
    second = with_changes(find_recipe("published", "stage2"), (*small, *more, "drawing.num_frames=4"))
    run_here(tmp_path / "two", made[0], tmp_path / "one", second)
    assert all(np.isfinite(line["loss"]) for line in losses(tmp_path / "two"))
    assert json.loads((tmp_path / "two" / "training" / "recipe.json").read_text())["recipe"]["schedule"]["optimizer"] == "adamw"


def test_half_precision_computes_about_the_same(tmp_path, made, finished):
    run_here(tmp_path / "run", *made, tiny_recipe("stage1"), dtype="bf16")
    found, expected = ([line["loss"] for line in losses(folder)] for folder in (tmp_path / "run", finished / "one"))
    assert found != expected
    assert found == pytest.approx(expected, rel=0.05)


def test_it_is_validated_on_what_is_held_out(tmp_path, made):
    recipe = tiny_recipe("stage2", *SHORT, "saving.validate_every_steps=2")
    run_here(tmp_path / "seen", *made, recipe)
    run_here(tmp_path / "not", *made, tiny_recipe("stage2", *SHORT))
    assert losses(tmp_path / "seen") == losses(tmp_path / "not")  # looking changes nothing
    (line,) = (tmp_path / "seen" / "training" / "validation.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 2
    assert json.loads(line)["loss"] > 0
    (film,) = (tmp_path / "seen" / "training" / "validation").glob("*.mp4")
    assert "clip_3" in film.name


def test_the_command(tmp_path, made, capsys):
    data, start = made
    command = ["train", "stage2", "--data", str(data), "-o", str(tmp_path / "run"), "--device", "cpu"]
    smoke = ["--recipe", "smoke", "--init", str(start), "--set", *SHORT, "trained=audio_projector."]
    assert main([*command, *smoke]) == 0
    said = capsys.readouterr()
    assert "2 steps done" in said.out
    assert "step 2/2: loss" in said.err
    assert main([*command, "--resume"]) == 0  # nothing is left to do
    assert main([*command, *smoke, "objective.noize_offset=1"]) == 2
    assert "objective.noise_offset" in capsys.readouterr().err
    assert main(["train", "stage1", *command[2:], "--resume"]) == 2
    assert "is of stage2, not stage1" in capsys.readouterr().err
