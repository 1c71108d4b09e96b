"""Bad input through the real command line: one line that says what to do, exit code 2, nothing written."""

import errno
import importlib
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from joyhallo import cli
from joyhallo.cli import main
from joyhallo.errors import run_as_command


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JOYHALLO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JOYHALLO_WEIGHTS", raising=False)
    Image.fromarray(np.full((64, 64, 3), 128, np.uint8)).save("p.png")
    (tmp_path / "s.wav").write_bytes(wav(np.zeros(16000, np.int16)))


def wav(samples: np.ndarray, rate: int = 16000) -> bytes:
    import wave

    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()


def run(capsys, *arguments: str) -> str:
    """Runs the command in this process; checks that it failed cleanly and returns its one line."""
    before = sorted(Path.cwd().iterdir())
    code = main(list(arguments))
    out, err = capsys.readouterr()
    assert code == 2, err
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("joyhallo: ")
    assert "Traceback" not in err
    assert sorted(Path.cwd().iterdir()) == before, "nothing is written"
    return err


WRONG_OPTIONS = [
    (["anmate"], "'animate'"),
    (["models", "pul", "x"], "'pull'"),
    (["animate", "p.png", "s.wav", "-o", "o.mp4", "--stpes", "3"], "--steps"),
    (["animate", "p.png", "s.wav", "-o", "o.mp4", "--qqq", "3"], "nearest known option"),
    (["animate", "p.png", "s.wav", "-o", "o.mp4", "--steps", "three"], "--steps"),
    (["animate", "p.png", "s.wav", "-o", "o.mp4", "--label", "none"], "persistent"),
    (["animate", "p.png", "s.wav"], "--output"),
    (["animate", "p.png"], "--help"),
    (["animate", "p.png", "s.wav", "more", "-o", "o.mp4"], "more"),
    (["animate", "p.png", "s.wav", "-o", "o.mp4", "--steps", "0"], "1 to 1000"),
    (["animate", "p.png", "s.wav", "-o", "o.mp4", "--crf", "52"], "51"),
    (["animate", "p.png", "s.wav", "-o", "o.mp4", "--lip", "nan"], "--lip"),
    (["animate", "p.png", "s.wav", "-o", "o.mp4", "--pose", "-1"], "--pose"),
    (["animate", "p.png", "s.wav", "-o", "o.mp4", "--guidance", "-1"], "--guidance"),
    (["animate", "p.png", "s.wav", "-o", "o.mp4", "--movement", "3"], "--movement"),
    (["animate", "p.png", "s.wav", "-o", "o.mp4", "--seed", "-1"], "--seed"),
    (["animate", "p.png", "s.wav", "-o", "o.mp4", "--face", "-1"], "--face"),
    (["animate", "p.png", "s.wav", "-o", "o.mp4", "--size", "512y512"], "HEIGHTxWIDTH"),
    (["animate", "p.png", "s.wav", "-o", "o.mp4", "--size", "8x8"], "16 to 4096"),
    (["animate", "p.png", "s.wav", "-o", "o.mp4", "--label", "off"], "--label-reason"),
    (["animate", "p.png", "s.wav", "-o", "o.mp4", "--label", "off", "--label-reason", " "], "--label-reason"),
    (["animate", "p.png", "s.wav", "-o", "o.mp4", "--c2pa-cert", "p.png"], "--c2pa-key"),
    (["animate", "p.png", "s.wav", "-o", "o.mp4", "--c2pa-cert", "x.pem", "--c2pa-key", "y.pem"], "x.pem"),
    (["animate", "absent.png", "s.wav", "-o", "o.mp4"], "absent.png"),
    (["animate", "p.png", "absent.wav", "-o", "o.mp4"], "absent.wav"),
    (["animate", ".", "s.wav", "-o", "o.mp4"], "folder"),
    (["animate", "p.png", ".", "-o", "o.mp4"], "folder"),
    (["animate", "p.png", "s.wav", "-o", "o.avi"], ".mp4"),
    (["animate", "p.png", "s.wav", "-o", "no/such/o.mp4"], "no/such"),
    (["animate", "p.png", "s.wav", "-o", "x" * 300 + ".mp4"], "too long"),
    (["animate", "p" * 300, "s.wav", "-o", "o.mp4"], "portrait"),
    (["animate", "p\0.png", "s.wav", "-o", "o.mp4"], "path"),
    (["animate", "/dev/zero", "s.wav", "-o", "o.mp4"], "regular file"),
    (["verify", "absent.mp4"], "absent.mp4"),
    (["verify", "."], "folder"),
    (["models", "pull", "joyhalo"], "joyhallo-v1"),
    (["models", "pull", "vocals", "--from", "absent"], "absent"),
    (["models", "pull", "vocals", "--from", "."], "Kim_Vocal_2.onnx"),
    (["models", "verify", "--goldens", "absent"], "absent"),
    (["models", "verify", "--goldens", "."], "golden"),
    (["models", "verify", "--goldens", ".", "--dtype", "fp8"], "fp32"),
    (["models", "verify", "--goldens", ".", "--device", "tpu"], "cuda"),
    (["models", "verify", "--goldens", ".", "--dtype", "fp16", "--device", "cpu"], "bf16"),
    (["models", "convert", "absent.pth", "out"], "absent.pth"),
    (["models", "convert", ".", "out"], "net.pth"),
    (["models", "convert", "p.png", "out", "--variant", "halo"], "hallo"),
]


