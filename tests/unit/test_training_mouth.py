"""Mouths are compared as they will be seen, around the lips alone; the autoencoder that decodes them is not trained."""

import pytest
import torch

from joyhallo.errors import UserError
from joyhallo.models.autoencoder import PatchAutoencoder
from joyhallo.models.latents import LatentSpace
from joyhallo.sampling.schedule import training_schedule
from joyhallo.training.mouth import Mouths, window
from joyhallo.training.recipes import mini_stage2
from joyhallo.training.stages import Draws, Objective, draw, toss, velocity_loss
from joyhallo.training.trainee import Trainee
from joyhallo.training.visible import visible_difference
from tiny import draw_weights, drawn_batch, drawn_networks, normal, tiny_preset

SPACE = LatentSpace("residual", 2.0)


@pytest.fixture(scope="module")
def mouths() -> Mouths:
    vae = PatchAutoencoder(4, (8, 8), (1, 1), (1, 1)).requires_grad_(False)
    draw_weights(vae, 7)
    return Mouths(vae, SPACE)


def lips_at(top: int, left: int, side: int = 8) -> torch.Tensor:
    """[1,1,h,w]: a mask two cells high and wide."""
    mask = torch.zeros(1, 1, side, side)
    mask[..., top : top + 2, left : left + 2] = 1
    return mask


@pytest.mark.parametrize(
    ("top", "left", "rows", "columns"), [(4, 3, slice(4, 7), slice(2, 5)), (6, 0, slice(5, 8), slice(0, 3))]
)
def test_the_window_lies_around_the_lips_and_inside_the_picture(top, left, rows, columns):
    latents = normal(1, 1, 4, 2, 8, 8)
    assert torch.equal(window(latents, lips_at(top, left)), latents[..., rows, columns])


def test_every_sample_has_its_own_window_and_without_lips_the_middle():
    latents = normal(1, 2, 4, 2, 8, 8)
    cut = window(latents, torch.cat([lips_at(0, 0), torch.zeros(1, 1, 8, 8)]))
    assert torch.equal(cut[0], latents[0, ..., :3, :3])
    assert torch.equal(cut[1], latents[1, ..., 2:5, 2:5])


def test_the_difference_is_that_of_the_decoded_windows_of_every_second_frame(mouths):
    sampled, wanted, portrait = normal(1, 2, 4, 3, 8, 8), normal(2, 2, 4, 3, 8, 8), normal(3, 2, 4, 8, 8)
    mask = torch.cat([lips_at(4, 3), lips_at(1, 1)])
    found = mouths.difference(sampled, wanted, portrait, mask)
    for sample, at in enumerate([(slice(4, 7), slice(2, 5)), (slice(0, 3), slice(0, 3))]):
        differences = []
        for frame in (0, 2):
            latents = [(one[sample, :, frame] / 2 + portrait[sample])[None, :, *at] for one in (sampled, wanted)]
            differences.append(visible_difference(*map(mouths.vae.decode, latents)))
        assert found[sample].item() == pytest.approx(torch.cat(differences).mean().item(), rel=1e-4)


def test_only_what_is_near_the_lips_counts(mouths):
    wanted, portrait, mask = normal(2, 1, 4, 3, 8, 8), normal(3, 1, 4, 8, 8), lips_at(5, 4)
    elsewhere, there = wanted.clone(), wanted.clone()
    elsewhere[..., :3, :] += 1
    there[..., 5, 4] += 1
    assert mouths.difference(wanted, wanted, portrait, mask).item() == 0
    assert mouths.difference(elsewhere, wanted, portrait, mask).item() == 0
    assert mouths.difference(there, wanted, portrait, mask).item() > 0


def test_the_loss_looks_at_the_mouths_of_the_predicted_clean_latents(mouths, monkeypatch):
    networks, given = drawn_networks(tiny_preset()), drawn_batch()
    nobody = torch.zeros(2, dtype=torch.bool)
    draws = Draws(torch.tensor([100, 999]), normal(8, 2, 4, 3, 4, 4), 0, nobody, nobody)
    shown = []
    difference = mouths.difference
    monkeypatch.setattr(mouths, "difference", lambda *a: shown.append(a) or difference(*a))
    with torch.no_grad():
        plain = velocity_loss(networks, given, Objective(snr_gamma=0), draws)
        found = velocity_loss(networks, given, Objective(snr_gamma=0, mouth_weight=3.0), draws, mouths=mouths)
    clean, wanted, portrait, _ = shown[0]
    assert torch.equal(wanted, given.latents)
    assert torch.equal(portrait, given.reference_latents[:, 0])
    assert torch.allclose(found, plain + 3 * difference(*shown[0]))
    # The error of the clean latents is that of the velocity, times how much noise there is.
    noise = 1 - training_schedule().alphas_cumprod[draws.timesteps]
    errors = (clean - wanted).square().mean((1, 2, 3, 4))
    assert torch.allclose(errors, noise * plain, rtol=1e-4)


def test_the_autoencoder_is_no_part_of_what_is_trained(mouths):
    recipe = mini_stage2()
    without = Trainee(drawn_networks(tiny_preset()), recipe)
    trainee = Trainee(drawn_networks(tiny_preset()), recipe, mouths=mouths)
    assert trainee.state_dict().keys() == without.state_dict().keys()


def test_timesteps_are_drawn_from_those_that_are_named():
    objective = Objective(timesteps=(249, 999), still=True)
    drawn = draw(toss(range(50), objective, 1), (2, 4, 2, 2), objective, 1)
    assert set(drawn.timesteps.flatten().tolist()) == {249, 999}


def test_a_timestep_that_is_none_is_refused():
    with pytest.raises(UserError, match=r"timesteps=1000 .*0 to 999"):
        Objective(timesteps=(999, 1000))
