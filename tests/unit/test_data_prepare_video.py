"""One film to its clips: films of every kind, with the real face mesh and the bundled encoders."""

from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np
import pytest

from joyhallo.conditioning.anatomy import SILHOUETTE
from joyhallo.conditioning.masks import clip_box, clip_masks
from joyhallo.data.frames import read_clip_frames
from joyhallo.data.preparation.equipment import Equipment, open_equipment
from joyhallo.data.preparation.films import Settings, identify
from joyhallo.data.preparation.one_video import VideoPreparer
from joyhallo.data.samples import read_annotations, read_facts
from joyhallo.data.shards import read_json
from talking import Film, babble, open_face_mesh, steady, talking, write_film

NUM_FRAMES = 60
DURATION_S = NUM_FRAMES / 25


@pytest.fixture(scope="module")
def equipment() -> Equipment:
    cv2.setNumThreads(1)
    open_face_mesh()
    return open_equipment("mini", separate_vocals=False)


@pytest.fixture(scope="module")
def pictures():
    return talking(steady(DURATION_S))


@pytest.fixture(scope="module")
def voice():
    return babble(DURATION_S)


@pytest.fixture
def prepared(equipment, tmp_path):
    """Lines about the parts of a film, the first about the whole."""

    def prepare(path, settings=Settings()):  # noqa: B008
        (tmp_path / "out").mkdir(exist_ok=True)
        return VideoPreparer(settings, equipment).prepare(identify(path), tmp_path / "out")

    return prepare


def film(tmp_path, pictures, voice, name="a.mp4", times=None, **how):
    place = how.pop("place", lambda picture: picture)
    return write_film(tmp_path / name, pictures, Film(times or steady(len(pictures) / 25), **how), voice, place)


def test_a_plain_film_becomes_a_clip_with_everything(tmp_path, prepared, pictures, voice):
    whole, part = prepared(film(tmp_path, pictures, voice))
    assert (whole.is_kept, whole.key, whole.detail) == (True, None, "1 clips"), part
    assert (part.is_kept, part.start_s, part.end_s) == (True, 0.0, DURATION_S)
    out = tmp_path / "out"
    facts = read_facts(read_json(out / f"{part.key}.json"), "")
    assert (facts.num_frames, facts.size_px, facts.is_synthetic) == (NUM_FRAMES, 256, False)
    assert (facts.identity_encoder, facts.speech_encoder) == ("mini", "mini")
    assert abs(facts.sync_offset_frames) <= 1
    assert facts.sync_confidence > 0.2
    assert facts.speech_share > 0.3
    notes = read_annotations((out / f"{part.key}.safetensors").read_bytes(), "")
    known = notes.points[:, :468]
    assert np.isfinite(known).all()
    assert np.array_equal(notes.masks, clip_masks(known, (256, 256)))
    assert np.array_equal(notes.face_box, clip_box(known, SILHOUETTE, (256, 256)))
    sides = notes.face_box[2:] - notes.face_box[:2]
    assert 0.55 <= sides.max() / 256 <= 0.72
    assert facts.face_share == pytest.approx(sides.prod() / 256**2, abs=1e-3)
    assert notes.speech_features.shape[0] == NUM_FRAMES
    assert np.isfinite(notes.speech_features).all()
    assert np.linalg.norm(notes.face_embedding) > 0


def test_points_lie_on_the_face_of_the_clip(tmp_path, prepared, equipment, pictures, voice):
    _, part = prepared(film(tmp_path, pictures, voice))
    notes = read_annotations((tmp_path / "out" / f"{part.key}.safetensors").read_bytes(), "")
    with (tmp_path / "out" / f"{part.key}.mp4").open("rb") as file:
        frames = read_clip_frames(file, [0, 30, 59], "")
    for number, frame in zip((0, 30, 59), frames, strict=True):
        face = equipment.mesh.track(frame, None)
        assert np.abs(face.landmarks[:468, :2] - notes.points[number, :468, :2]).mean() < 2.0


def test_the_sound_is_where_the_picture_is(tmp_path, prepared, pictures, voice):
    """A click in frame 30 of the film is in frame 30 of the clip."""
    clicked = voice * 0.3
    clicked[30 * 640 + 320] = 1.0
    clicked[30 * 640 + 321] = -1.0
    _, part = prepared(film(tmp_path, pictures, clicked))
    notes = read_annotations((tmp_path / "out" / f"{part.key}.safetensors").read_bytes(), "")
    assert abs(int(np.abs(notes.speech.astype(int)).argmax()) - (30 * 640 + 320)) <= 32


