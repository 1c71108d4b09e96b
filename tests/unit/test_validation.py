"""Validation on held-out clips alone, the same every time; a run goes on as if it had not been. The board of curves."""

import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from joyhallo.data.dataset import Dataset
from joyhallo.data.picking import Drawing, Picker
from joyhallo.errors import UserError
from joyhallo.media.labels import read_label
from joyhallo.media.video import probe_video
from joyhallo.training.board import Board, open_board
from joyhallo.training.validation import (
    Showing,
    Validator,
    choose,
    exchanged,
    held_out_loss,
    held_out_only,
    measure,
)
from made_data import made_facts
from tiny import drawn_pipeline, normal
from training_runs import make_dataset

SHOWING = Showing(num_samples=1, num_clips=2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    return Dataset(make_dataset(tmp_path_factory.mktemp("made")))


@pytest.fixture(scope="module")
def pipe():
    return drawn_pipeline()


@pytest.fixture(scope="module")
def first(pipe, dataset, tmp_path_factory):
    return Validator(pipe, dataset, SHOWING).run(5, tmp_path_factory.mktemp("first"))


def test_videos_are_of_held_out_clips_and_labelled(first):
    assert [path.name for path in first.videos] == ["step_00000005_clip_3.mp4"]
    assert read_label(first.videos[0]).label == "1"
    assert probe_video(first.videos[0]).num_frames == 8  # two clips of four


def test_the_sheet_shows_made_above_true_frames(first, dataset):
    assert first.sheet.shape == (2 * 128, 7 * 128, 3)
    number = [facts.key for facts in dataset.facts].index("clip_3")
    true = dataset.frames(number, [7])[0].astype(float)
    tile = first.sheet[128:, -128:].astype(float)
    assert np.abs(tile.mean((0, 1)) - true.mean((0, 1))).max() < 3
    assert not first.sheet[128:, :128].any()


def test_measures_are_finite_and_right_for_true_frames(first, pipe, dataset):
    assert set(first.measures) == {"latent_error", "lip_error", "lip_motion", "identity"}
    assert all(np.isfinite(value) for value in first.measures.values())
    clip = Validator(pipe, dataset, SHOWING).clips[0]
    perfect = measure(pipe, clip.portrait, clip.frames, clip.frames)
    assert perfect["latent_error"] == perfect["lip_error"] == 0
    assert perfect["lip_motion"] == 1
    still = measure(pipe, clip.portrait, np.repeat(clip.frames[:1], len(clip.frames), 0), clip.frames)
    assert still["lip_motion"] == 0
    assert still["latent_error"] > 0


def test_the_same_weights_show_the_same_and_others_do_not(pipe, dataset, tmp_path):
    first, again = (
        Validator(one, dataset, SHOWING).run(5, tmp_path / f"{i}") for i, one in enumerate((pipe, drawn_pipeline()))
    )
    # The sheet and not the videos: x264 reads memory that nobody wrote when frames are as small as these, 32 pixels.
    assert (again.sheet == first.sheet).all()
    assert again.measures == first.measures
    weights = dict(pipe.denoising_network.named_parameters())
    others = {name: normal(i, *p.shape) for i, (name, p) in enumerate(weights.items())}
    with exchanged(weights, others):
        other = Validator(pipe, dataset, SHOWING).run(6, tmp_path)
    assert (other.sheet != first.sheet).any()
    assert other.measures != first.measures


def test_a_run_goes_on_as_if_it_had_not_been(dataset, tmp_path):
    pipe = drawn_pipeline()
    network = pipe.denoising_network.requires_grad_(True)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    own = {name: parameter.data_ptr() for name, parameter in network.named_parameters()}
    random, numpy_random = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    averages = {name: torch.zeros_like(parameter) for name, parameter in network.named_parameters()}
    with exchanged(dict(network.named_parameters()), averages):
        assert not any(parameter.any() for parameter in network.parameters())
        Validator(pipe, dataset, Showing(1, 1)).run(1, tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert own == {name: parameter.data_ptr() for name, parameter in network.named_parameters()}
    assert all(parameter.requires_grad and torch.all(parameter.grad == 1) for parameter in network.parameters())
    assert torch.equal(torch.random.get_rng_state(), random)
    assert (np.random.get_state()[1] == numpy_random).all()


def test_own_values_come_back_after_an_error():
    parameter = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(KeyboardInterrupt), exchanged({"a": parameter}, {"a": torch.zeros(2)}):
        raise KeyboardInterrupt
    assert torch.equal(parameter, torch.ones(2))


def test_clips_are_chosen_by_their_speakers_and_the_same_in_any_order():
    facts = [
        made_facts(f"clip_{n}", speaker=f"speaker_{n % 3}", is_held_out=n % 2 == 0, num_frames=5 if n < 6 else 30)
        for n in range(18)
    ]
    chosen = choose(facts, 3, 16)
    assert all(facts[i].is_held_out and facts[i].num_frames >= 16 for i in chosen)
    assert len({facts[i].speaker for i in chosen}) == 3
    shuffled = facts[::-1]
    assert {shuffled[i].key for i in choose(shuffled, 3, 16)} == {facts[i].key for i in chosen}
    assert len(choose(facts, 99, 16)) == 9  # the short ones too, when there are no others
    with pytest.raises(UserError, match=r"none of the 18 samples is held out.*held-out-share"):
        choose([replace(fact, is_held_out=False) for fact in facts], 3, 16)


def test_the_loss_on_held_out_samples_is_the_mean_over_them(dataset):
    picker = Picker(held_out_only(dataset.facts), Drawing(1, 1, 2, 2), seed=3)
    assert [dataset.facts[i].key for i in picker.usable] == ["clip_3"]
    losses = [
        held_out_loss(lambda numbers: numbers, lambda n: torch.tensor(n).float() ** 2, 5, at_once) for at_once in (1, 2, 5)
    ]
    assert losses == [6.0, 6.0, 6.0]


def events(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    return found.Reload()


def test_curves_and_pictures_are_there_and_a_resumed_run_hides_what_it_makes_again(tmp_path):
    pytest.importorskip("tensorboard")
    with Board(tmp_path) as board:
        for step in range(1, 6):
            board.scalars(step, {"loss": float(step), "broken": float("nan")})
        board.picture(5, "validation", np.full((8, 12, 3), 200, np.uint8))
        board.text("recipe", "lr 1")
    time.sleep(1.1)  # files are read in the order of their names, which begin with the second they were made in
    with Board(tmp_path, after_step=3) as board:
        board.scalars(4, {"loss": 40.0})
    found = events(tmp_path)
    assert found.Tags()["scalars"] == ["loss"]
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]
    picture = events(tmp_path).Tags()["images"]
    assert picture in ([], ["validation"])  # of step 5, which the second process makes again


def test_without_tensorboard_a_run_says_how_to_get_it_and_goes_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"pip install 'joyhallo\[train\]'"):
        Board(tmp_path)
    assert open_board(tmp_path) is None
    assert "no curves" in caplog.text
