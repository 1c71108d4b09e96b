"""Sync-C and Sync-D without the published weights: coefficients, networks of the same shape, tracks and known offsets."""

from math import prod

import numpy as np
import pytest
import torch
from scipy.fft import dct
from scipy.signal import medfilt

from joyhallo.evaluation.crop_track import Track, crop_track, find_tracks, median_filter, on_the_clock
from joyhallo.evaluation.film import Film
from joyhallo.evaluation.mfcc import mel_filters, mfcc
from joyhallo.evaluation.sync import SyncExpert, agreement, judge, load_expert, measure_sync
from joyhallo.evaluation.syncnet import (
    SyncNet,
    lip_embeddings,
    load_syncnet,
    our_name,
    published_shapes,
    sound_embeddings,
)
from joyhallo.weights.checkpoint import CheckpointError

# python_speech_features 0.6, mfcc(x, 16000), rows 0 and 8 of the tones below
TONES = [
    *(20.220109, 7.612988, -15.179777, 3.157711, 5.243067, -43.995796, -64.252781),
    *(-10.58613, 32.878431, 9.32581, -10.339075, 17.811311, 33.510583),
    *(20.000822, 10.585896, -17.402694, -0.664894, 6.993949, -36.271431, -58.080604),
    *(-11.395593, 29.112728, 9.355777, -7.353274, 17.985411, 29.874775),
]


@pytest.fixture
def small() -> SyncNet:
    """The network with a thirty-second of the channels and drawn weights and statistics."""
    torch.manual_seed(3)
    network = SyncNet(width=32).eval()
    for module in network.modules():
        if hasattr(module, "running_mean"):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network


def test_coefficients_are_those_of_the_published_library():
    time = np.arange(1600) / 16000
    tones = np.round(8000 * np.sin(2 * np.pi * 440 * time) + 3000 * np.sin(2 * np.pi * 1800 * time)).astype(np.int16)
    np.testing.assert_allclose(mfcc(tones)[[0, 8]].ravel(), TONES, atol=1e-6)


def test_coefficients_against_a_plain_computation():
    sound = (np.random.default_rng(0).normal(size=1000) * 3000).astype(np.int16)
    heard = np.concatenate([[sound[0]], sound[1:] - 0.97 * sound[:-1]])
    found = mfcc(sound)
    assert found.shape == (1 + 4, 13)  # (1000 - 400) / 160 = 3.75
    for row, start in ((0, 0), (3, 480), (4, 640)):
        window = np.zeros(512)
        part = heard[start : start + 400]
        window[: len(part)] = part
        wave = np.exp(-2j * np.pi * np.outer(np.arange(257), np.arange(512)) / 512)
        power = np.abs(wave @ window) ** 2 / 512
        cepstrum = dct(np.log(mel_filters() @ power), norm="ortho")[:13] * (1 + 11 * np.sin(np.pi * np.arange(13) / 22))
        cepstrum[0] = np.log(power.sum())
        np.testing.assert_allclose(found[row], cepstrum, rtol=1e-9)


def test_filters_are_triangles_on_whole_bins():
    filters = mel_filters()
    assert filters.shape == (26, 257)
    assert np.all(filters.max(1) == 1)
    assert np.all(filters[:, 0] == 0)
    peaks = filters.argmax(1)
    centre_hz = 700 * (10 ** (2595 * np.log10(1 + 8000 / 700) * 10 / 27 / 2595) - 1)
    assert peaks[9] == int(513 * centre_hz / 16000)


def test_silence_and_short_sound_have_coefficients():
    assert np.isfinite(mfcc(np.zeros(100, np.int16))).all()
    assert mfcc(np.zeros(400)).shape == (1, 13)
    assert mfcc(np.zeros(401)).shape == (2, 13)