@pytest.mark.parametrize(
    ("arguments", "word"), WRONG_OPTIONS, ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else ""
)
def test_wrong_arguments(capsys, arguments, word):
    assert word in run(capsys, *arguments)


def test_existing_output_is_kept(capsys):
    Path("o.mp4").write_bytes(b"precious")
    assert "--overwrite" in run(capsys, "animate", "p.png", "s.wav", "-o", "o.mp4")
    assert Path("o.mp4").read_bytes() == b"precious"


def test_output_may_not_be_an_input(capsys):
    Path("s.wav").rename("s.mp4")
    assert "inputs" in run(capsys, "animate", "p.png", "s.mp4", "-o", "s.mp4", "--overwrite")
    os.link("s.mp4", "t.mp4")
    assert "inputs" in run(capsys, "animate", "p.png", "s.mp4", "-o", "t.mp4", "--overwrite")


def empty_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"")


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not a checkpoint"),
        lambda path: torch.save({"a": torch.zeros(1)}, path),
        lambda path: torch.save([1, 2], path),
        empty_zip,
    ],
    ids=["empty", "text", "foreign", "list", "zip"],
)
def test_convert_refuses_what_is_no_checkpoint(capsys, tmp_path, write):
    write(tmp_path / "net.pth")
    for name in ("sd-vae-ft-mse/config.json", "sd-vae-ft-mse/diffusion_pytorch_model.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"{}")
    for name in ("chinese-wav2vec2-base/config.json", "chinese-wav2vec2-base/pytorch_model.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"{}")
    run(capsys, "models", "convert", "net.pth", "out")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "read-only"),
        (errno.EDQUOT, "quota"),
        (errno.ENOTDIR, "folder is needed"),  # JOYHALLO_CACHE below a file
    ],
)
def test_a_full_disk_or_a_closed_door_is_one_line(capsys, monkeypatch, number, words):
    """The system's own errors, wherever they come up."""

    def fail() -> int:
        raise OSError(number, os.strerror(number), "somewhere.bin")

    probe = cli.App(name="joyhallo")
    probe.command(fail, name="fail")
    monkeypatch.setattr(cli, "app", probe)
    line = run(capsys, "fail")
    assert words in line
    assert "somewhere.bin" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_forbidden_files_are_one_line(capsys):
    Path("p.png").chmod(0)
    assert "permission" in run(capsys, "animate", "p.png", "s.wav", "-o", "o.mp4")


def test_an_unforeseen_error_is_not_hidden(monkeypatch):
    def fail() -> int:
        raise OSError(errno.EIO, "input/output error")

    probe = cli.App(name="joyhallo")
    probe.command(fail, name="fail")
    monkeypatch.setattr(cli, "app", probe)
    with pytest.raises(OSError, match="input/output"):
        main(["fail"])


def test_interrupt_says_how_to_go_on(capsys, monkeypatch):
    def stop() -> int:
        raise KeyboardInterrupt

    probe = cli.App(name="joyhallo", suppress_keyboard_interrupt=False)
    probe.command(stop, name="stop")
    monkeypatch.setattr(cli, "app", probe)
    assert main(["stop"]) == 130
    assert capsys.readouterr().err == "joyhallo: stopped; run the same command again to go on.\n"


def test_a_closed_pipe_is_no_traceback():
    command = f"{sys.executable} -m joyhallo models list | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("mini")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("tool", ["speech", "lip_reader", "identity", "autoencoder", "audio_projector"])
def test_trainings_of_encoders_answer_in_a_line_too(tool, monkeypatch, capsys, tmp_path):
    module = importlib.import_module(f"joyhallo.training.{tool}")
    nowhere = str(tmp_path / "nowhere")
    given = {
        "speech": ["--videos", nowhere, "--tracks", nowhere],
        "audio_projector": ["--encoders", nowhere, "--data", nowhere],
    }.get(tool, ["--data", nowhere])
    monkeypatch.setattr("sys.argv", [f"{tool}.py", *given, "-o", nowhere])
    with pytest.raises(SystemExit) as ended:
        run_as_command(module.main)
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"{tool}.py: ")
    assert "\n" not in said
