"""Comparison of a build with goldens: tiny networks with random weights, their inputs and what the published code made of them.

A folder holds `golden_<variant>_config.json`, `golden_<variant>_weights.safetensors` and `golden_<variant>_io.safetensors` for
one variant or both, whatever the sizes in the configuration.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from safetensors.torch import load_file
from torch import Tensor, nn

from joyhallo.errors import UserError
from joyhallo.models.conditions import ClipInputs, ReferenceFeatures, RegionMasks, RegionScale
from joyhallo.models.networks import Networks, build_networks
from joyhallo.models.unet import Conditioning
from joyhallo.presets import Preset
from joyhallo.sampling.guidance import PUBLISHED_DROPS, with_unconditional
from joyhallo.sampling.sampler import Velocity, guided_velocity, sample
from joyhallo.weights.keymaps import KEYMAPS, Variant

FORWARD_TOLERANCE = 2e-5
SAMPLING_TOLERANCE = 2e-4
TIMESTEP = 601
GUIDANCE_SCALE = 3.5
SCALES = {"ms_none": RegionScale(), "ms_1_0.8_1.2": RegionScale(pose=1.0, expression=0.8, lip=1.2)}


@dataclass(frozen=True)
class Difference:
    """The largest absolute difference of one quantity."""

    variant: Variant
    quantity: str
    largest: float
    tolerance: float

    @property
    def is_equal(self) -> bool:
        return self.largest <= self.tolerance  # a NaN is not


def read_published_config(config: dict[str, Any]) -> Preset:
    """The published configuration of the networks as ours."""
    unet, extra = config["unet"], config["unet_additional_kwargs"]
    motion = extra["motion_module_kwargs"]
    shape = {
        "in_channels": unet["in_channels"],
        "widths": unet["block_out_channels"],
        "attention_levels": ["CrossAttn" in kind for kind in unet["down_block_types"]],
        "layers_per_level": unet["layers_per_block"],
        "num_heads": unet["attention_head_dim"],  # the number of heads, whatever its name says
        "num_groups": unet["norm_num_groups"],
        "face_dim": unet["cross_attention_dim"],
        "row_order": "interleaved",
    }
    face, audio = config["imageproj"], config["audioproj"]
    return Preset(
        reference_network=shape,
        denoising_network=shape
        | {
            "out_channels": unet["out_channels"],
            "audio_dim": extra["audio_attention_dim"],
            "audio_attention": "semi_decoupled" if config["variant"] == "joyhallo" else "decoupled",
            "motion_heads": motion["num_attention_heads"],
            "max_motion_length": motion["temporal_position_encoding_max_len"],
        },
        face_projector={
            "embedding_size": face["clip_embeddings_dim"],
            "num_tokens": face["clip_extra_context_tokens"],
            "token_dim": face["cross_attention_dim"],
        },
        audio_projector={
            "window_length": audio["seq_len"],
            "num_blocks": audio["blocks"],
            "channels": audio["channels"],
            "hidden_dim": audio["intermediate_dim"],
            "num_tokens": audio["context_tokens"],
            "token_dim": audio["output_dim"],
        },
        face_locator={"out_channels": config["face_locator"]["conditioning_embedding_channels"]},
    )


def load_published(networks: Networks, tensors: dict[str, Tensor], variant: Variant) -> None:
    """Load published tensors, strictly."""
    ours: dict[str, dict[str, Tensor]] = {name: {} for name in networks.modules()}
    for name, tensor in tensors.items():
        target = KEYMAPS[variant].to_ours(name)
        if target is not None:
            ours[target.component][target.name] = target.from_published(tensor)
    for name, module in networks.modules().items():
        module.load_state_dict(ours[name], strict=True)


class Golden:
    """One variant's golden: its networks, built here, and its tensors."""

    def __init__(self, folder: Path, variant: Variant, device: torch.device, dtype: torch.dtype) -> None:
        self.variant: Variant = variant
        self.device, self.dtype = device, dtype
        self.config = json.loads((folder / f"golden_{variant}_config.json").read_text())
        weights = {k: v.float() for k, v in load_file(folder / f"golden_{variant}_weights.safetensors").items()}
        self.io = load_file(folder / f"golden_{variant}_io.safetensors")
        self.networks = build_networks(read_published_config(self.config))
        load_published(self.networks, {k: v for k, v in weights.items() if not k.startswith("vae.")}, variant)
        self.vae: Any = AutoencoderKL(**self.config["vae"])
        self.vae.load_state_dict({k[4:]: v for k, v in weights.items() if k.startswith("vae.")}, strict=True)
        modules: list[nn.Module] = [self.vae, *self.networks.modules().values()]
        for module in modules:
            nn.Module.to(module, device, dtype).requires_grad_(False).eval()
        self.scheduler = DDIMScheduler(**self.config["scheduler"])

    def __getitem__(self, name: str) -> Tensor:
        return self.io[name].to(self.device, self.dtype)

    def reference(self, guided: bool, latents: Tensor) -> ReferenceFeatures:
        """Features of the reference rows [3,C,H,W], for both halves when guided."""
        num_samples = 2 if guided else 1
        tokens = torch.cat([self.no_face, self.face])[-num_samples:]
        return self.networks.reference_network(latents.expand(num_samples, *latents.shape), tokens)

    @property
    def face(self) -> Tensor:
        return self.networks.face_projector(self["in.face_emb"])

    @property
    def no_face(self) -> Tensor:
        return self.networks.face_projector(torch.zeros_like(self["in.face_emb"]))

    def inputs(self, guided: bool, reference: ReferenceFeatures | None, num_frames: int | None = None) -> ClipInputs:
        """The golden clip, cut to its first frames."""
        audio = self.networks.audio_projector(self["in.audio_window"])[:, :num_frames]
        masks = {}
        for ours, theirs in (("lip", "lip"), ("expression", "face"), ("pose", "full")):
            pyramid = [self[f"in.mask_{theirs}.{depth}"][None, : audio.shape[1]] for depth in range(4)]
            height, width = self["in.initial_latents"].shape[-2:]
            sizes = [(-(-height // 2**d), -(-width // 2**d)) for d in range(4)]
            masks[ours] = tuple(m.unflatten(-1, size) for m, size in zip(pyramid, sizes, strict=True))
        location = self.networks.face_locator(self["in.face_region_mask"])
        inputs = ClipInputs(reference, self.face, audio, location, RegionMasks(**masks))
        return with_unconditional(inputs, PUBLISHED_DROPS, self.no_face) if guided else inputs

    def difference(
        self, quantity: str, ours: Tensor, golden: str | None = None, tolerance: float = FORWARD_TOLERANCE
    ) -> Difference:
        expected = self.io[golden or quantity].double()
        if ours.shape != expected.shape:
            raise UserError(f"{quantity}: {tuple(ours.shape)} here, {tuple(expected.shape)} in the golden")
        return Difference(self.variant, quantity, (ours.double().cpu() - expected).abs().max().item(), tolerance)

    def compare_parts(self) -> Iterator[Difference]:
        """Projectors, face locator, autoencoder, schedule."""
        yield self.difference("imageproj.cond", self.face)
        yield self.difference("imageproj.uncond", self.no_face)
        yield self.difference("audioproj.out", self.networks.audio_projector(self["in.audio_window"]))
        location = self.networks.face_locator(self["in.face_region_mask"])
        frames = self.io["face_locator.out"].shape[2]
        yield self.difference("face_locator.out", location[:, :, None].expand(-1, -1, frames, -1, -1))
        encoded = self.vae.encode(self["in.ref_and_motion_pixels"].flatten(0, 1)).latent_dist.mean
        yield self.difference("vae.encode.mean", encoded)
        for steps in (4, 40):
            self.scheduler.set_timesteps(steps)
            yield self.difference(f"sched.infer.timesteps{steps}", self.scheduler.timesteps)
        yield self.difference("sched.infer.alphas_cumprod", self.scheduler.alphas_cumprod)
        training = DDIMScheduler(**self.config["scheduler"] | {"beta_schedule": "scaled_linear"})
        yield self.difference("sched.train.alphas_cumprod", training.alphas_cumprod)

    @property
    def feature_names(self) -> list[str]:
        """The golden's features of the guided run, in the order of execution."""
        order = ("down_blocks", "mid_block", "up_blocks")
        return sorted((k for k in self.io if k.startswith("cfg.bank.")), key=lambda k: (order.index(k.split(".")[2]), k))

    def rounded_reference(self) -> ReferenceFeatures:
        """The golden's own features in half precision, as the published code hands them over.

        Rounding ours instead would compare rounding edges: a feature 1e-6 away can fall to the other half-precision neighbour,
        1e-3 away. That is why the other runs with rounded features, for which the golden holds no features, are left out.
        """
        rows = (self.io[name].half().to(self.device, self.dtype) for name in self.feature_names)
        return ReferenceFeatures(tuple(site.unflatten(0, (2, -1)) for site in rows))

    def compare_reference(self) -> Iterator[Difference]:
        """What the reference network hands out, site by site in the order of execution."""
        features = self.reference(True, self["in.ref_latents"])
        for path, site in zip(self.feature_names, features.sites, strict=True):
            yield self.difference(path, site.flatten(0, 1))

    def compare_forward(self) -> Iterator[Difference]:
        """One forward of the denoising network, with and without guidance, per rounding of the features and region scale."""
        latents = self["in.initial_latents"]
        timestep = torch.tensor([TIMESTEP], device=self.device)
        for guided, prefix in ((True, "cfg"), (False, "nocfg")):
            exact = self.reference(guided, self["in.ref_latents"])
            cases = [(f"bank32.denoise.{ms}", exact, scale, None) for ms, scale in SCALES.items()]
            if guided:
                cases += [(f"bank16.denoise.{ms}", self.rounded_reference(), scale, None) for ms, scale in SCALES.items()]
            cases.append(("bank32.denoise_F4.ms_none", exact, RegionScale(), 4))
            cases.append(("emptybank.denoise.ms_none", None, RegionScale(), None))
            for name, reference, scale, num_frames in cases:
                if f"{prefix}.{name}" not in self.io:
                    continue
                conditioning = self.networks.denoising_network.condition(self.inputs(guided, reference, num_frames), scale)
                noisy = latents[:, :, :num_frames].expand(2 if guided else 1, -1, -1, -1, -1)
                yield self.difference(f"{prefix}.{name}", self.networks.denoising_network(noisy, timestep, conditioning))

    def velocity(self, conditioning: Conditioning) -> Velocity:
        network = self.networks.denoising_network
        return lambda latents, timestep: network(latents.to(self.dtype), timestep, conditioning)

    def compare_sampling(self) -> Iterator[Difference]:
        """Four guided steps of a first and of a second clip: the latents after every step, and the pictures."""
        for name in sorted(k for k in self.io if k.startswith("pipe.bank32.") and k.endswith("latents_per_step")):
            ms = name.rsplit(".", 1)[0]
            second = ".clip2." in name
            pixels = self["in.clip2_ref_and_motion_pixels" if second else "in.ref_and_motion_pixels"][0]
            encoded = self.vae.encode(pixels).latent_dist.mean * self.config["vae"]["scaling_factor"]
            reference = self.reference(True, encoded)
            scale = next(s for suffix, s in SCALES.items() if ms.endswith(suffix))
            conditioning = self.networks.denoising_network.condition(self.inputs(True, reference), scale)
            noise = self["in.initial_latents_clip2" if second else "in.initial_latents"].float()
            velocity = guided_velocity(self.velocity(conditioning), GUIDANCE_SCALE)
            steps = torch.stack(list(sample(velocity, self.scheduler, len(self.io[name]), noise)))
            yield self.difference(name, steps, tolerance=SAMPLING_TOLERANCE)
            video = f"{ms}.video"
            if video in self.io:
                decoded = self.vae.decode(
                    steps[-1][0].transpose(0, 1).to(self.dtype) / self.config["vae"]["scaling_factor"]
                ).sample
                frames = (decoded / 2 + 0.5).clamp(0, 1).transpose(0, 1)[None]
                yield self.difference(video, frames, tolerance=SAMPLING_TOLERANCE)

    @torch.no_grad()
    def compare(self) -> Iterator[Difference]:
        yield from self.compare_parts()
        yield from self.compare_reference()
        yield from self.compare_forward()
        yield from self.compare_sampling()


def compare_goldens(folder: Path, device: torch.device, dtype: torch.dtype) -> Iterator[Difference]:
    """Every quantity of every golden in a folder.

    Raises:
        UserError: there is no golden in the folder.
    """
    variants: list[Variant] = [v for v in ("joyhallo", "hallo") if (folder / f"golden_{v}_config.json").is_file()]
    if not variants:
        raise UserError(
            f"no golden_joyhallo_config.json or golden_hallo_config.json in {folder}: name the folder that holds them"
        )
    for variant in variants:
        yield from Golden(folder, variant, device, dtype).compare()
