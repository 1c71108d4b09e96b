"""Train the denoiser of the embedded weights, in the two stages of its recipe, from prepared clips.

    python examples/train_mini.py stills --clips CLIPS --encoders FOLDER --run RUN
    python examples/train_mini.py motion --clips CLIPS --encoders FOLDER --run RUN2 --init RUN
    python examples/train_mini.py export --encoders FOLDER --run RUN2 --output src/joyhallo/weights/mini

FOLDER holds the autoencoder, the speech encoder and the identity encoder. A run goes on from its last checkpoint.
"""

import argparse
import logging
from pathlib import Path

import torch
from torch import Tensor

from joyhallo.data.dataset import ClipDataset, Clips
from joyhallo.models.autoencoder import PatchAutoencoder
from joyhallo.models.identity_encoder import IdentityNetwork
from joyhallo.models.latents import LatentSpace
from joyhallo.models.networks import Networks, build_networks
from joyhallo.models.speech_encoder import MelSpeechNetwork
from joyhallo.pipeline import JoyHalloPipeline
from joyhallo.presets import mini
from joyhallo.sampling.schedule import training_schedule
from joyhallo.training.loop import train
from joyhallo.training.recipes import RECIPES, Recipe
from joyhallo.training.stages import Batch, draw, velocity_loss
from joyhallo.training.state import CHECKPOINT


def to_batch(clips: Clips, space: LatentSpace) -> Batch:
    latents = space.to_sampled(clips.latents, clips.portrait[:, :, None])
    references = space.of_reference(torch.cat([clips.portrait[:, None], clips.past], dim=1))
    return Batch(latents, references, clips.face_embedding, clips.audio_window, clips.face_region, clips.masks)


def load_run(networks: Networks, folder: Path, averaged: bool) -> None:
    content = torch.load(folder / CHECKPOINT, weights_only=True)
    for name, module in networks.modules().items():
        module.load_state_dict(content["averages" if averaged else "weights"][name], strict=True)


def run_stage(recipe: Recipe, networks: Networks, dataset: ClipDataset, folder: Path) -> None:
    sampling = mini().sampling
    space = LatentSpace(sampling.latent_form, sampling.latent_scale)
    for name, module in networks.modules().items():
        for path, parameter in module.named_parameters():
            parameter.requires_grad_(recipe.trains(f"{name}.{path}"))
        module.to(memory_format=torch.channels_last)

    def batch_for(generator: torch.Generator) -> Batch:
        return to_batch(dataset.draw(generator, recipe.num_clips, recipe.num_frames, recipe.num_past), space)

    def loss_of(batch: Batch, generator: torch.Generator) -> Tensor:
        return velocity_loss(networks, batch, recipe.objective, draw(batch, recipe.objective, generator))

    train(networks.modules(), batch_for, loss_of, recipe.schedule, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=[*RECIPES, "export"])
    parser.add_argument("--clips", type=Path)
    parser.add_argument("--encoders", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--init", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    networks = build_networks(mini())
    speech = MelSpeechNetwork.from_pretrained(given.encoders / "speech_encoder").eval()
    identity = IdentityNetwork.from_pretrained(given.encoders / "identity_encoder").eval()
    if given.stage == "export":
        load_run(networks, given.run, averaged=True)
        vae = PatchAutoencoder.from_pretrained(given.encoders / "autoencoder")
        parts = {**networks.modules(), "vae": vae, "speech_encoder": speech, "identity_encoder": identity}
        pipe = JoyHalloPipeline(**parts, scheduler=training_schedule(), sampling=mini().sampling)
        for module in parts.values():
            torch.nn.Module.to(module, torch.float16)
        pipe.save_pretrained(given.output, safe_serialization=True)
        return
    if given.init:
        load_run(networks, given.init, averaged=True)
    with torch.no_grad():
        dataset = ClipDataset(given.clips, torch.no_grad()(lambda wave: speech(wave[None])[0]), torch.no_grad()(identity))
    run_stage(RECIPES[given.stage]().with_steps(given.steps), networks, dataset, given.run)


if __name__ == "__main__":
    main()
