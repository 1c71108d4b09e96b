"""The process that renders: it keeps the weights from job to job, and neither frames nor memory show it."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from joyhallo.media.video import read_frames
from joyhallo.render import RenderRequest
from joyhallo.serve.child import Child, ChildTooSlowError
from joyhallo.serve.kept import KeptPipeline
from serving import PORTRAIT, write_speech, write_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny")


def test_weights_are_loaded_once_for_as_long_as_the_same_is_asked_for(weights, tmp_path):
    kept, cpu = KeptPipeline(), torch.device("cpu")
    request = RenderRequest(PORTRAIT, tmp_path / "s.wav", tmp_path / "o.mp4", model=str(weights))
    first = kept(request, cpu, torch.float32)
    assert kept(request, cpu, torch.float32) is first
    other = kept(request, cpu, torch.bfloat16)
    assert other is not first
    assert next(other.denoising_network.parameters()).dtype == torch.bfloat16
    file = next(weights.rglob("*.safetensors"))
    os.utime(file, (1, 1))  # as if written anew
    newer = kept(request, cpu, torch.bfloat16)
    assert newer is not other
    kept.drop()
    assert kept(request, cpu, torch.bfloat16) is not newer


def memory_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def test_frames_are_those_of_a_fresh_process_and_memory_does_not_grow(weights, tmp_path):
    speech = write_speech(tmp_path / "speech.wav", 0.3)

    def ask(child: Child, name: str, seed: int, portrait: Path = PORTRAIT) -> dict:
        settings = {"model": str(weights), "device": "cpu", "dtype": "fp32", "seed": seed, "paste_back": False}
        paths = {"portrait": portrait, "speech": speech, "output": tmp_path / name, "preview": tmp_path / "p.jpg"}
        return dict(child.ask({**{key: str(path) for key, path in paths.items()}, "settings": settings}))

    def frames(name: str) -> np.ndarray:
        return np.stack(list(read_frames(tmp_path / name)))

    child = Child("joyhallo.serve.worker", str(tmp_path / "lock"), "0")
    try:
        assert ask(child, "first.mp4", 1)["end"] == "done"
        (tmp_path / "broken.png").write_bytes(b"no picture")
        assert ask(child, "other.mp4", 2, tmp_path / "broken.png")["end"] == "refused"
        assert ask(child, "other.mp4", 2)["end"] == "done"
        before = memory_mb(child._process.pid)
        for number in range(10):
            (tmp_path / "again.mp4").unlink(missing_ok=True)
            assert ask(child, "again.mp4", number % 2 + 1)["end"] == "done"
        grown = memory_mb(child._process.pid) - before
        assert ask(child, "last.mp4", 1)["end"] == "done"
    finally:
        child.kill()
    assert grown < 25
    assert (frames("last.mp4") == frames("first.mp4")).all()
    assert (frames("last.mp4") != frames("other.mp4")).any()
    fresh = Child("joyhallo.serve.worker", str(tmp_path / "lock"), "0")
    try:
        assert ask(fresh, "fresh.mp4", 2)["end"] == "done"
    finally:
        fresh.kill()
    assert (frames("fresh.mp4") == frames("other.mp4")).all()


BUSY = """
import sys, time
from joyhallo.serve.child import Parent
parent = Parent()
for message in parent.messages():
    if message["how"] == "sleeps":
        time.sleep(message["for_s"])
    end = time.process_time() + message["for_s"]
    while message["how"] == "computes" and time.process_time() < end:
        pass
    parent.say(end="done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only there the time of another process is known")
def test_the_time_for_an_answer_is_of_computing(tmp_path, monkeypatch):
    (tmp_path / "busy_process.py").write_text(BUSY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    child = Child("busy_process")
    try:
        assert child.ask({"how": "sleeps", "for_s": 0.1})["end"] == "done"  # it has started
        assert child.ask({"how": "sleeps", "for_s": 2.0}, timeout_s=1.0)["end"] == "done"
        with pytest.raises(ChildTooSlowError):
            child.ask({"how": "computes", "for_s": 30.0}, timeout_s=1.0)
        assert child.ask({"how": "computes", "for_s": 0.1}, timeout_s=5.0)["end"] == "done"  # in a new process
        began = time.monotonic()
        with pytest.raises(ChildTooSlowError):
            child.ask({"how": "sleeps", "for_s": 60.0}, timeout_s=0.3)
        assert time.monotonic() - began < 20
    finally:
        child.kill()