@pytest.mark.parametrize(
    "how",
    [
        {"quarter_turns": 1},
        {"pixel_format": "yuv420p10le"},
        {"codec": "libx265", "name": "a.mkv"},
    ],
    ids=str,
)
def test_other_kinds_of_films_become_the_same_clip(tmp_path, prepared, pictures, voice, how):
    _, part = prepared(film(tmp_path, pictures, voice, **how))
    assert part.is_kept, part
    assert part.end_s == pytest.approx(DURATION_S, abs=0.05)


def test_a_variable_rate_keeps_lips_and_sound_together(tmp_path, prepared, voice):
    random = np.random.RandomState(3)
    steps = random.choice([Fraction(1, 60), Fraction(1, 24), Fraction(1, 20)], 80)
    times = tuple(time for time in np.cumsum([Fraction(0), *steps]) if time < DURATION_S)
    _, part = prepared(film(tmp_path, talking(times), voice, times=times))
    assert part.is_kept, part
    facts = read_facts(read_json(tmp_path / "out" / f"{part.key}.json"), "")
    assert abs(facts.sync_offset_frames) <= 1


def test_a_4k_film_is_cropped_to_the_face(tmp_path, prepared, pictures, voice):
    def place(picture):
        scene = np.full((2160, 3840, 3), (60, 70, 80), np.uint8)
        scene[400:1680, 1800:3080] = cv2.resize(picture, (1280, 1280))
        return scene

    settings = Settings(thresholds=replace(Settings().thresholds, min_frames=13))  # a 4K film takes a while to write
    _, part = prepared(film(tmp_path, pictures[10:23], voice[10 * 640 : 23 * 640], place=place), settings)
    assert part.is_kept, part
    facts = read_facts(read_json(tmp_path / "out" / f"{part.key}.json"), "")
    assert facts.sync_offset_frames is None  # too short to tell
    assert 0.2 < facts.face_share < 0.5


@pytest.mark.parametrize(
    ("sound", "whole_reason", "part_reason"),
    [
        (None, "unusable sound", None),
        (np.zeros(round(DURATION_S * 16_000), np.float32), "no usable part", "no speech"),
        (0.2 * np.sin(np.arange(round(DURATION_S * 16_000)) / 8).astype(np.float32), "no usable part", "no speech"),
        (babble(DURATION_S, seed=8), "no usable part", "lips do not follow the sound"),
        (np.pad(babble(DURATION_S), (8 * 640, 0)), "no usable part", "sound and lips out of sync"),
    ],
    ids=["no sound", "silence", "a tone", "a foreign voice", "8 frames late"],
)
def test_sound_that_cannot_be_used(tmp_path, prepared, pictures, sound, whole_reason, part_reason):
    whole, *parts = prepared(film(tmp_path, pictures, sound))
    assert (whole.is_kept, whole.reason) == (False, whole_reason)
    assert [part.reason for part in parts] == ([part_reason] if part_reason else [])
    assert not list((tmp_path / "out").iterdir())


def test_two_speakers_are_one_too_many(tmp_path, prepared, pictures, voice):
    path = film(tmp_path, pictures, voice, place=lambda picture: np.concatenate([picture, picture], axis=1))
    whole, *parts = prepared(path)
    assert (whole.is_kept, whole.reason) == (False, "no usable part")
    assert [part.reason for part in parts] == ["several faces"]


def test_a_film_without_a_face_and_one_that_is_blurred(tmp_path, prepared, pictures, voice):
    whole, part = prepared(film(tmp_path, [np.full_like(pictures[0], 128)] * 30, voice))
    assert (whole.is_kept, part.reason) == (False, "no face")
    whole, part = prepared(film(tmp_path, pictures, voice, place=lambda picture: cv2.GaussianBlur(picture, (0, 0), 5)))
    assert (whole.is_kept, part.reason) == (False, "blurred")


def test_a_face_too_small_for_the_threshold(tmp_path, prepared, pictures, voice):
    settings = Settings(thresholds=replace(Settings().thresholds, min_face_px=300.0))
    _, part = prepared(film(tmp_path, pictures, voice), settings)
    assert part.reason == "face too small"
    assert "300 are needed" in part.detail


def test_a_broken_film(tmp_path, prepared, pictures, voice):
    whole = film(tmp_path, pictures, voice)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(whole.read_bytes()[:3000])
    (line,) = prepared(broken)
    assert (line.is_kept, line.reason) == (False, "unreadable video")
    (tmp_path / "text.mp4").write_text("no film")
    assert prepared(tmp_path / "text.mp4")[0].reason in ("unreadable video", "unusable sound")


def test_the_same_film_gives_the_same_bytes(tmp_path, prepared, pictures, voice):
    path = film(tmp_path, pictures[:30], voice[: 30 * 640])
    prepared(path)
    first = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    prepared(path)
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == first
    assert len(first) == 3
