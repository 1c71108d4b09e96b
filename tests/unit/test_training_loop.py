"""The loop: the same run however it is cut or portioned, skipped steps, the moving average, the learning rate, checkpoints."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from joyhallo.data.randomness import stream
from joyhallo.errors import UserError
from joyhallo.training.distributed import Processes
from joyhallo.training.loop import Loop, Work
from joyhallo.training.optimizers import available_optimizer, build_optimizer
from joyhallo.training.schedule import Schedule
from joyhallo.training.state import TrainingState, checkpoints

ALONE = Processes(torch.device("cpu"))


class Toy(nn.Module):
    """A linear map; one parameter is frozen, one is not used."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 2)
        self.unused = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * self.frozen


def read(numbers: list[int]) -> torch.Tensor:
    """Inputs [B,3] and noise of their targets [B,2]."""
    rows = np.stack([stream(7, "pick", number).standard_normal(5) for number in numbers])
    return torch.from_numpy(rows.astype(np.float32))


def losses_of(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    target = rows[:, :2].flip(1) + 0.1 * rows[:, 3:]
    return (model(rows[:, :3]) - target).square().mean(1)


def schedule(num_steps: int = 6, **changes: object) -> Schedule:
    return Schedule(**({"num_steps": num_steps, "learning_rate": 0.05, "warmup_steps": 2} | changes))


def make(num_at_once: int = 8, losses=losses_of, load=read, **changes: object) -> Loop:
    model = Toy()
    plan = schedule(**changes)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    state = TrainingState(trained, build_optimizer(trained.values(), plan, ALONE.device), plan.ema_decay)
    work = Work(load, lambda rows: losses(model, rows), 8, num_at_once)
    return Loop(work, model, state, plan, ALONE)


def everything(state: TrainingState) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in state.content().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_a_run_that_was_cut_goes_on_bit_for_bit(tmp_path, stop_at):
    whole = make()
    reports = list(whole)
    cut = make()
    for report in cut:
        assert report.loss == reports[report.step - 1].loss
        if report.step == stop_at:
            cut.state.save(tmp_path, 2, ALONE)
            break
    again = make()
    assert again.state.resume(tmp_path, ALONE)
    assert again.state.step == stop_at
    assert [report.loss for report in again] == [report.loss for report in reports[stop_at:]]
    assert same(everything(again.state), everything(whole.state))
    assert not list(tmp_path.rglob("*.partial"))


def test_portions_change_nothing_but_rounding():
    whole, portioned = list(make(8)), list(make(2))
    assert [r.loss for r in portioned] == pytest.approx([r.loss for r in whole], rel=1e-5)
    assert [r.grad_norm for r in portioned] == pytest.approx([r.grad_norm for r in whole], rel=1e-5)


def test_processes_share_the_samples_that_one_would_compute():
    def numbers(count: int, at_once: int) -> list[int]:
        loops = []
        for rank in range(count):
            loop = make(at_once)
            loop.processes = Processes(torch.device("cpu"), rank, count)
            loop.num_portions = loop.work.num_portions(loop.processes)
            loops.append(loop)
        return sorted(n for loop in loops for portion in range(loop.num_portions) for n in loop.numbers(3, portion))

    assert numbers(1, 8) == numbers(1, 2) == numbers(2, 2) == numbers(4, 2) == list(range(24, 32))
    with pytest.raises(UserError, match="3 processes with 2 at once"):
        numbers(3, 2)


def test_a_finished_run_trains_no_further(tmp_path):
    loop = make()
    list(loop)
    loop.state.save(tmp_path, 1, ALONE)
    again = make()
    again.state.resume(tmp_path, ALONE)
    assert list(again) == []


def test_it_learns_and_leaves_other_parameters_alone():
    loop = make(num_steps=150)
    reports = list(loop)
    assert sum(r.loss for r in reports[-10:]) < 0.3 * sum(r.loss for r in reports[:10])
    assert loop.trainee.frozen.tolist() == [1.0, 1.0]
    assert loop.trainee.unused.tolist() == [1.0, 1.0]  # no gradient, no step, no decay


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_steps_that_are_not_finite_are_skipped_and_said(caplog, poison):
    calls = 0

    def poisoned(model, rows):
        nonlocal calls
        calls += 1
        loss = losses_of(model, rows)
        if calls <= 2:
            return loss * math.nan if poison == "loss" else loss + (model.linear.weight.sum() * 0).sqrt()
        return loss

    loop = make(losses=poisoned, num_steps=4)
    before = loop.trainee.linear.weight.detach().clone()
    steps = iter(loop)
    for _ in range(2):
        assert next(steps).is_skipped
        assert torch.equal(loop.trainee.linear.weight, before)
    assert [report.is_skipped for report in steps] == [False, False]
    assert [r.message.split(":")[0] for r in caplog.records if "skipped" in r.message] == ["step 1 skipped", "step 2 skipped"]
    assert all(tensor.isfinite().all() for tensor in everything(loop.state).values())
    assert not torch.equal(loop.trainee.linear.weight, before)


def test_a_run_that_only_makes_bad_numbers_gives_up():
    loop = make(losses=lambda model, rows: losses_of(model, rows) * math.nan, num_steps=50, max_bad_steps=3)
    with pytest.raises(UserError, match=r"3 steps in a row, up to step 3.*learning_rate"):
        list(loop)


def test_a_faulty_reading_is_not_swallowed():
    def load(numbers):
        if numbers[0] == 16:
            raise UserError("the tar is damaged")
        return read(numbers)

    with pytest.raises(UserError, match="the tar is damaged"):
        list(make(load=load))


def test_asked_to_stop_it_ends_after_the_step():
    loop = make()
    for report in loop:
        if report.step == 2:
            loop.wants_stop = True
    assert loop.state.step == 3


def test_the_moving_average_by_hand():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    state = TrainingState({"m.weight": model.weight}, torch.optim.AdamW(model.parameters()), ema_decay=0.5)
    model.weight.data.fill_(11.0)
    state.average()  # the first step: 1/10 of the old, whatever the decay allows
    assert state.handed_out()["m.weight"].item() == pytest.approx(10.0)
    state.step = 1000
    state.average()  # later the decay itself
    assert state.handed_out()["m.weight"].item() == pytest.approx(10.5)
    assert model.weight.item() == 11.0


def test_without_an_average_the_weights_are_handed_out():
    model = nn.Linear(1, 1)
    state = TrainingState({"m": model.weight}, torch.optim.AdamW(model.parameters()), ema_decay=0.0)
    state.average()
    assert state.handed_out()["m"] is model.weight


def test_the_learning_rate_by_hand():
    curve = Schedule(num_steps=100, learning_rate=1.0, warmup_steps=10, decay_from=0.6)
    assert [curve.rate(step) for step in (0, 4, 9, 59)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert curve.rate(80) == pytest.approx(0.5)
    assert curve.rate(99) == pytest.approx(0.02)
    constant = Schedule(num_steps=100, learning_rate=1e-5, warmup_steps=0, decay_from=1.0)
    assert {constant.rate(step) for step in range(100)} == {1e-5}


def test_the_last_checkpoints_are_kept_and_unfinished_ones_ignored(tmp_path):
    loop = make()
    (tmp_path / ".step_00000009.partial").mkdir(parents=True)
    for report in loop:
        loop.state.save(tmp_path, 2, ALONE)
        assert report.step == loop.state.step
    assert [path.name for path in checkpoints(tmp_path)] == ["step_00000005", "step_00000006"]
    assert not list(tmp_path.glob(".step_*"))


def test_a_checkpoint_of_other_networks_is_refused(tmp_path):
    loop = make()
    next(iter(loop))
    loop.state.save(tmp_path, 1, ALONE)
    other = nn.Linear(3, 2)
    state = TrainingState({"toy": other.weight}, torch.optim.AdamW(other.parameters()), 0.9)
    with pytest.raises(UserError, match="other networks"):
        state.resume(tmp_path, ALONE)
    assert not state.resume(tmp_path / "nothing", ALONE)


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    loop = make()
    next(iter(loop))
    folder = loop.state.save(tmp_path, 1, ALONE)
    (folder / ".metadata").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be read"):
        make().state.resume(tmp_path, ALONE)


def test_eight_bits_fall_back_with_a_word(caplog):
    caplog.set_level("INFO")
    assert available_optimizer(schedule(optimizer="adamw8bit"), ALONE) == "adamw"
    assert "instead of 8" in caplog.text
    assert available_optimizer(schedule(), ALONE) == "adamw"
