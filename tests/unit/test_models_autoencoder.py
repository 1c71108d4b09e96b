"""The small autoencoder computes what its layers say, whatever the memory layout of what it is given."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from joyhallo.models.autoencoder import PatchAutoencoder
from joyhallo.models.latents import cells_of, decode_changes, decode_latents, encode_pixels, to_frames
from joyhallo.weights.hub import bundled_folder
from joyhallo.weights.pipeline_folder import load_component


def small():
    torch.manual_seed(0)
    model = PatchAutoencoder(4, widths=(8, 12, 16, 16), num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4).eval()
    for parameter in model.parameters():  # biases and last layers begin at nothing
        parameter.data.add_(0.03 * torch.randn_like(parameter))
    return model


def plainly(layers, x):
    """The decoder's layers one after the other, written out."""
    for layer in layers:
        is_block = hasattr(layer, "conv2")
        x = x + layer.conv2(functional.silu(layer.conv1(functional.silu(x)))) if is_block else layer(x)
    return x


@torch.no_grad()
def test_decoding_is_the_sum_of_both_decoders():
    model, latents = small(), torch.randn(3, 4, 2, 3)
    expected = plainly(model.decoder, latents) + model.patch_decoder(latents)
    decoded = model.decode(latents)
    assert decoded.shape == (3, 3, 32, 48)
    torch.testing.assert_close(decoded, expected, rtol=1e-5, atol=1e-5)
    patches = model.patch_decoder(latents)
    assert patches.std() > 0.05
    torch.testing.assert_close(model.decode_patches(latents), patches, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_layout_in_memory_changes_no_bit():
    model, pixels = small(), torch.rand(2, 3, 32, 48) * 2 - 1
    latents = encode_pixels(model, pixels)
    assert torch.equal(encode_pixels(model, pixels.contiguous(memory_format=torch.channels_last)), latents)
    pictures = decode_latents(model, latents)
    turned = latents.permute(1, 0, 2, 3).contiguous().transpose(0, 1)
    assert torch.equal(decode_latents(model, turned), pictures)
    torch.testing.assert_close(decode_latents(model, latents, num_at_once=1), pictures, rtol=1e-5, atol=1e-5)
    frames = to_frames(pictures)
    assert frames.shape == (2, 32, 48, 3)
    expected = (pictures.permute(0, 2, 3, 1).double() * 127.5 + 127.5).round().numpy()
    assert abs(frames - expected).max() <= 1


def test_gradients_are_those_of_the_layers_written_out():
    model, latents = small(), torch.randn(2, 4, 2, 2)
    model.decode(latents).square().sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    (plainly(model.decoder, latents) + model.patch_decoder(latents)).square().sum().backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max() + 1))


@torch.no_grad()
@pytest.mark.parametrize("cells", [(slice(3, 5), slice(2, 6)), (slice(0, 4), slice(5, 8)), (slice(0, 8), slice(0, 8))])
def test_cells_are_decoded_as_in_the_whole_whatever_is_left_out_around_them(cells, monkeypatch):
    model, latents = small(), torch.randn(2, 4, 8, 8)
    whole = model.decode(latents)[..., *(slice(one.start * 16, one.stop * 16) for one in cells)]
    sizes = []
    for layer in model.decoder:
        layer.register_forward_pre_hook(lambda _, given: sizes.append(given[0].shape[2:].numel()))
    found = model.decode_within(latents, cells)
    assert found.shape == whole.shape
    torch.testing.assert_close(found, whole, rtol=0, atol=0.002)
    decoded, kept = sum(sizes), (cells[0].stop - cells[0].start) * (cells[1].stop - cells[1].start)
    monkeypatch.setattr("joyhallo.models.autoencoder._BORDER_PX", 1000)
    sizes.clear()
    torch.testing.assert_close(model.decode_within(latents, cells), whole, rtol=1e-5, atol=1e-5)
    assert decoded < 0.6 * sum(sizes) if kept < 64 else decoded == sum(sizes)


@torch.no_grad()
def test_the_embedded_weights_decode_a_mouth_as_in_the_whole():
    """Within a few grey levels at its border, where the whole has more to go on, and hardly any within."""
    vae = load_component(bundled_folder("mini") / "vae", "PatchAutoencoder", torch.float32)
    cells = (slice(9, 15), slice(4, 12))
    latents = torch.randn(2, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    whole = vae.decode(latents)[..., 9 * 16 : 15 * 16, 4 * 16 : 12 * 16]
    levels = (vae.decode_within(latents, cells) - whole).abs() * 127.5
    assert levels[..., 16:-16, 16:-16].mean() < 0.06
    assert levels.mean() < 0.4
    assert levels.max() < 9
    assert whole.std() * 127.5 > 30


ANYWHERE = (slice(0, 9), slice(0, 10))


@torch.no_grad()
def test_only_what_changes_is_decoded():
    model = small()
    unchanged = torch.randn(1, 4, 9, 10)
    latents = unchanged.repeat(3, 1, 1, 1) + 0.02 * torch.randn(3, 4, 9, 10)  # too little to be seen
    latents[1, :, 5, 6] += 1
    latents[2, :, 6, 3] += 1
    still, seen = decode_latents(model, unchanged), []
    decode = model.decode_within
    model.decode_within = lambda part, cells: (seen.append((part.shape, cells)), decode(part, cells))[1]
    pixels = decode_changes(model, latents, unchanged, still, ANYWHERE)
    # Two cells more on each side, of the two pictures that change.
    assert seen == [((2, 4, 6, 8), (slice(2, 4), slice(2, 6)))]
    whole = decode_latents(model, latents)
    changed = (slice(1, 3), slice(None), slice(5 * 16, 7 * 16), slice(3 * 16, 7 * 16))
    assert (pixels[changed] - whole[changed]).abs().max() < 0.02
    outside = torch.ones(3, 9 * 16, 10 * 16, dtype=torch.bool)
    outside[changed[0], *changed[2:]] = False
    unmoved = still.expand_as(pixels)
    assert torch.equal(pixels.transpose(0, 1)[:, outside], unmoved.transpose(0, 1)[:, outside])
    assert (pixels - unmoved).abs().amax((1, 2, 3))[1:].min() > 0.1


@torch.no_grad()
def test_nothing_is_decoded_beyond_the_cells_that_may_change():
    model = small()
    unchanged = torch.randn(1, 4, 9, 10)
    latents, still = unchanged + 1, decode_latents(model, unchanged)
    within = (slice(4, 7), slice(2, 9))
    pixels = decode_changes(model, latents, unchanged, still, within)
    differs = (pixels != still).any(1)[0]
    rows, columns = differs.any(1).nonzero(), differs.any(0).nonzero()
    assert (int(rows.min()), int(rows.max())) == (4 * 16, 7 * 16 - 1)
    assert (int(columns.min()), int(columns.max())) == (2 * 16, 9 * 16 - 1)
    model.decode_within = None  # must not be needed
    assert torch.equal(
        decode_changes(model, unchanged.repeat(2, 1, 1, 1), unchanged, still, ANYWHERE), still.repeat(2, 1, 1, 1)
    )


def test_the_cells_of_a_box_hold_it_and_end_with_the_picture():
    latents = torch.zeros(1, 4, 9, 10)
    assert cells_of(np.array([17.0, 32.0, 47.9, 64.1]), 16, latents) == (slice(2, 5), slice(1, 3))
    assert cells_of(np.array([-20.0, 100.0, 500.0, 900.0]), 16, latents) == (slice(6, 9), slice(0, 10))
