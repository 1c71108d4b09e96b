"""Two-way tables between the tensor names of the published checkpoints and ours.

A table row is a published name and ours, with a hole `{}` for every number that runs; `.weight` and `.bias` are left off. The
published `net.pth` holds all five networks under prefixes; ours are five components.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Size, Tensor

from joyhallo.errors import UserError

Variant = Literal["joyhallo", "hallo"]
Layout = Literal["same", "pointwise", "batched"]

COMPONENTS = {
    "reference_unet": "reference_network",
    "denoising_unet": "denoising_network",
    "imageproj": "face_projector",
    "audioproj": "audio_projector",
    "face_locator": "face_locator",
}
BLOCKS = {"down_blocks.{}": "body.down.{}", "mid_block": "body.mid", "up_blocks.{}": "body.up.{}"}
RESNET = {
    "norm1": "norm1",
    "conv1": "conv1",
    "time_emb_proj": "time",
    "norm2": "norm2",
    "conv2": "conv2",
    "conv_shortcut": "shortcut",
}
ATTENTION = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out.0": "to_out"}
FEED_FORWARD = {"ff.net.0.proj": "ff.proj_in", "ff.net.2": "ff.proj_out"}
AROUND = {"norm": "norm", "proj_in": "proj_in", "proj_out": "proj_out"}
# Hallo attends to pose, expression and lip in this order; JoyHallo's one attention is called like Hallo's first.
AUDIO_ATTENTIONS = {
    "joyhallo": {"attn2_0": "audio_attentions.0"},
    "hallo": {"attn2_0": "audio_attentions.2", "attn2_1": "audio_attentions.1", "attn2_2": "audio_attentions.0"},
}
BRANCHES = {"zero_conv_lip": "branches.0", "zero_conv_face": "branches.1", "zero_conv_full": "branches.2"}
ENDS = {"conv_in": "conv_in", "time_embedding.linear_1": "body.time_embedding.linear_1"}
ENDS |= {"time_embedding.linear_2": "body.time_embedding.linear_2", "conv_norm_out": "norm_out", "conv_out": "conv_out"}
SMALL = {
    "imageproj": {"proj": "proj", "norm": "norm"},
    "audioproj": {"proj1": "proj1", "proj2": "proj2", "proj3": "proj3", "norm": "norm"},
    "face_locator": {"conv_in": "conv_in", "blocks.{}": "blocks.{}", "conv_out": "conv_out"},
}

POINTWISE = re.compile(r"(attentions|audio_modules)\.\d+\.(proj_in|proj_out|transformer_blocks\.0\.zero_conv_\w+)\.weight$")
# The published forward pass never runs these motion modules: their levels have no attention.
NEVER_RUN = re.compile(r"denoising_unet\.(down_blocks\.3|up_blocks\.0)\.motion_modules\.\d+\.")
PUBLISHED_HOLES = re.compile(
    r"\b(?<!_)(down_blocks|up_blocks|resnets|attentions|audio_modules|motion_modules|attention_blocks|norms|blocks)\.(\d+)"
)
OUR_HOLES = re.compile(r"\b(?<!_)(down|up|resnets|sites|attentions|blocks)\.(\d+)")


@dataclass(frozen=True)
class Target:
    """Where a published tensor belongs in our components."""

    component: str
    name: str
    layout: Layout = "same"

    def shape(self, published: Size | tuple[int, ...]) -> tuple[int, ...]:
        """Our shape of a tensor with this published shape."""
        if self.layout == "pointwise":  # a 1×1 convolution is a linear layer here
            return tuple(published[:2])
        return tuple(published[1:]) if self.layout == "batched" else tuple(published)

    def from_published(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(self.shape(tensor.shape))

    def to_published(self, tensor: Tensor) -> Tensor:
        if self.layout == "pointwise":
            return tensor[:, :, None, None]
        return tensor[None] if self.layout == "batched" else tensor


def _nest(outer: tuple[str, str], table: dict[str, str]) -> Iterator[tuple[str, str]]:
    for published, ours in table.items():
        yield f"{outer[0]}.{published}", f"{outer[1]}.{ours}"


def _transformer(self_attention: dict[str, str], norms: dict[str, str]) -> dict[str, str]:
    """A published transformer block, whose one layer is called transformer_blocks.0."""
    layer = norms | FEED_FORWARD
    for published, ours in self_attention.items():
        layer |= dict(_nest((published, ours), ATTENTION))
    return AROUND | {f"transformer_blocks.0.{published}": ours for published, ours in layer.items()}


def _motion() -> dict[str, str]:
    layer = {"norms.{}": "attentions.{}.norm", "ff_norm": "ff_norm", **FEED_FORWARD}
    layer |= dict(_nest(("attention_blocks.{}", "attentions.{}.attention"), ATTENTION))
    layer["attention_blocks.{}.pos_encoder.pe"] = "attentions.{}.positions"
    inner = AROUND | {f"transformer_blocks.0.{published}": ours for published, ours in layer.items()}
    return dict(_nest(("temporal_transformer", "motion"), inner))


def _table(variant: Variant) -> dict[str, str]:
    """Published name → `component:our name`, over all five networks."""
    norms = {"norm1": "self_norm", "norm2": "face_norm", "norm3": "ff_norm"}
    spatial = _transformer({"attn1": "self_attention", "attn2": "face_attention"}, norms)
    audio = _transformer({"attn1": "self_attention", **AUDIO_ATTENTIONS[variant]}, norms | {"norm2": "audio_norm"})
    audio |= {f"transformer_blocks.0.{published}": ours for published, ours in BRANCHES.items()}
    rows: dict[str, str] = {}
    for network, site, ends in (("reference_unet", "", 3), ("denoising_unet", ".spatial", 5)):
        table = dict(list(ENDS.items())[:ends])
        for block in BLOCKS.items():
            parts = dict(_nest(("resnets.{}", "resnets.{}"), RESNET))
            parts |= dict(_nest(("attentions.{}", "sites.{}" + site), spatial))
            parts |= {"downsamplers.0.conv": "resample.conv", "upsamplers.0.conv": "resample.conv"}
            if network == "denoising_unet":
                parts |= dict(_nest(("audio_modules.{}", "sites.{}.audio"), audio))
                parts |= {f"motion_modules.{{}}.{p}": f"sites.{{}}.{o}" for p, o in _motion().items()}
            side = "upsamplers" if block[0].startswith("up") else "downsamplers"
            table |= dict(_nest(block, {p: o for p, o in parts.items() if "samplers" not in p or p.startswith(side)}))
        rows |= {f"{network}.{p}": f"{COMPONENTS[network]}:{o}" for p, o in table.items()}
    for network, table in SMALL.items():
        rows |= {f"{network}.{p}": f"{COMPONENTS[network]}:{o}" for p, o in table.items()}
    return rows


def _split(name: str) -> tuple[str, str]:
    stem, _, leaf = name.rpartition(".")
    return (stem, f".{leaf}") if leaf in ("weight", "bias") else (name, "")


@dataclass(frozen=True)
class KeyMap:
    """The names of one published checkpoint and ours."""

    variant: Variant
    published_to_ours: dict[str, str]

    def to_ours(self, name: str) -> Target | None:
        """Where a published tensor belongs, or None for a motion module that never runs.

        Raises:
            UserError: the checkpoint of this variant has no tensor of this name.
        """
        if NEVER_RUN.match(name):
            return None
        stem, leaf = _split(name)
        numbers = [number for _, number in PUBLISHED_HOLES.findall(stem)]
        ours = self.published_to_ours.get(PUBLISHED_HOLES.sub(r"\1.{}", stem))
        if ours is None or "{" in name:  # a literal hole is no name
            raise UserError(f"tensor {name!r} is not part of a {self.variant} checkpoint: check the variant and the file")
        component, ours = ours.format(*numbers).split(":")
        layout: Layout = "pointwise" if POINTWISE.search(name) else "batched" if name.endswith("pos_encoder.pe") else "same"
        return Target(component, ours + leaf, layout)

    def to_published(self, component: str, name: str) -> str:
        """The published name of one of our tensors.

        Raises:
            KeyError: no published tensor corresponds to it.
        """
        stem, leaf = _split(name)
        numbers = [number for _, number in OUR_HOLES.findall(stem)]
        inverse = {ours: published for published, ours in self.published_to_ours.items()}
        row = OUR_HOLES.sub(r"\1.{}", stem)
        return inverse[f"{component}:{row}"].format(*numbers) + leaf


KEYMAPS: dict[Variant, KeyMap] = {"joyhallo": KeyMap("joyhallo", _table("joyhallo")), "hallo": KeyMap("hallo", _table("hallo"))}
