"""The three small networks of `mini`: shapes, borders, what depends on what, and saving."""

import numpy as np
import pytest
import torch

from joyhallo.errors import UserError
from joyhallo.models.autoencoder import PatchAutoencoder
from joyhallo.models.identity_encoder import IdentityNetwork
from joyhallo.models.speech_encoder import MelSpeechNetwork, mel_filters
from joyhallo.training.autoencoder import follow_latents, psnr
from joyhallo.training.identity import contrast
from joyhallo.training.muon import Optimizers, orthogonalise
from joyhallo.training.visible import visible_difference


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def small_autoencoder() -> PatchAutoencoder:
    return PatchAutoencoder(
        latent_channels=12, widths=(8, 8, 16, 16), num_encoder_blocks=(1, 1, 1, 1), num_decoder_blocks=(1, 1, 1, 1)
    ).eval()


def smooth_images(count: int, height: int, width: int) -> torch.Tensor:
    coarse = torch.rand(count, 3, height // 16, width // 16) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")


class TestPatchAutoencoder:
    def test_full_size_is_within_five_million_parameters(self):
        assert sum(p.numel() for p in PatchAutoencoder().parameters()) < 5_000_000

    @pytest.mark.parametrize(("height", "width"), [(32, 64), (48, 32)])
    def test_any_size_divisible_by_sixteen(self, height, width):
        network = small_autoencoder()
        latents = network.encode(torch.rand(2, 3, height, width))
        assert latents.shape == (2, 12, height // 16, width // 16)
        assert network.decode(latents).shape == (2, 3, height, width)

    @pytest.mark.parametrize(("height", "width"), [(40, 64), (64, 40)])
    def test_other_sizes_are_refused_in_one_line(self, height, width):
        with pytest.raises(UserError, match=f"{height}x{width}") as caught:
            small_autoencoder().encode(torch.rand(1, 3, height, width))
        assert "\n" not in str(caught.value)

    def test_patch_basis_alone_rebuilds_smooth_pictures_and_has_unit_variance(self):
        images = smooth_images(16, 64, 96)
        network = small_autoencoder()
        before = psnr(network(images), images)
        network.set_patch_basis(images)
        with torch.no_grad():
            for part in (network.encoder, network.decoder):
                for parameter in part.parameters():
                    parameter.zero_()
            latents = network.encode(images)
        assert psnr(network.decode(latents), images) > before + 8
        assert torch.allclose(latents.var((0, 2, 3)), torch.ones(12), atol=0.05)

    def test_normalisation_is_saved_with_the_network(self, tmp_path):
        network = small_autoencoder()
        network.latent_norm.running_mean.fill_(0.5)
        network.latent_norm.running_var.fill_(4.0)
        network.save_pretrained(tmp_path)
        again = PatchAutoencoder.from_pretrained(tmp_path).eval()
        images = smooth_images(1, 32, 32)
        assert torch.equal(again.encode(images), network.encode(images))


class TestMelSpeechNetwork:
    def test_one_feature_per_video_frame(self):
        assert MelSpeechNetwork().eval()(torch.randn(2, 640 * 7)).shape == (2, 7, 2, 128)

    @pytest.mark.parametrize("samples", [0, 639, 1000])
    def test_other_lengths_are_refused(self, samples):
        with pytest.raises(UserError, match="640"):
            MelSpeechNetwork()(torch.randn(1, samples))

    def test_nothing_beyond_the_context_reaches_a_frame(self):
        network = MelSpeechNetwork().eval()
        reach, frame = network.context_frames, 10
        speech = torch.randn(1, 640 * 24)
        inside, outside = torch.zeros(2, 640 * 24)
        outside[: 640 * (frame - reach)] = 1
        outside[640 * (frame + reach + 1) :] = 1
        inside[640 * (frame - 2) : 640 * (frame - 1)] = 1
        changed = network(torch.cat([speech, speech + outside, speech + inside]))[:, frame]
        assert torch.allclose(changed[0], changed[1], atol=1e-5)
        assert (changed[0] - changed[2]).abs().max() > 1e-3

    def test_a_cut_gives_the_same_features_away_from_its_ends(self):
        network = MelSpeechNetwork().eval()
        speech = torch.randn(1, 640 * 30)
        reach = network.context_frames
        whole, part = network(speech), network(speech[:, 640 * 5 : 640 * 25])
        assert torch.allclose(whole[:, 5 + reach : 25 - reach], part[:, reach:-reach], atol=1e-4)

    def test_a_tone_lights_the_band_of_its_pitch(self):
        filters = mel_filters(80)
        assert filters.shape == (80, 257)
        tone = torch.sin(2 * torch.pi * 1000 * torch.arange(16000) / 16000)[None]
        loudest = int(MelSpeechNetwork().log_mel(tone).mean(-1).argmax())
        hertz = np.arange(257) * 16000 / 512
        assert abs(hertz[int(filters[loudest].argmax())] - 1000) < 60

    def test_columns_are_centred(self):
        click = torch.zeros(1, 1600)
        click[0, 160 * 4 + 80] = 100.0
        energy = MelSpeechNetwork().log_mel(click)[0].mean(0)
        assert int(energy.argmax()) == 4
        assert torch.allclose(energy[3], energy[5], atol=0.1)


class TestIdentityNetwork:
    def test_shape_length_and_size(self):
        network = IdentityNetwork().eval()
        embeddings = network(torch.rand(3, 3, 112, 112) * 2 - 1)
        assert embeddings.shape == (3, 128)
        assert torch.allclose(embeddings.norm(dim=-1), torch.full((3,), 128**0.5), atol=1e-3)
        assert sum(p.numel() for p in network.parameters()) < 1_000_000

    def test_saved_and_loaded(self, tmp_path):
        network = IdentityNetwork().eval()
        network.save_pretrained(tmp_path)
        faces = torch.rand(1, 3, 112, 112)
        assert torch.equal(IdentityNetwork.from_pretrained(tmp_path).eval()(faces), network(faces))


class TestTrainingParts:
    @pytest.mark.parametrize("shape", [(24, 60), (60, 24)])
    def test_muon_updates_have_singular_values_near_one(self, shape):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.5
        assert values.max() < 1.3

    def test_optimizers_leave_frozen_parameters_and_lower_the_loss(self):
        network = torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.Tanh(), torch.nn.Linear(16, 9))
        network[0].weight.requires_grad_(False)
        before = network[0].weight.clone()
        inputs, target = torch.randn(64, 12), torch.randn(64, 9) * 0.1
        optimizers = Optimizers(network, muon_lr=0.02, adam_lr=1e-2)
        losses = []
        for _ in range(40):
            loss = (network(inputs) - target).square().mean()
            optimizers.step(loss, 1.0)
            losses.append(loss.item())
        assert losses[-1] < 0.6 * losses[0]
        assert torch.equal(network[0].weight, before)

    def test_visible_difference_sees_a_change_of_colour_alone(self):
        images = torch.zeros(1, 3, 32, 32)
        tinted = images + torch.tensor([0.59, -0.3, 0.0]).view(1, 3, 1, 1) * 0.2  # the brightness stays
        assert (visible_difference(tinted, images) > 0.1).all()
        assert (visible_difference(images, images) == 0).all()

    def test_contrast_prefers_matching_pairs(self):
        first = torch.eye(6)
        assert contrast(first, first) < contrast(first, first.roll(1, 0))

    def test_following_moves_the_normalisation_towards_the_pictures(self):
        network = small_autoencoder()
        images = smooth_images(8, 64, 64) + 0.3
        for _ in range(60):
            follow_latents(network, images, momentum=0.2)
        latents = network.encode(images)
        assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(12), atol=0.02)
        assert torch.allclose(latents.std((0, 2, 3)), torch.ones(12), atol=0.02)