def names_by_the_reference() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published state, written out from its description."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(part: str, index: int, weight: tuple[int, ...]) -> None:
        shapes[f"{part}.{index}.weight"] = weight
        shapes[f"{part}.{index}.bias"] = weight[:1]

    def norm(part: str, index: int, channels: int) -> None:
        layer(part, index, (channels,))
        for name in ("running_mean", "running_var"):
            shapes[f"{part}.{index}.{name}"] = (channels,)

    audio = {0: (64, 1, 3, 3), 4: (192, 64, 3, 3), 8: (384, 192, 3, 3), 11: (256, 384, 3, 3), 14: (256, 256, 3, 3)}
    lips = {0: (96, 3, 5, 7, 7), 4: (256, 96, 1, 5, 5), 8: (256, 256, 1, 3, 3), 11: (256, 256, 1, 3, 3)}
    audio[18], lips[14], lips[18] = (512, 256, 5, 4), (256, 256, 1, 3, 3), (512, 256, 1, 6, 6)
    for part, layers in (("netcnnaud", audio), ("netcnnlip", lips)):
        for index, weight in layers.items():
            layer(part, index, weight)
            norm(part, index + 1, weight[0])
    for part in ("netfcaud", "netfclip"):
        layer(part, 0, (512, 512))
        norm(part, 1, 512)
        layer(part, 3, (1024, 512))
    return shapes


def test_names_and_shapes_are_those_of_the_published_file():
    assert published_shapes() == names_by_the_reference()
    num_bytes = 4 * sum(prod(shape) for shape in published_shapes().values())
    assert 0 < 54_573_114 - num_bytes < 20_000, "the published file is its numbers and some names"


def test_a_published_file_is_loaded_by_its_names(tmp_path):
    torch.manual_seed(0)
    tensors = {name: torch.rand(shape) for name, shape in published_shapes().items()}
    torch.save(tensors, tmp_path / "syncnet_v2.model", _use_new_zipfile_serialization=False)  # it is from before torch 1.6
    network = load_syncnet(tmp_path / "syncnet_v2.model")
    assert not network.training
    state = network.state_dict()
    assert all(torch.equal(state[our_name(name)], value) for name, value in tensors.items())
    tensors.pop("netfclip.3.bias")
    torch.save(tensors, tmp_path / "broken.model")
    with pytest.raises(CheckpointError, match=r"lip_head\.3\.bias"):
        load_syncnet(tmp_path / "broken.model")


def test_a_run_of_faces_gives_the_embeddings_of_its_windows(small):
    faces = np.random.default_rng(1).integers(0, 256, (9, 224, 224, 3), np.uint8)
    found = lip_embeddings(small, iter(faces), batch=2)
    assert found.shape == (5, 32)
    for start in (0, 3, 4):
        bgr = torch.from_numpy(faces[start : start + 5, ..., ::-1].copy()).permute(3, 0, 1, 2)[None].float()
        with torch.no_grad():
            alone = small.lip_head(small.lip_trunk(bgr).flatten(1))
        np.testing.assert_allclose(found[start], alone[0].numpy(), rtol=1e-4, atol=1e-5)


def test_sound_windows_begin_with_their_frames(small):
    coefficients = np.random.default_rng(2).normal(size=(60, 13))
    found = sound_embeddings(small, coefficients, 11, batch=4)
    window = torch.from_numpy(coefficients[4 * 7 : 4 * 7 + 20].T.astype(np.float32))[None]
    with torch.no_grad():
        np.testing.assert_allclose(found[7], small.embed_sound(window)[0].numpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="12 windows"):
        sound_embeddings(small, coefficients[:60], 12)


@pytest.mark.parametrize("late_by", [-7, 0, 4])
def test_a_known_offset_is_found(late_by):
    rng = np.random.default_rng(5)
    lips = rng.normal(size=(120, 32)).astype(np.float32)
    sound = np.roll(lips, late_by, axis=0) + 0.1 * rng.normal(size=lips.shape).astype(np.float32)
    found = agreement(lips, sound)
    assert found.offset_frames == -late_by
    assert found.distance < 0.35 * np.linalg.norm(lips, axis=1).mean()
    assert found.confidence > found.distance
    foreign = agreement(lips, rng.normal(size=lips.shape).astype(np.float32))
    assert foreign.confidence < 0.3 * found.confidence


