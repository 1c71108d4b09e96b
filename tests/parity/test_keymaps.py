"""The key tables: every published name and shape, there and back, and our full-size networks against them."""

import hashlib
import json
import re

import pytest
import torch

from joyhallo import presets
from joyhallo.errors import UserError
from joyhallo.models.networks import Networks, build_networks
from joyhallo.weights.keymaps import KEYMAPS, NEVER_RUN

VARIANTS = ["joyhallo", "hallo"]
NUM_PUBLISHED = {"joyhallo": 2496, "hallo": 2656}
NUM_NEVER_RUN = 140
# Of the sorted lines "published name shape" of all tensors that run; equal to those of the published checkpoints.
DIGESTS = {
    "joyhallo": "fe6710d5074df412fa1eb8fd85b75e6e864f822ae9e0cf280ee368ec92a2344d",
    "hallo": "f9a807a839d45b98ef012a3d5589f17fce56f43295425d5075af5c758280fa80",
}


def digest(shapes: dict[str, tuple[int, ...]]) -> str:
    lines = sorted(f"{name} {list(shape)}" for name, shape in shapes.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@pytest.fixture(scope="module")
def full_size() -> dict[str, Networks]:
    with torch.device("meta"):
        return {variant: build_networks(getattr(presets, variant)()) for variant in VARIANTS}


@pytest.fixture(scope="module")
def manifests(reference_folder) -> dict[str, dict[str, tuple[int, ...]]]:
    read = {variant: json.loads((reference_folder / f"{variant}_net_manifest.json").read_text()) for variant in VARIANTS}
    return {variant: {name: tuple(shape) for name, shape in names.items()} for variant, names in read.items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_our_full_size_tensors_are_the_published_ones(full_size, variant):
    keymap, shapes = KEYMAPS[variant], {}
    for component, module in full_size[variant].modules().items():
        for name, tensor in module.state_dict().items():
            published = keymap.to_published(component, name)
            target = keymap.to_ours(published)
            assert (target.component, target.name) == (component, name)
            there = target.to_published(tensor)
            assert target.from_published(there).shape == tensor.shape == target.shape(there.shape)
            assert published not in shapes
            shapes[published] = tuple(there.shape)
    assert len(shapes) == NUM_PUBLISHED[variant] - NUM_NEVER_RUN
    assert digest(shapes) == DIGESTS[variant]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_name_of_the_manifest_is_accounted_for(full_size, manifests, variant):
    keymap, manifest = KEYMAPS[variant], manifests[variant]
    assert len(manifest) == NUM_PUBLISHED[variant]
    ours = {component: module.state_dict() for component, module in full_size[variant].modules().items()}
    running = {}
    for name, shape in manifest.items():
        target = keymap.to_ours(name)
        if target is None:
            continue
        running[name] = shape
        assert keymap.to_published(target.component, target.name) == name
        assert tuple(ours[target.component].pop(target.name).shape) == target.shape(shape)
    assert not any(ours.values()), "tensors of ours that no published one fills"
    dropped = sorted(set(manifest) - set(running))
    assert len(dropped) == NUM_NEVER_RUN
    assert all(re.match(r"denoising_unet\.(down_blocks\.3|up_blocks\.0)\.motion_modules\.", name) for name in dropped)
    assert sum(torch.Size(manifest[name]).numel() for name in dropped) == pytest.approx(180.8e6, rel=1e-3)
    assert digest(running) == DIGESTS[variant]


@pytest.mark.parametrize("variant", VARIANTS)
def test_values_survive_the_way_there_and_back(manifests, variant):
    """Entry by entry, on shapes shrunk to at most three along every axis that is longer."""
    for name, shape in manifests[variant].items():
        target = KEYMAPS[variant].to_ours(name)
        if target is None:
            continue
        small = tuple(min(size, 3 + i) for i, size in enumerate(shape))
        tensor = torch.arange(torch.Size(small).numel()).reshape(small)
        assert torch.equal(target.to_published(target.from_published(tensor)), tensor), name


def test_the_variants_differ_in_the_audio_attention_alone(full_size):
    names = {v: {f"{c}.{n}" for c, m in full_size[v].modules().items() for n in m.state_dict()} for v in VARIANTS}
    assert not names["joyhallo"] - names["hallo"]
    assert all(".audio.audio_attentions." in name for name in names["hallo"] - names["joyhallo"])


def test_the_regions_of_hallo_are_in_the_order_of_the_published_code():
    """attn2_0, _1, _2 are full, face and lip; zero_conv_* are called by region; ours are lip, expression, pose."""
    keymap = KEYMAPS["hallo"]
    block = "denoising_unet.mid_block.audio_modules.0.transformer_blocks.0."
    pairs = [("attn2_0", "full", 2), ("attn2_1", "face", 1), ("attn2_2", "lip", 0)]
    for attention, region, index in pairs:
        assert (
            keymap.to_ours(f"{block}{attention}.to_q.weight").name
            == f"body.mid.sites.0.audio.audio_attentions.{index}.to_q.weight"
        )
        assert keymap.to_ours(f"{block}zero_conv_{region}.weight").name == f"body.mid.sites.0.audio.branches.{index}.weight"
    assert keymap.to_ours(f"{block}zero_conv_lip.weight").layout == "pointwise"


@pytest.mark.parametrize(
    "name",
    [
        "reference_unet.conv_out.weight",  # the reference network has none
        "denoising_unet.mid_block.audio_modules.0.transformer_blocks.0.attn2_1.to_q.weight",  # Hallo's
        "denoising_unet.down_blocks.0.attentions.0.proj_in.scale",
        "denoising_unet.conv_in.weight.weight",
        "denoising_unet.down_blocks.x.resnets.0.conv1.weight",
        "face_locator.blocks.{}.weight",
        "module.denoising_unet.conv_in.weight",
        "vae.encoder.conv_in.weight",
        "weight",
        "",
    ],
)
def test_unknown_names_are_user_errors(name):
    with pytest.raises(UserError, match=re.escape(repr(name))) as caught:
        KEYMAPS["joyhallo"].to_ours(name)
    assert "\n" not in str(caught.value)
    assert "joyhallo" in str(caught.value)


def test_names_that_are_not_ours_are_key_errors():
    with pytest.raises(KeyError):
        KEYMAPS["joyhallo"].to_published("denoising_network", "body.down.3.sites.0.motion.proj_in.scale")


def test_motion_modules_that_never_run_are_known_by_their_level():
    assert NEVER_RUN.match("denoising_unet.up_blocks.0.motion_modules.2.temporal_transformer.norm.weight")
    assert KEYMAPS["hallo"].to_ours("denoising_unet.down_blocks.3.motion_modules.1.temporal_transformer.norm.bias") is None
    assert KEYMAPS["hallo"].to_ours("denoising_unet.up_blocks.1.motion_modules.0.temporal_transformer.norm.bias") is not None
