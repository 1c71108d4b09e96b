"""A critic that tells sampled mouths from true ones: it learns, it pulls as hard as it is told, and it remembers."""

import pytest
import torch

from joyhallo.conditioning.anatomy import LIP_POINTS
from joyhallo.models.autoencoder import PatchAutoencoder
from joyhallo.models.latents import LatentSpace
from joyhallo.training.critic import Critic
from joyhallo.training.mouth import Mouths, shut_share
from tiny import draw_weights, normal
from training_runs import losses, make_dataset, make_start, request, run_elsewhere, run_here, tiny_recipe

CPU = torch.device("cpu")


def striped(count: int, seed: int) -> torch.Tensor:
    """Pictures with the fine stripes that blurred ones have lost."""
    stripes = torch.sign(torch.sin(torch.arange(32.0) * 2))
    return 0.5 * stripes + 0.1 * normal(seed, count, 3, 32, 32)


def blurred(count: int, seed: int) -> torch.Tensor:
    return 0.1 * normal(seed, count, 3, 32, 32)


def test_it_learns_to_tell_what_is_sampled():
    critic = Critic(1.0, CPU)
    for step in range(40):
        critic.learn(blurred(8, step), striped(8, 100 + step))
    with torch.no_grad():
        assert critic.network(striped(8, 900)).min() > critic.network(blurred(8, 901)).max()


@pytest.mark.parametrize("weight", [0.3, 2.0])
def test_it_pulls_as_hard_as_it_is_told_and_towards_the_true(weight):
    critic = Critic(weight, CPU)
    for step in range(40):
        critic.learn(blurred(8, step), striped(8, 100 + step))
    pictures = blurred(4, 7).requires_grad_()
    others = (pictures - striped(4, 8)).abs().mean()
    doubt = critic.doubt(pictures, others)
    assert doubt.shape == (4,)
    pulls = [torch.autograd.grad(loss, pictures, retain_graph=True)[0].norm() for loss in (others, doubt.sum())]
    assert (pulls[1] / pulls[0]).item() == pytest.approx(weight, rel=1e-3)
    nearer = torch.lerp(pictures.detach(), striped(4, 8), 0.3).requires_grad_()
    with torch.no_grad():
        assert critic.network(nearer).mean() > critic.network(pictures).mean()


def test_it_is_moved_by_learning_alone():
    critic = Critic(1.0, CPU)
    before = {name: tensor.clone() for name, tensor in critic.memory().items() if name.endswith("original")}
    pictures = blurred(2, 1).requires_grad_()
    critic.doubt(pictures, pictures.square().sum()).sum().backward()
    assert all(torch.equal(critic.memory()[name], tensor) for name, tensor in before.items())
    assert all(not parameter.grad.any() for parameter in critic.network.parameters())
    critic.learn(blurred(2, 1), striped(2, 2))
    assert not any(torch.equal(critic.memory()[name], tensor) for name, tensor in before.items())


def test_another_one_goes_on_from_its_memory():
    first, second = Critic(1.0, CPU, seed=1), Critic(1.0, CPU, seed=2)
    for step in range(3):
        first.learn(blurred(2, step), striped(2, 10 + step))
    for name, tensor in second.memory().items():
        tensor.copy_(first.memory()[name])
    for critic in (first, second):
        critic.learn(blurred(2, 5), striped(2, 15))
    assert all(torch.equal(tensor, first.memory()[name]) for name, tensor in second.memory().items())


def test_mouths_are_judged_only_where_something_learns():
    vae = PatchAutoencoder(4, (8, 8), (1, 1), (1, 1)).requires_grad_(False)
    draw_weights(vae, 7)
    critic, space, lip = Critic(0.5, CPU), LatentSpace("residual", 2.0), torch.ones(1, 1, 8, 8)
    given = normal(1, 1, 4, 2, 8, 8).requires_grad_(), normal(2, 1, 4, 2, 8, 8), normal(3, 1, 4, 8, 8), lip
    plain = Mouths(vae, space).difference(*given)
    before = critic.memory()["judge.parametrizations.weight.original"].clone()
    with torch.no_grad():
        assert torch.equal(Mouths(vae, space, critic=critic).difference(*given), plain)
    assert torch.equal(critic.memory()["judge.parametrizations.weight.original"], before)
    judged = Mouths(vae, space, critic=critic).difference(*given)
    assert not torch.equal(critic.memory()["judge.parametrizations.weight.original"], before)
    assert torch.autograd.grad((judged - plain).sum(), given[0])[0].abs().sum() > 0


class Rows:
    """Reads lips whose inner sides stand as far apart as the picture is bright, in windows' sides."""

    units = torch.full((2 * len(LIP_POINTS),), 2.0)

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        side = pictures.shape[-1]
        places = torch.zeros(len(pictures), len(LIP_POINTS), 2)
        lower = [LIP_POINTS.index(point) for point in (14, 87, 317, 178, 402)]
        places[:, lower, 1] = (pictures.mean((1, 2, 3)) * side / 2)[:, None]
        return places.flatten(1)


def test_lips_that_touch_are_shut_and_those_far_apart_are_not():
    pictures = torch.tensor([0.0, 0.015, 0.0275, 0.04, 0.3])[:, None, None, None].expand(-1, 3, 8, 8)
    found = shut_share(Rows()(pictures), Rows.units, 8)
    assert found.tolist() == pytest.approx([1, 1, 0.5, 0, 0], abs=1e-5)


def test_mouths_that_are_to_be_shut_count_more(monkeypatch):
    shown = {
        "mine": torch.full((2, 3, 12, 12), 0.1),
        "wanted": torch.tensor([0.0, 0.2])[:, None, None, None].expand(2, 3, 12, 12),
    }
    plain, more = (Mouths(torch.nn.Identity(), LatentSpace("residual", 1.0), Rows(), 0.0, weight) for weight in (0.0, 2.0))
    found = []
    for mouths in (plain, more):
        answers = iter((shown["mine"], shown["wanted"]))
        monkeypatch.setattr(mouths, "_decoded", lambda _latents, answers=answers: next(answers))
        blank = torch.zeros(2, 4, 1, 8, 8)
        found.append(mouths.difference(blank, blank, blank[:, :, 0], torch.ones(2, 1, 8, 8)))
    assert (found[1] / found[0]).tolist() == pytest.approx([3.0, 1.0])


@pytest.mark.parametrize("count", [1, 2])
def test_a_killed_run_goes_on_with_its_critic(tmp_path, count):
    made = make_dataset(tmp_path / "made"), make_start(tmp_path / "start")
    recipe = tiny_recipe("stage2", "objective.critic_weight=0.5")
    assert run_elsewhere(request(tmp_path / "whole", *made, recipe), count=count) == [0] * count
    assert run_elsewhere(request(tmp_path / "cut", *made, recipe), count=count, kill=5)[0] != 0
    resumed = request(tmp_path / "cut", *made, None, is_resumed=True)
    assert run_elsewhere(resumed, count=count) == [0] * count
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    run_here(tmp_path / "without", *made, tiny_recipe())
    assert losses(tmp_path / "without") != losses(tmp_path / "whole")
