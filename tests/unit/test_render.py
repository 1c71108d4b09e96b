"""A video file from a request: labelled, whole or absent, and the same after a kill."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from joyhallo.conditioning.face import FaceMesh
from joyhallo.errors import UserError
from joyhallo.job_folder import folder_of
from joyhallo.media.audio import probe_speech, read_speech
from joyhallo.media.image import read_image
from joyhallo.media.labels import read_label
from joyhallo.media.video import probe_video, read_frames
from joyhallo.models.autoencoder import PatchAutoencoder
from joyhallo.models.identity_encoder import IdentityNetwork
from joyhallo.models.networks import build_networks
from joyhallo.models.speech_encoder import MelSpeechNetwork
from joyhallo.output import size_notes
from joyhallo.pipeline import JoyHalloPipeline
from joyhallo.presets import Preset, Sampling
from joyhallo.render import Progress, RenderRequest, render
from joyhallo.sampling.schedule import training_schedule
from tiny import TINY, draw_weights

EXAMPLES = Path(__file__).parents[2] / "examples"
SAMPLING = Sampling(
    height=32, width=32, clip_length=4, num_past_frames=2, num_steps=2, unconditional_drops=("audio",), idle_motion=True
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A tiny pipeline with drawn weights, as a folder."""
    speech = MelSpeechNetwork(num_bands=20, channels=8)
    shape = TINY.denoising_network
    preset = Preset(
        reference_network=TINY.reference_network,
        denoising_network=shape,
        face_projector=TINY.face_projector | {"embedding_size": 128},
        audio_projector=TINY.audio_projector | {"num_blocks": 2, "channels": 8},
        face_locator={"out_channels": 8, "widths": (4, 4, 4, 4, 4)},
    )
    vae = PatchAutoencoder(latent_channels=4)
    parts = {**build_networks(preset).modules(), "vae": vae, "speech_encoder": speech, "identity_encoder": IdentityNetwork()}
    for index, module in enumerate(parts.values()):
        draw_weights(module, index)
    pipe = JoyHalloPipeline(**parts, scheduler=training_schedule(), sampling=SAMPLING)
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    """One second and a bit of the example, 31 frames, as a wav at its own rate."""
    import wave

    path = tmp_path_factory.mktemp("speech") / "short.wav"
    samples = read_speech(EXAMPLES / "speech_zh.wav", 22_050)[5_000 : 5_000 + int(1.21 * 22_050)]
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 22_050, 0, "NONE", ""))
        file.writeframes((samples * 32_767).astype(np.int16).tobytes())
    return path


@pytest.fixture(scope="module")
def request_for(weights, speech):
    def make(output: Path, **changes) -> RenderRequest:
        given = {"model": str(weights), "device": "cpu", "dtype": "fp32", "crf": 0, **changes}
        return RenderRequest(EXAMPLES / "portrait.png", speech, output, **given)

    return make


