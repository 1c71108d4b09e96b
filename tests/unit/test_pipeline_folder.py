"""A pipeline's folder: written and read back, and every way in which it can be broken."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from joyhallo.errors import UserError
from joyhallo.pipeline import JoyHalloPipeline
from joyhallo.sampling.options import Options
from tiny import drawn_pipeline, drawn_portrait, drawn_speech

OPTIONS = Options(num_steps=1, guidance_scale=2.0)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline") / "saved"
    drawn_pipeline(unconditional_drops=("audio",), shared_noise=0.5).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(saved, tmp_path / "copy")


def first_frames(pipe) -> np.ndarray:
    return pipe(drawn_portrait((32, 32)), drawn_speech(3), OPTIONS).frames


def edit(path, **changes: object) -> None:
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps(content))


def weights_of(folder, component: str):
    return next((folder / component).glob("*.safetensors"))


def test_saved_and_loaded_gives_the_same_frames(saved, tmp_path):
    before, loaded = drawn_pipeline(unconditional_drops=("audio",), shared_noise=0.5), JoyHalloPipeline.from_pretrained(saved)
    assert loaded.sampling == before.sampling
    assert loaded.scheduler.config["beta_schedule"] == before.scheduler.config["beta_schedule"]
    for name, component in before.components.items():
        if isinstance(component, torch.nn.Module):
            for key, tensor in component.state_dict().items():
                assert torch.equal(tensor, loaded.components[name].state_dict()[key]), f"{name}.{key}"
    found = first_frames(loaded)
    assert np.abs(found.astype(int) - first_frames(before)).max() <= 1
    loaded.save_pretrained(tmp_path / "again")
    assert np.array_equal(first_frames(JoyHalloPipeline.from_pretrained(tmp_path / "again")), found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loaded_networks_do_not_train_and_take_the_asked_dtype(saved, dtype):
    half = JoyHalloPipeline.from_pretrained(saved, torch_dtype=dtype)
    for name, component in half.components.items():
        if isinstance(component, torch.nn.Module):
            assert not component.training
            assert not any(parameter.requires_grad for parameter in component.parameters())
            assert {parameter.dtype for parameter in component.parameters()} == {dtype}, name


def test_any_scheduler_of_diffusers(folder):
    from diffusers import UniPCMultistepScheduler

    scheduler = JoyHalloPipeline.from_pretrained(folder).scheduler
    UniPCMultistepScheduler.from_config(scheduler.config).save_pretrained(folder / "scheduler")
    edit(folder / "model_index.json", scheduler=["diffusers", "UniPCMultistepScheduler"])
    assert first_frames(JoyHalloPipeline.from_pretrained(folder)).shape == (3, 32, 32, 3)


def break_missing_tensor(folder):
    path = weights_of(folder, "denoising_network")
    tensors = load_file(path)
    del tensors["conv_out.bias"]
    save_file(tensors, path)


def break_extra_tensor(folder):
    path = weights_of(folder, "face_locator")
    save_file(load_file(path) | {"conv_between.weight": torch.zeros(1)}, path)


def break_misshapen_tensor(folder):
    path = weights_of(folder, "reference_network")
    save_file(load_file(path) | {"conv_in.bias": torch.zeros(9)}, path)


def break_truncated(folder):
    path = weights_of(folder, "vae")
    path.write_bytes(path.read_bytes()[:-10])


BROKEN = {
    "conv_out.bias": break_missing_tensor,
    "conv_between.weight": break_extra_tensor,
    r"conv_in.bias .*\[9\].*\[8\]": break_misshapen_tensor,
    "vae.*cut short": break_truncated,
    "vae.* holds 0 safetensors": lambda folder: weights_of(folder, "vae").unlink(),
    "audio_projector.*config.json is missing": lambda folder: (folder / "audio_projector" / "config.json").unlink(),
    "face_locator.*config.json is not JSON": lambda folder: (folder / "face_locator" / "config.json").write_text("{"),
    "holds no table": lambda folder: (folder / "model_index.json").write_text("[]"),
    "no model_index.json": lambda folder: (folder / "model_index.json").unlink(),
    "scheduler_config.json is missing": lambda folder: (folder / "scheduler" / "scheduler_config.json").unlink(),
    "'NoScheduler'": lambda folder: edit(folder / "model_index.json", scheduler=["diffusers", "NoScheduler"]),
    "'AutoencoderKM'": lambda folder: edit(folder / "model_index.json", vae=["diffusers", "AutoencoderKM"]),
    "is of PatchAutoencoder": lambda folder: edit(folder / "model_index.json", vae=["joyhallo", "FaceLocator"]),
    "'vea' is no component": lambda folder: edit(folder / "model_index.json", vea=["diffusers", "AutoencoderKL"]),
    "names no vae": lambda folder: edit(folder / "model_index.json", vae=[None, None]),
    "'widht' .*'widths'": lambda folder: edit(folder / "face_locator" / "config.json", widht=[4, 4]),
    "'clip_lenght'.*'clip_length'": lambda folder: edit(folder / "model_index.json", sampling={"clip_lenght": 4}),
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_folder_is_one_line_that_names_what_is_wrong(folder, message):
    BROKEN[message](folder)
    with pytest.raises(UserError, match=message) as caught:
        JoyHalloPipeline.from_pretrained(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["nowhere", "/no/such/folder/at/all"])
def test_weights_that_are_not_there(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"no weights '{source}'"):
        JoyHalloPipeline.from_pretrained(source)


def test_a_saved_folder_does_not_say_where_it_was_loaded_from(folder, tmp_path):
    edit(folder / "vae" / "config.json", _name_or_path="/home/somebody/weights")
    JoyHalloPipeline.from_pretrained(folder).save_pretrained(tmp_path / "again")
    assert not any(b"somebody" in path.read_bytes() for path in (tmp_path / "again").rglob("*.json"))
