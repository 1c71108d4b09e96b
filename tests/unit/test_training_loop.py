"""The loop: the same run however it is cut, skipped steps, the moving average, the learning rate."""

import math

import pytest
import torch
from torch import nn

from joyhallo.training.loop import Schedule, step_generator, train
from joyhallo.training.state import CHECKPOINT, TrainingState


class Toy(nn.Module):
    """A linear map beside a batch normalisation, whose buffers belong to the state too, one of them a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.linear = nn.Linear(3, 2)
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.norm(x)) * self.frozen


def toy() -> Toy:
    torch.manual_seed(0)
    return Toy()


def batch_for(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(64, 3, generator=generator)


def loss_for(model: nn.Module):
    def loss_of(batch, generator):
        target = batch[:, :2].flip(1) + 0.1 * torch.randn(64, 2, generator=generator)
        return (model(batch) - target).square().mean(1)

    return loss_of


def schedule(num_steps: int = 6, **changes: object) -> Schedule:
    return Schedule(**({"num_steps": num_steps, "learning_rate": 0.05, "warmup_steps": 2, "save_every_s": -1.0} | changes))


def run(folder, seed: int = 42, stop_at: int | None = None, **changes: object) -> TrainingState:
    """A run; `stop_at` kills it in the middle of that step."""
    model, calls = toy(), 0

    def drawn(generator):
        nonlocal calls
        calls += 1
        if calls - 1 == stop_at:
            raise KeyboardInterrupt
        return batch_for(generator)

    return train({"toy": model}, drawn, loss_for(model), schedule(**changes), folder, seed)


def everything(state: TrainingState) -> list[torch.Tensor]:
    tensors = [*state.modules["toy"].state_dict().values(), *state.averages["toy"].values()]
    for slots in state.optimizer.state_dict()["state"].values():
        tensors += [slot for slot in slots.values() if isinstance(slot, torch.Tensor)]
    return tensors


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_a_run_that_was_killed_goes_on_bit_for_bit(tmp_path, stop_at):
    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop_at=stop_at)
    cut = run(tmp_path / "cut")
    assert cut.step == whole.step == 6
    for a, b in zip(everything(whole), everything(cut), strict=True):
        assert torch.equal(a, b)
    assert not list(tmp_path.rglob("*.partial"))


def test_a_finished_run_trains_no_further(tmp_path):
    first = run(tmp_path)
    again = run(tmp_path, stop_at=0)  # a single draw would stop it
    assert all(torch.equal(a, b) for a, b in zip(everything(first), everything(again), strict=True))


def test_the_seed_and_the_step_decide_what_is_drawn(tmp_path):
    drawn = {(seed, step): batch_for(step_generator(seed, step)).sum().item() for seed in (0, 1, 42) for step in range(4)}
    assert len(set(drawn.values())) == len(drawn)
    assert batch_for(step_generator(1, 3)).sum().item() == drawn[1, 3]
    one, other = run(tmp_path / "one", seed=1), run(tmp_path / "other", seed=2)
    assert not torch.equal(one.modules["toy"].linear.weight, other.modules["toy"].linear.weight)


def test_it_learns_and_leaves_frozen_parameters_alone(tmp_path):
    model = toy()
    held_out = batch_for(torch.Generator().manual_seed(99))
    before = loss_for(model)(held_out, torch.Generator().manual_seed(1)).mean().item()
    train({"toy": model}, batch_for, loss_for(model), schedule(150, save_every_s=1e9), tmp_path)
    assert loss_for(model)(held_out, torch.Generator().manual_seed(1)).mean().item() < 0.3 * before
    assert model.frozen.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_steps_that_are_not_finite_are_skipped_and_said(tmp_path, caplog, poison):
    model, calls = toy().eval(), 0  # in evaluation mode, so that only the optimiser changes the weights
    before = model.linear.weight.clone()

    def poisoned(batch, generator):
        nonlocal calls
        calls += 1
        loss = loss_for(model)(batch, generator)
        if calls <= 2:
            return loss * math.nan if poison == "loss" else loss + (model.linear.weight.sum() * 0).sqrt()
        return loss

    def stopping(generator):
        if calls == 2:
            assert torch.equal(model.linear.weight, before)
        return batch_for(generator)

    state = train({"toy": model}, stopping, poisoned, schedule(4), tmp_path)
    assert [record.message.split(":")[0] for record in caplog.records if "skipped" in record.message] == [
        "step 0 skipped",
        "step 1 skipped",
    ]
    assert state.step == 4
    assert all(tensor.isfinite().all() for tensor in everything(state))
    assert not torch.equal(model.linear.weight, before)


def test_the_moving_average_by_hand():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    state = TrainingState({"m": model}, torch.optim.AdamW(model.parameters()), ema_decay=0.5)
    model.weight.data.fill_(11.0)
    state.average()  # the first step: 1/10 of the old, whatever the decay allows
    assert state.averages["m"]["weight"].item() == pytest.approx(10.0)
    state.step = 1000
    state.average()  # later the decay itself
    assert state.averages["m"]["weight"].item() == pytest.approx(10.5)
    assert model.weight.item() == 11.0
    state.load_averages()
    assert model.weight.item() == pytest.approx(10.5)


def test_counters_are_copied_into_the_average(tmp_path):
    state = run(tmp_path)
    assert state.averages["toy"]["norm.num_batches_tracked"].item() == 6
    assert state.averages["toy"]["norm.num_batches_tracked"].dtype == torch.int64


def test_the_learning_rate_by_hand():
    curve = Schedule(num_steps=100, learning_rate=1.0, warmup_steps=10, decay_from=0.6)
    assert [curve.rate(step) for step in (0, 4, 9, 59)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert curve.rate(80) == pytest.approx(0.5)
    assert curve.rate(99) == pytest.approx(0.02)
    constant = Schedule(num_steps=100, learning_rate=1e-5, warmup_steps=0, decay_from=1.0)
    assert {constant.rate(step) for step in range(100)} == {1e-5}


def test_a_checkpoint_of_other_networks_is_refused(tmp_path):
    run(tmp_path)
    assert (tmp_path / CHECKPOINT).is_file()
    other = nn.Linear(3, 2)
    state = TrainingState({"toy": other}, torch.optim.AdamW(other.parameters()), 0.9)
    with pytest.raises(RuntimeError, match="norm"):
        state.resume(tmp_path)
    assert not state.resume(tmp_path / "nothing")