@pytest.fixture(scope="module")
def finished(request_for, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("finished") / "whole.mp4"
    render(request_for(output))
    return output


def frames_of(path: Path) -> np.ndarray:
    return np.stack(list(read_frames(path)))


def test_the_file_is_labelled_and_as_long_as_the_speech(finished, speech):
    info = probe_video(finished)
    assert info.num_frames == 31
    assert abs(info.duration_s - probe_speech(speech).duration_s) <= 0.04
    assert abs(probe_speech(finished).duration_s - info.duration_s) <= 0.04
    assert read_label(finished).label == "1"
    record = json.loads(finished.with_name("whole.mp4.json").read_text())
    assert record["label"]["ProduceID"] == read_label(finished).produce_id
    assert not folder_of(finished).exists()


def test_the_picture_outside_the_crop_stays(finished):
    import cv2

    picture = cv2.imread(str(EXAMPLES / "portrait.png"))[..., ::-1]
    last = frames_of(finished)[-1]
    assert last.shape == picture.shape
    corner = np.abs(last[-20:, :20].astype(int) - picture[-20:, :20])
    assert corner.mean() < 2  # only what the video's colours cost


def test_an_interrupted_run_goes_on_with_the_same_frames(finished, request_for, tmp_path):
    output = tmp_path / "cut.mp4"

    class StopHere(Exception):
        pass

    def stop_after_three(progress: Progress) -> None:
        if progress.clips_done == 3:
            raise StopHere

    with pytest.raises(StopHere):
        render(request_for(output), stop_after_three)
    assert not output.exists()
    result = render(request_for(output))
    assert any("went on after clip 3 of 8" in note for note in result.notes)
    assert np.array_equal(frames_of(output), frames_of(finished))


def test_a_killed_process_loses_at_most_a_clip(finished, request_for, weights, speech, tmp_path):
    output = tmp_path / "killed.mp4"
    command = [sys.executable, "-m", "joyhallo", "animate", str(EXAMPLES / "portrait.png"), str(speech), "-o", str(output)]
    command += ["--model", str(weights), "--device", "cpu", "--dtype", "fp32", "--crf", "0"]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}  # as in the run it is compared with
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=alone)
    deadline = time.monotonic() + 120
    while not list(folder_of(output).glob("past_*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not output.exists()
    assert folder_of(output).exists()
    result = render(request_for(output))
    assert any("went on after clip" in note for note in result.notes)
    assert np.array_equal(frames_of(output), frames_of(finished))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.mp4", "killed.mp4.json"]


def test_another_request_does_not_take_over_clips(request_for, finished, tmp_path):
    output = tmp_path / "other.mp4"

    def stop(progress: Progress) -> None:
        if progress.clips_done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render(request_for(output, seed=1), stop)
    result = render(request_for(output, seed=42))
    assert any("asked for something else" in note for note in result.notes)
    assert np.array_equal(frames_of(output), frames_of(finished))


def test_a_damaged_clip_names_the_way_out(request_for, tmp_path):
    output = tmp_path / "damaged.mp4"

    def stop(progress: Progress) -> None:
        if progress.clips_done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render(request_for(output), stop)
    min(folder_of(output).glob("clip_*")).write_bytes(b"no film")
    with pytest.raises(UserError, match=r"clip 1 of the unfinished video is damaged.*--fresh"):
        render(request_for(output))
    (folder_of(output) / "job.json").write_text("{")
    assert any("dropped" in note for note in render(request_for(output)).notes)


def test_two_processes_do_not_share_a_folder(request_for, tmp_path):
    output = tmp_path / "busy.mp4"

    def again(progress: Progress) -> None:
        if progress.clips_done == 1:
            render(request_for(output))

    with pytest.raises(UserError, match="made by another process"):
        render(request_for(output), again)


def test_numbers_that_are_not_finite_stop_the_run(weights, request_for, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(weights, broken)
    path = next((broken / "denoising_network").glob("*.safetensors"))
    tensors = load_file(path)
    tensors["conv_out.bias"] = torch.full_like(tensors["conv_out.bias"], float("nan"))
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"clip 1 of 8, step 1 of 2.*float32"):
        render(request_for(tmp_path / "nan.mp4", model=str(broken)))
    assert not (tmp_path / "nan.mp4").exists()


def test_a_disk_that_fills_up_is_one_line_and_nothing_stays_behind(request_for, monkeypatch, tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")

    def write_bytes(path: Path, _: bytes) -> int:
        raise OSError(*full.args, str(path))

    monkeypatch.setattr(Path, "write_bytes", write_bytes)  # the past frames of the first clip
    with pytest.raises(UserError, match="the disk is full while writing the past frames"):
        render(request_for(tmp_path / "full.mp4"))
    assert list(tmp_path.iterdir()) == []


def test_a_certificate_that_cannot_sign_stops_the_run_before_its_first_clip(request_for, tmp_path):
    pytest.importorskip("c2pa")
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    shown = []
    with pytest.raises(UserError, match=r"the video cannot be signed with .*broken\.pem"):
        render(request_for(tmp_path / "signed.mp4", c2pa_cert=broken, c2pa_key=broken), shown.append)
    assert not any(progress.clips_total for progress in shown)
    assert list(tmp_path.iterdir()) == [broken]


def test_the_video_is_as_large_as_the_picture_unless_asked_otherwise(request_for, tmp_path):
    picture = read_image(request_for(tmp_path / "a.mp4").portrait).shape
    render(request_for(tmp_path / "whole.mp4"))
    render(request_for(tmp_path / "small.mp4", longest_side=320))
    assert frames_of(tmp_path / "whole.mp4")[0].shape == (*(side + side % 2 for side in picture[:2]), 3)
    assert max(frames_of(tmp_path / "small.mp4")[0].shape) == 320


def test_more_pixels_than_players_take_are_said():
    assert "6000x4000" in size_notes(6000, 4000, None)[0]
    assert not size_notes(6000, 4000, 2048)
    assert not size_notes(4096, 4000, None)


def test_an_output_that_another_process_made_meanwhile_is_left_alone(request_for, tmp_path):
    request = request_for(tmp_path / "out.mp4")

    def make_it_meanwhile(progress):
        if progress.stage == "listening to the speech":
            request.output.write_bytes(b"of another process")

    with pytest.raises(UserError, match="just made by another process"):
        render(request, make_it_meanwhile)
    assert request.output.read_bytes() == b"of another process"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4"]


def test_a_file_in_the_place_of_the_clips_folder_is_one_line(request_for, tmp_path):
    folder_of(tmp_path / "out.mp4").write_text("in the way")
    with pytest.raises(UserError, match=r"the folder of the unfinished video .* cannot be written"):
        render(request_for(tmp_path / "out.mp4"))


def test_weights_that_cannot_read_lips_say_what_is_shown(request_for, weights, tmp_path):
    changed = tmp_path / "changes"
    shutil.copytree(weights, changed)
    index = json.loads((changed / "model_index.json").read_text())
    index["sampling"]["latent_form"] = "residual"
    (changed / "model_index.json").write_text(json.dumps(index))
    result = render(request_for(tmp_path / "out.mp4", model=str(changed)))
    assert any("no lip reader" in note for note in result.notes)
    assert not any("no lip reader" in note for note in render(request_for(tmp_path / "usual.mp4")).notes)


def test_it_is_said_when_a_softened_copy_was_looked_at(request_for, tmp_path, monkeypatch):
    detect, pictures = FaceMesh.detect, []

    def blind_at_first(finder, picture):
        pictures.append(picture)
        return [] if len(pictures) == 1 else detect(finder, picture)

    monkeypatch.setattr(FaceMesh, "detect", blind_at_first)
    result = render(request_for(tmp_path / "out.mp4"))
    assert any("in a softened copy" in note for note in result.notes)
    assert not any("in a softened copy" in note for note in render(request_for(tmp_path / "usual.mp4")).notes)
