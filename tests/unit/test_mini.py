"""The embedded weights on the example: the same person, a mouth that follows the speech and rests in silence."""

from pathlib import Path

import numpy as np
import pytest
import torch

from joyhallo import JoyHalloPipeline
from joyhallo.conditioning.face import FaceMesh
from joyhallo.evaluation.lips import CLOSED
from joyhallo.media.audio import read_speech
from joyhallo.weights.hub import bundled_folder, face_models_path

EXAMPLES = Path(__file__).parents[2] / "examples"
INNER_LIPS = (13, 14)
EYE_CORNERS = (33, 263)
NUM_FRAMES = 64


@pytest.fixture(scope="module")
def pipe() -> JoyHalloPipeline:
    return JoyHalloPipeline.from_pretrained("mini")


@pytest.fixture(scope="module")
def portrait(pipe):
    return pipe.portrait(EXAMPLES / "portrait.png")


@pytest.fixture(scope="module")
def waveform() -> np.ndarray:
    """The example's first words, then a second of near silence."""
    speech = read_speech(EXAMPLES / "speech_zh.wav", 16_000)[: 40 * 640]
    quiet = np.random.default_rng(0).normal(0, 1e-4, 24 * 640).astype(np.float32)
    return np.concatenate([speech, quiet])


@pytest.fixture(scope="module")
def frames(pipe, portrait, waveform) -> np.ndarray:
    return np.concatenate([clip.frames for clip in pipe.stream(portrait, pipe.speech(waveform))])


@pytest.fixture(scope="module")
def opening(frames) -> np.ndarray:
    """The lips' distance over the eyes', per frame."""
    mesh, found, face = FaceMesh.from_path(face_models_path()), [], None
    for frame in frames:
        face = mesh.track(frame, face)
        assert face is not None, "a face can be found in every frame"
        points = face.landmarks[:, :2]
        lips, eyes = (np.linalg.norm(points[a] - points[b]) for a, b in (INNER_LIPS, EYE_CORNERS))
        found.append(lips / eyes)
    return np.array(found)


def test_the_weights_are_small_and_say_what_they_are():
    folder = bundled_folder("mini")
    assert sum(path.stat().st_size for path in folder.rglob("*")) <= 60e6
    assert "consent" in (folder / "README.md").read_text(encoding="utf-8")


def test_there_is_a_frame_for_every_40_ms(frames):
    assert frames.shape == (NUM_FRAMES, 256, 256, 3)


def test_the_person_stays(pipe, portrait, frames):
    from joyhallo.conditioning.identity import align_face

    def embedding(frame: np.ndarray) -> torch.Tensor:
        aligned = torch.from_numpy(align_face(frame, portrait.landmarks)).permute(2, 0, 1)[None].float() / 127.5 - 1
        return torch.nn.functional.normalize(pipe.identity_encoder(aligned), dim=-1)[0]

    own = embedding(pipe.still(portrait))
    likeness = [float(own @ embedding(frame)) for frame in frames[::8]]
    assert min(likeness) > 0.7
    outside = portrait.masks.lip[0][0, 0].repeat_interleave(16, 0).repeat_interleave(16, 1).numpy() < 0.02
    error = (frames.astype(float) - pipe.still(portrait))[:, outside] / 255
    assert -10 * np.log10(np.square(error).mean()) > 24


def test_the_mouth_follows_the_speech(opening, waveform):
    loud = np.sqrt(np.square(waveform.reshape(-1, 640)).mean(axis=1))
    smooth = np.convolve(loud, np.ones(3) / 3, mode="same")
    in_time = np.corrcoef(opening[:40], smooth[:40])[0, 1]
    shifted = [np.corrcoef(opening[:40], np.roll(smooth[:40], shift))[0, 1] for shift in range(8, 33)]
    assert in_time > np.quantile(shifted, 0.8)
    assert np.median(opening[46:]) < CLOSED < opening[:40].max() / 3


def test_the_mouth_rests_in_silence(opening):
    assert np.median(opening[46:]) < 0.35 * opening[:40].max()
    assert opening[46:].std() < 0.5 * opening[:40].std()