def test_agreement_is_the_published_formula():
    rng = np.random.default_rng(6)
    lips, sound = rng.normal(size=(2, 40, 8)).astype(np.float32)
    padded = torch.nn.functional.pad(torch.from_numpy(sound), (0, 0, 15, 15))
    rows = [
        torch.nn.functional.pairwise_distance(torch.from_numpy(lips[i : i + 1]).repeat(31, 1), padded[i : i + 31])
        for i in range(40)
    ]
    means = torch.stack(rows, 1).mean(1)
    found = agreement(lips, sound)
    assert found.distance == pytest.approx(float(means.min()), abs=1e-5)
    assert found.confidence == pytest.approx(float(means.median() - means.min()), abs=1e-5)
    assert found.offset_frames == 15 - int(means.argmin())
    framewise = (means.median() - torch.stack(rows, 1)[means.argmin()]).numpy()
    np.testing.assert_allclose(found.curve, medfilt(framewise, 9), atol=1e-5)


def test_median_filter_is_that_of_the_published_pipeline():
    values = np.random.default_rng(7).normal(size=30) + 5
    np.testing.assert_allclose(median_filter(values, 13), medfilt(values, 13))


def test_frames_are_put_on_the_clock():
    def shown(num: int, fps: float) -> list[int]:
        return [int(frame[0]) for frame in on_the_clock((np.array([i]) for i in range(num)), fps)]

    assert shown(5, 25) == [0, 1, 2, 3, 4]
    assert shown(8, 50) == [0, 2, 4, 6]
    assert shown(3, 12.5) == [0, 1, 1, 2, 2]
    assert len(shown(90, 30)) == 75


