"""Bad portraits, recordings and weights through `joyhallo animate`: one line each, exit code 2, nothing half-written."""

import json
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from PIL import Image
from safetensors.torch import load_file, save_file

from joyhallo.cli import main
from joyhallo.errors import UserError
from joyhallo.presets import Preset, Sampling

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT.parent / "shared" / "data" / "models" / "face_landmarker_v2_with_blendshapes.task"
EXAMPLE = ROOT / "examples" / "portrait.png"
SHAPE = {
    "in_channels": 16,
    "widths": (16, 16),
    "attention_levels": (False, True),
    "layers_per_level": 1,
    "num_heads": 2,
    "num_groups": 4,
    "face_dim": 16,
}
SMALL = Preset(
    reference_network=SHAPE,
    denoising_network=SHAPE | {"out_channels": 16, "audio_dim": 16, "motion_heads": 2},
    face_projector={"embedding_size": 128, "num_tokens": 2, "token_dim": 16},
    audio_projector={"num_blocks": 2, "channels": 128, "hidden_dim": 16, "num_tokens": 2, "token_dim": 16},
    face_locator={"out_channels": 16, "widths": (4, 4, 4, 4, 4)},
    sampling=Sampling(height=64, width=64, clip_length=4, num_steps=1, guidance_scale=1.0),
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A real folder of small weights drawn from a seed, as `save_pretrained` writes it."""
    from joyhallo.models.autoencoder import PatchAutoencoder
    from joyhallo.models.identity_encoder import IdentityNetwork
    from joyhallo.models.networks import build_networks
    from joyhallo.models.speech_encoder import MelSpeechNetwork
    from joyhallo.pipeline import JoyHalloPipeline

    torch.manual_seed(0)
    pipe = JoyHalloPipeline(
        vae=PatchAutoencoder(widths=(8, 8, 8, 8)),
        speech_encoder=MelSpeechNetwork(),
        identity_encoder=IdentityNetwork(),
        scheduler=DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction"),
        **build_networks(SMALL).modules(),
        sampling=SMALL.sampling,
    )
    folder = tmp_path_factory.mktemp("weights") / "small"
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def face_models() -> Path:
    if BUNDLE.is_file():
        return BUNDLE
    from joyhallo.weights.hub import face_models_path

    try:
        return face_models_path()
    except UserError as error:
        pytest.skip(f"no face models: {error}")


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch, face_models) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JOYHALLO_WEIGHTS", str(face_models))
    shutil.copy(EXAMPLE, "p.png")
    write_wav("s.wav", 0.3 * np.sin(np.arange(8000) * 0.1))
    return tmp_path


def write_wav(path: str, samples: np.ndarray) -> None:
    with wave.open(path, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


def write_video(path: str, size: int = 64) -> None:
    import av

    with av.open(path, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((size, size, 3), 90, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def refused(capsys, weights: Path, *more: str, portrait: str = "p.png", speech: str = "s.wav") -> str:
    before = sorted(Path.cwd().rglob("*"))
    code = main(["animate", portrait, speech, "-o", "out.mp4", "--model", str(weights), "--dtype", "fp32", *more])
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("joyhallo: ")]
    assert code == 2, err
    assert out == ""
    assert len(lines) == 1, err
    assert err.splitlines()[-1] == lines[0]
    assert "Traceback" not in err
    assert sorted(Path.cwd().rglob("*")) == before, "nothing is left behind"
    return lines[0]


def portrait() -> Image.Image:
    return Image.open(EXAMPLE).convert("RGB")


def two_faces() -> None:
    one = portrait()
    both = Image.new("RGB", (2 * one.width, one.height))
    both.paste(one, (0, 0))
    both.paste(one, (one.width, 0))
    both.save("p.png")


def far_face() -> None:
    canvas = Image.new("RGB", (640, 640), "white")
    canvas.paste(portrait().resize((72, 72)), (280, 280))
    canvas.save("p.png")


def cut(path: str, share: float) -> None:
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: int(len(content) * share)])


PORTRAITS = {
    "no face": (lambda: Image.new("RGB", (300, 300), "green").save("p.png"), "face"),
    "two faces": (two_faces, "--face"),
    "small face": (far_face, "px"),
    "empty": (lambda: Path("p.png").write_bytes(b""), "empty"),
    "truncated": (lambda: cut("p.png", 0.5), "p.png"),
    "text": (lambda: Path("p.png").write_text("I am a picture"), "p.png"),
    "200 megapixels": (lambda: Image.new("1", (20001, 10000)).save("p.png"), "pixel"),
    "one pixel": (lambda: Image.new("RGB", (1, 1)).save("p.png"), ""),
    "a video": (lambda: write_video("p.png"), "p.png"),
    "a recording": (lambda: write_wav("p.png", np.zeros(800)), "p.png"),
}


@pytest.mark.parametrize("case", PORTRAITS)
def test_bad_portraits(capsys, weights, case):
    write, word = PORTRAITS[case]
    write()
    assert word in refused(capsys, weights)


def test_a_face_that_is_not_there(capsys, weights):
    assert "--face" in refused(capsys, weights, "--face", "3")


SPEECHES = {
    "empty": (lambda: Path("s.wav").write_bytes(b""), "empty"),
    "text": (lambda: Path("s.wav").write_text("I am a recording"), "s.wav"),
    "a picture": (lambda: Image.new("RGB", (64, 64)).save("s.wav", format="png"), "s.wav"),
    "silence": (lambda: write_wav("s.wav", np.zeros(16000)), "silent"),
    "50 ms": (lambda: write_wav("s.wav", 0.3 * np.sin(np.arange(800) * 0.1)), "s"),
    "header alone": (lambda: cut("s.wav", 0.002), "s.wav"),
    "a video without sound": (lambda: write_video("s.wav"), "s.wav"),
}


@pytest.mark.parametrize("case", SPEECHES)
def test_bad_speech(capsys, weights, case):
    write, word = SPEECHES[case]
    write()
    assert word in refused(capsys, weights, portrait="p.png")


def spoil(folder: Path, component: str, change) -> None:
    path = next((folder / component).glob("*.safetensors"))
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def other_variant(folder: Path) -> None:
    path = folder / "denoising_network" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"audio_attention": "decoupled"}))


WEIGHTS = {
    "missing tensor": (lambda f: spoil(f, "face_projector", lambda t: t.pop("proj.weight")), ["missing", "proj.weight"]),
    "misshapen tensor": (
        lambda f: spoil(f, "face_projector", lambda t: t.update({"norm.weight": torch.zeros(3)})),
        ["norm.weight", "[3]", "[16]"],
    ),
    "extra tensor": (
        lambda f: spoil(f, "face_projector", lambda t: t.update({"norm.wieght": torch.zeros(3)})),
        ["norm.wieght", "unknown"],
    ),
    "wrong variant": (other_variant, ["missing"]),
    "no index": (lambda f: (f / "model_index.json").unlink(), ["model_index.json"]),
    "broken index": (lambda f: (f / "model_index.json").write_text("{"), ["model_index.json"]),
    "no config": (lambda f: (f / "vae" / "config.json").unlink(), ["config.json"]),
    "cut file": (lambda f: cut(str(next((f / "vae").glob("*.safetensors"))), 0.9), ["cut short"]),
    "no component": (lambda f: shutil.rmtree(f / "face_locator"), ["face_locator"]),
    "no folder": (shutil.rmtree, ["weights"]),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_bad_weights(capsys, weights, tmp_path_factory, case):
    change, words = WEIGHTS[case]
    copy = tmp_path_factory.mktemp("spoiled") / "copy"
    shutil.copytree(weights, copy)
    change(copy)
    line = refused(capsys, copy)
    assert all(word in line for word in words), line


def test_unknown_model(capsys):
    assert "mini" in refused(capsys, Path("maxi"))


def test_good_input_makes_a_file(capsys, weights):
    """The same command with nothing wrong, so that the refusals above are about their input."""
    code = main(["animate", "p.png", "s.wav", "-o", "out.mp4", "--model", str(weights), "--dtype", "fp32", "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    made = json.loads(out)
    assert made["output"] == "out.mp4"
    assert made["num_frames"] == 13
    assert Path("out.mp4").stat().st_size > 1000
    assert main(["verify", "out.mp4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["aigc"]["label"] == "1"
