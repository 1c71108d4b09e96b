"""The objective: equal to the published training step where it is here, and by hand everywhere."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from joyhallo.models.conditions import REGIONS, ClipInputs, ReferenceFeatures, RegionMasks
from joyhallo.sampling.schedule import training_schedule
from joyhallo.training.stages import Batch, Draws, Objective, blinded, clip_inputs, draw, min_snr_weight, velocity_loss
from joyhallo.weights.keymaps import KEYMAPS
from joyhallo.weights.parity import Golden
from tiny import drawn_masks, drawn_networks, normal, tiny_preset

NOBODY = torch.zeros(2, dtype=torch.bool)
HALF = 1e-3  # the published features are rounded to half precision, ours are not


@pytest.fixture(scope="module")
def published(reference_folder) -> dict[str, torch.Tensor]:
    return load_file(reference_folder / "goldens" / "golden_joyhallo_train.safetensors")


@pytest.fixture(scope="module")
def golden_networks(reference_folder):
    return Golden(reference_folder / "goldens", "joyhallo", torch.device("cpu"), torch.float32).networks


def golden_batch(published) -> Batch:
    sizes = [(16, 16), (8, 8), (4, 4), (2, 2)]
    regions = {
        ours: tuple(published[f"stage2.mask_{theirs}.{d}"].reshape(2, 5, *size) for d, size in enumerate(sizes))
        for ours, theirs in (("lip", "lip"), ("expression", "face"), ("pose", "full"))
    }
    return Batch(
        latents=published["stage2.latents"],
        reference_latents=published["stage2.ref_latents"].unflatten(0, (2, 3)),
        face_embedding=published["stage2.face_emb"],
        audio_window=published["stage2.audio_window"],
        face_region=published["stage2.face_region_mask"],
        masks=RegionMasks(**regions),
    )


def golden_draws(published, is_deaf: bool = False) -> Draws:
    return Draws(published["stage2.timesteps"], published["stage2.noise"], 0, deaf=NOBODY | is_deaf, starts=NOBODY)


def predict(networks, inputs: ClipInputs, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return networks.denoising_network(noisy, timesteps, networks.denoising_network.condition(inputs))


def test_losses_of_the_published_second_stage(published, golden_networks):
    """Per sample, and weighted per sample (the published loss weights the batch's mean by the mean weight: 1.02272)."""
    batch, draws = golden_batch(published), golden_draws(published)
    with torch.no_grad():
        plain = velocity_loss(golden_networks, batch, Objective(snr_gamma=0), draws)
        weighted = velocity_loss(golden_networks, batch, Objective(), draws)
    weights = published["stage2.snr_weights"]
    assert torch.allclose(plain, published["stage2.per_sample_mse"], rtol=1e-4)
    assert torch.allclose(weighted, plain * weights, rtol=1e-5)
    assert weighted.mean().item() == pytest.approx(published["stage2.loss_if_weighted_per_sample"].item(), rel=1e-4)
    literal = (plain.mean() * weights.mean()).item()
    assert literal == pytest.approx(published["stage2.uncondimg0_uncondaudio0.loss"].item(), rel=1e-4)
    assert abs(weighted.mean().item() - literal) > 0.01


def test_predictions_of_the_published_second_stage(published, golden_networks):
    """With everything; deaf; and blind as published: no reference network at all and four zero past frames.

    A blind sample of ours keeps its number of past frames (zero too), so the batch-wide form is composed here.
    """
    batch, noisy, timesteps = golden_batch(published), published["stage2.noisy"], published["stage2.timesteps"]
    cases = {"uncondimg0_uncondaudio0": False, "uncondimg0_uncondaudio1": True, "uncondimg1_uncondaudio0": False}
    for name, is_deaf in cases.items():
        inputs = clip_inputs(golden_networks, batch, Objective(), golden_draws(published, is_deaf))
        if name.startswith("uncondimg1"):
            inputs = replace(inputs, reference=None)
        found = predict(golden_networks, inputs, noisy, timesteps)
        assert (found - published[f"stage2.{name}.model_pred"]).abs().max() < HALF, name
        loss = (found - published["stage2.target"]).square().mean() * published["stage2.snr_weights"].mean()
        assert loss.item() == pytest.approx(published[f"stage2.{name}.loss"].item(), rel=1e-4)


def test_gradients_of_the_published_second_stage(published, golden_networks):
    batch, draws = golden_batch(published), golden_draws(published)
    networks = golden_networks
    trained = {}
    for component in ("denoising_network", "audio_projector"):
        for name, parameter in networks.modules()[component].named_parameters():
            if component == "audio_projector" or ".audio." in name or ".motion." in name:
                trained[component, name] = parameter.requires_grad_(True)
    try:
        plain = velocity_loss(networks, batch, Objective(snr_gamma=0), draws).mean()
        (plain * published["stage2.snr_weights"].mean()).backward()
        gradients = {name: parameter.grad for name, parameter in trained.items()}
    finally:
        for parameter in trained.values():
            parameter.requires_grad_(False).grad = None
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm().item()
    assert norm == pytest.approx(published["stage2.uncondimg0_uncondaudio0.grad_norm"].item(), rel=1e-3)
    prefix, num_compared = "stage2.uncondimg0_uncondaudio0.grad.", 0
    for key, expected in published.items():
        target = KEYMAPS["joyhallo"].to_ours(key.removeprefix(prefix)) if key.startswith(prefix) else None
        if target is not None:
            ours = gradients[target.component, target.name]
            assert (ours - target.from_published(expected)).abs().max() < 1e-4 + 1e-2 * expected.abs().max(), key
            num_compared += 1
    assert num_compared > 0


def test_the_published_first_stage(published, golden_networks):
    """Single pictures without audio or motion modules, the first two rows as references; blind: no face, no reference."""
    batch = golden_batch(published)
    batch = replace(
        batch,
        latents=batch.latents[:, :, :1],
        reference_latents=published["stage2.ref_latents"][:2, None],
        audio_window=None,
        masks=RegionMasks(*(tuple(m[:, :1] for m in getattr(batch.masks, region)) for region in REGIONS)),
    )
    timesteps, noise = published["stage2.timesteps"], published["stage2.noise"][:, :, :1]
    draws = Draws(timesteps[:, None], noise, 0, deaf=NOBODY, starts=NOBODY)
    objective = Objective(still=True)
    with torch.no_grad():
        loss = velocity_loss(golden_networks, batch, objective, draws)
    assert loss.mean().item() == pytest.approx(published["stage1.uncond0.loss"].item(), rel=1e-4)
    noisy = published["stage2.noisy"][:, :, :1]
    inputs = clip_inputs(golden_networks, batch, objective, draws)
    found = predict(golden_networks, inputs, noisy, timesteps)
    assert (found - published["stage1.uncond0.model_pred"]).abs().max() < HALF
    faceless = replace(batch, face_embedding=torch.zeros_like(batch.face_embedding))
    inputs = replace(clip_inputs(golden_networks, faceless, objective, draws), reference=None)
    found = predict(golden_networks, inputs, noisy, timesteps)
    assert (found - published["stage1.uncond1.model_pred"]).abs().max() < HALF


# By hand, on tiny networks.


@pytest.fixture(scope="module")
def batch() -> Batch:
    return Batch(
        latents=normal(1, 2, 4, 3, 4, 4),
        reference_latents=normal(2, 2, 3, 4, 4, 4),
        face_embedding=normal(3, 2, 8),
        audio_window=normal(4, 2, 3, 5, 2, 8),
        face_region=(normal(5, 2, 3, 32, 32) > 0).float(),
        masks=drawn_masks(6, (4, 4), num_samples=2),
    )


@pytest.fixture(scope="module")
def draws() -> Draws:
    return Draws(torch.tensor([0, 999]), normal(8, 2, 4, 3, 4, 4), 0, deaf=NOBODY, starts=NOBODY)


def losses(networks, batch, draws, **objective: object) -> torch.Tensor:
    with torch.no_grad():
        return velocity_loss(networks, batch, Objective(**objective), draws)


def test_min_snr_weights_by_hand():
    # signal a: s = a / (1 - a) + 1 = 1 / (1 - a); weight = min(s, 5) / s
    weights = min_snr_weight(torch.tensor([0.0, 0.5, 0.8, 0.9, 0.99]), 5.0)
    assert weights.tolist() == pytest.approx([1.0, 1.0, 1.0, 0.5, 0.05], rel=1e-4)
    assert min_snr_weight(torch.tensor([0.0, 0.99]), 0.0).tolist() == [1.0, 1.0]


def test_the_loss_is_the_velocity_error_by_hand(networks, batch, draws):
    alphas = training_schedule().alphas_cumprod[draws.timesteps].reshape(2, 1, 1, 1, 1)
    assert alphas[1] == 0  # no signal is left at the last timestep, and the target is minus the latents
    noisy = alphas.sqrt() * batch.latents + (1 - alphas).sqrt() * draws.noise
    target = alphas.sqrt() * draws.noise - (1 - alphas).sqrt() * batch.latents
    found = predict(networks, clip_inputs(networks, batch, Objective(), draws), noisy, draws.timesteps)
    error = (found - target).square()
    assert torch.allclose(losses(networks, batch, draws, snr_gamma=0), error.mean((1, 2, 3, 4)), rtol=1e-5)
    outside = (error * (1 + 6 * batch.masks.lip[0][:, None])).mean((1, 2, 3, 4))
    assert torch.allclose(losses(networks, batch, draws, snr_gamma=0, lip_weight=6.0), outside, rtol=1e-5)


def test_dropped_conditions_do_not_matter_and_the_others_do(networks, batch, draws):
    plain = losses(networks, batch, draws)
    first = torch.tensor([True, False])
    other_speech = replace(batch, audio_window=normal(40, *batch.audio_window.shape))
    deaf = replace(draws, deaf=first)
    assert losses(networks, batch, deaf)[0] == losses(networks, other_speech, deaf)[0] != plain[0]
    assert losses(networks, batch, deaf)[1] == plain[1] != losses(networks, other_speech, deaf)[1]
    other_past = replace(batch, reference_latents=torch.cat([batch.reference_latents[:, :1], normal(41, 2, 2, 4, 4, 4)], dim=1))
    starts = replace(draws, starts=first)
    assert losses(networks, batch, starts)[0] == losses(networks, other_past, starts)[0] != plain[0]
    assert losses(networks, batch, starts)[1] == plain[1] != losses(networks, other_past, starts)[1]
    other_portrait = replace(batch, reference_latents=normal(42, 2, 3, 4, 4, 4))
    blind = replace(draws, num_blind=1)
    found, changed = losses(networks, batch, blind), losses(networks, other_portrait, blind)
    assert found[0] == pytest.approx(changed[0].item(), rel=1e-5)
    assert found[0] != plain[0]
    assert found[1] == pytest.approx(plain[1].item(), rel=1e-4)
    assert found[1] != pytest.approx(changed[1].item(), rel=1e-3)


def test_blinded_features_keep_those_who_see():
    features = ReferenceFeatures((normal(1, 3, 2, 4, 5),))
    assert blinded(features, 0) is features
    found = blinded(features, 2).sites[0]
    assert found[:2].abs().max() == 0
    assert torch.equal(found[2], features.sites[0][2])


def test_draws_are_the_seed_s(batch):
    first, again, other = (draw(batch, Objective(), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.noise, again.noise)
    assert torch.equal(first.timesteps, again.timesteps)
    assert not torch.equal(first.noise, other.noise)
    assert first.timesteps.shape == (2,)
    assert draw(batch, Objective(still=True), torch.Generator().manual_seed(1)).timesteps.shape == (2, 3)


def test_draws_have_the_stated_shares_and_variance():
    many = Batch(torch.zeros(2000, 2, 4, 2, 2), torch.zeros(1), torch.zeros(1), None, torch.zeros(1), RegionMasks((), (), ()))
    objective = Objective(noise_offset=0.5, shared_noise=0.4, portrait_dropout=0.3, audio_dropout=0.1, start_dropout=0.6)
    drawn = draw(many, objective, torch.Generator().manual_seed(3))
    shares = [drawn.num_blind / 2000, drawn.deaf.float().mean().item(), drawn.starts.float().mean().item()]
    assert shares == pytest.approx([0.3, 0.1, 0.6], abs=0.04)
    assert drawn.timesteps.min() < 20
    assert drawn.timesteps.max() > 980
    assert drawn.noise.var().item() == pytest.approx(1 + 0.5**2, abs=0.05)
    between_frames = (drawn.noise[:, :, 0] * drawn.noise[:, :, 1]).mean().item()
    between_places = (drawn.noise[:, :, :, 0, 0] * drawn.noise[:, :, :, 1, 1]).mean().item()
    assert between_frames == pytest.approx(0.4 + 0.5**2, abs=0.05)
    assert between_places == pytest.approx(0.5**2, abs=0.05)


def test_the_portrait_goes_with_the_input_where_the_network_takes_it(batch, draws):
    networks = drawn_networks(tiny_preset(portrait_in_input=True, in_channels=8, out_channels=4))
    inputs = clip_inputs(networks, batch, Objective(), draws)
    assert torch.equal(inputs.portrait_latents, batch.reference_latents[:, 0])
    assert losses(networks, batch, draws).isfinite().all()