def boxes_of(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array([[*row, 0.99] for row in rows]).reshape(-1, 5)


def test_faces_are_followed_and_gaps_filled():
    grey = np.full((40, 60, 3), 90, np.uint8)
    frames = [grey] * 30
    left = [(10.0 + i, 20.0, 130.0 + i, 150.0) for i in range(30)]
    right = (400.0, 20.0, 520.0, 160.0)
    seen = [boxes_of(left[i], right) if i not in (10, 11) else boxes_of(right) for i in range(30)]
    seen[0] = boxes_of(left[0])
    stack = iter(seen)
    tracks = find_tracks(iter(frames), lambda _: next(stack), min_frames=20)
    assert [track.first_frame for track in tracks] == [0, 1]
    np.testing.assert_allclose(tracks[0].boxes, left)
    assert len(tracks[1]) == 29
    stack = iter(seen)
    assert len(find_tracks(iter(frames), lambda _: next(stack), min_frames=28)) == 1, "more detections than that are needed"
    stack = iter(seen)
    assert not find_tracks(iter(frames), lambda _: next(stack), min_frames=20, min_face_px=150)


def test_a_cut_ends_a_track():
    frames = [np.full((40, 60, 3), 200 if i < 15 else 20, np.uint8) for i in range(30)]
    tracks = find_tracks(iter(frames), lambda _: boxes_of((10, 10, 140, 140)), min_frames=12)
    assert [(track.first_frame, len(track)) for track in tracks] == [(0, 15), (15, 15)]
    assert not find_tracks(iter(frames), lambda _: boxes_of((10, 10, 140, 140)), min_frames=16)


def test_crops_lie_where_the_published_ones_do():
    """A face of 100 pixels: 140 to the left and right in all, from its top edge 50 up to 90 below its middle."""
    frame = np.zeros((300, 400, 3), np.uint8)
    frame[..., 0] = np.arange(400) // 2
    frame[..., 1] = np.arange(300)[:, None] // 2
    track = Track(2, np.tile([150.0, 60.0, 250.0, 160.0], (20, 1)))
    faces = list(crop_track(iter([frame] * 30), track))
    assert len(faces) == 20
    face = faces[10].astype(float)
    assert face.shape == (224, 224, 3)
    scale = 140 / 224
    middle = 111  # samples lie in the middles of pixels
    assert face[middle, middle, 0] == pytest.approx((130 + (middle + 0.5) * scale) / 2, abs=1)
    assert face[middle, middle, 1] == pytest.approx((60 + (middle + 0.5) * scale) / 2, abs=1)
    near_edge = Track(0, np.tile([0.0, 0.0, 100.0, 100.0], (20, 1)))
    face = list(crop_track(iter([frame] * 20), near_edge))[10]
    assert np.all(face[:, 2] == 110), "beyond the picture there is grey"


class Made(Film):
    """A film of a coloured wall under flickering light."""

    def frames(self):
        rng = np.random.default_rng(0)
        wall = np.tile(np.array([200, 120, 80]), (*self.size, 1))
        wall = wall * rng.uniform(0.9, 1, (*self.size, 1))
        return ((wall * rng.uniform(0.95, 1)).astype(np.uint8) for _ in range(self.num_frames))


def always_one_face() -> torch.nn.Module:
    """The detector's network, which answers every picture with one and the same box."""
    from joyhallo.evaluation.s3fd import S3fd

    network = S3fd(width=32).eval()
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    for head in network.scores:
        head.bias.data[0] = 9
    network.scores[5].bias.data[1] = 18
    network.places[5].bias.data[2:] = -10
    return network


def test_a_film_is_measured_from_end_to_end(small):
    speech = (0.3 * np.random.default_rng(1).normal(size=60 * 640)).astype(np.float32)
    film = Made("made.mp4", 25.0, 60, (224, 224), speech)
    expert = SyncExpert(small, always_one_face())
    found = {measure.name: measure for measure in measure_sync(film, expert)}
    assert set(found) == {"sync_c", "sync_d", "sync_offset"}
    assert found["sync_d"].value > 0
    assert found["sync_c"].value >= 0
    assert "60 frames" in found["sync_c"].note
    assert "0.5" in found["sync_c"].note
    curve = found["sync_c"].curve
    assert curve.shape == (60,)
    assert np.isfinite(curve).sum() == 55, "one for every window"
    again = measure_sync(film, expert)
    assert [measure.value for measure in again] == [measure.value for measure in found.values()]


def test_a_long_track_in_a_large_picture_is_judged_as_published(small):
    """Nothing deviates, so nothing is noted but the number of faces."""
    film = Made("made.mp4", 25.0, 108, (520, 530), np.zeros(108 * 640, np.float32))
    found = measure_sync(film, SyncExpert(small, always_one_face()))
    assert found[1].value is not None
    assert "frames" not in found[1].note
    assert "size" not in found[1].note


def test_why_there_is_no_value(small, tmp_path, monkeypatch):
    monkeypatch.setenv("JOYHALLO_CACHE", str(tmp_path))
    monkeypatch.delenv("JOYHALLO_WEIGHTS", raising=False)
    film = Made("made.mp4", 25.0, 60, (224, 224), np.zeros(60 * 640, np.float32))
    absent = measure_sync(film, load_expert())
    assert [measure.value for measure in absent] == [None] * 3
    assert "syncnet_v2.model" in absent[0].note
    assert absent[0].note.endswith("joyhallo models pull metrics-sync")
    expert = SyncExpert(small, always_one_face())
    mute = measure_sync(Made("made.mp4", 25.0, 60, (224, 224), None), expert)
    assert "no sound" in mute[0].note
    short = measure_sync(Made("made.mp4", 25.0, 30, (224, 224), film.speech), expert)
    assert "2 s" in short[0].note
    assert judge(small, iter([]), 5, film.speech) is None
