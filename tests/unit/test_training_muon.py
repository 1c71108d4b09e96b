"""Muon beside AdamW as one optimiser: one rate, one memory that a checkpoint keeps."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from joyhallo.training.distributed import Processes
from joyhallo.training.optimizers import available_optimizer, build_optimizer
from joyhallo.training.schedule import Schedule
from joyhallo.training.state import TrainingState

CPU = torch.device("cpu")
ALONE = Processes(CPU)
PLAN = Schedule(num_steps=8, learning_rate=1e-2, optimizer="muon", weight_decay=0.0)


def make() -> tuple[nn.Sequential, TrainingState]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 9))
    parameters = dict(network.named_parameters())
    return network, TrainingState(parameters, build_optimizer(parameters.values(), PLAN, CPU), ema_decay=0.9)


def step(network: nn.Sequential, state: TrainingState, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(32, 4, 4, 4, generator=generator)
    loss = (network(inputs) - inputs.flatten(1)[:, :9]).square().mean()
    state.optimizer.zero_grad()
    loss.backward()
    state.optimizer.step()
    return loss.item()


def test_the_loss_falls_and_every_parameter_moves():
    network, state = make()
    before = {name: p.clone() for name, p in network.named_parameters()}
    losses = [step(network, state, seed) for seed in range(60)]
    assert losses[-1] < 0.5 * losses[0]
    assert all(not torch.equal(p, before[name]) for name, p in network.named_parameters())


def test_matrices_move_as_far_as_with_adamw():
    network, state = make()
    before = {name: p.clone() for name, p in network.named_parameters()}
    step(network, state, 1)
    for name, parameter in network.named_parameters():
        moved = (parameter - before[name]).square().mean().sqrt().item() / PLAN.learning_rate
        # AdamW's first step is the rate itself; later ones are 0.2 to 0.4 of it, which Muon's are from the first on.
        assert moved == pytest.approx(1.0 if parameter.ndim == 1 else 0.2, rel=0.3), name


def test_the_rate_of_both_is_set_at_once():
    network, state = make()
    for group in state.optimizer.param_groups:
        group["lr"] = 0.0
    before = [p.clone() for p in network.parameters()]
    step(network, state, 1)
    assert all(torch.equal(one, other) for one, other in zip(before, network.parameters(), strict=True))


def test_a_run_that_was_cut_goes_on_bit_for_bit(tmp_path):
    network, state = make()
    for seed in range(3):
        step(network, state, seed)
    state.save(tmp_path, 1, ALONE)
    expected = [step(network, state, seed) for seed in range(3, 6)]
    again, resumed = make()
    assert resumed.resume(tmp_path, ALONE)
    assert [step(again, resumed, seed) for seed in range(3, 6)] == expected


def test_weights_that_are_spread_are_trained_by_adamw(caplog):
    caplog.set_level("INFO")
    assert available_optimizer(PLAN, ALONE) == "muon"
    assert available_optimizer(PLAN, replace(ALONE, count=2, spread="fsdp", is_connected=True)) == "adamw"
    assert "AdamW instead of Muon" in caplog.text
