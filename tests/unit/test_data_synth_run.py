"""Whole runs of `joyhallo data synth` on a few real portraits and clips, where they lie beside the checkout."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from joyhallo.conditioning import lips
from joyhallo.conditioning.face import FaceMesh
from joyhallo.data.dataset import Dataset
from joyhallo.data.framing import face_crop
from joyhallo.data.heldout import is_held_out_person
from joyhallo.data.report import read_lines
from joyhallo.data.synthesis import mandarin, motion, studio
from joyhallo.data.synthesis.canonical import read_canonical_mesh
from joyhallo.data.synthesis.gestures import Gesture, read_gesture
from joyhallo.data.synthesis.hearing import Hearing
from joyhallo.data.synthesis.plans import SynthesisRequest, plan_clips
from joyhallo.data.synthesis.speakers import Film, list_films, track
from joyhallo.data.synthesis.stills import Still, list_stills
from joyhallo.data.synthesis.synthesize import _cast, finished_keys, synthesise
from joyhallo.data.synthesis.warp import TalkingPortrait
from joyhallo.errors import UserError
from joyhallo.media.image import read_image

DATA = Path(__file__).parents[3] / "shared/data"
FACE_MODELS = DATA / "models/face_landmarker_v2_with_blendshapes.task"
PORTRAITS = ("canada/019f.jpg", "london_smiling/005_08.jpg", "london_neutral/025_03.jpg")
VIDEOS = ("bbaf2n", "bbaf3s", "bgwu7s")
NUM_FRAMES = 24

pytestmark = pytest.mark.skipif(not FACE_MODELS.exists(), reason="no portraits and clips beside the checkout")


def quiet(_progress) -> None:
    """Shows nothing."""


def group_that_is_held_out(stem: str) -> str:
    return next(name for name in (f"g{number}" for number in range(500)) if is_held_out_person(f"{name}/{stem}"))


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Three portraits, one of them of a held-out person, two pictures that cannot be used, and three clips."""
    pytest.importorskip("ai_edge_litert")
    folder = tmp_path_factory.mktemp("given")
    portraits, videos = folder / "portraits", folder / "videos"
    for name in PORTRAITS[:2]:
        group = "known" if not is_held_out_person(f"known/{Path(name).stem}") else "known2"
        (portraits / group).mkdir(parents=True, exist_ok=True)
        shutil.copy(DATA / "portraits" / name, portraits / group)
    held_out = portraits / group_that_is_held_out("025_03")
    held_out.mkdir()
    shutil.copy(DATA / "portraits" / PORTRAITS[2], held_out)
    (portraits / "broken.jpg").write_bytes(b"no picture at all")
    from PIL import Image

    Image.fromarray(np.full((300, 300, 3), 120, np.uint8)).save(portraits / "wall.png")
    videos.mkdir()
    for name in VIDEOS:
        shutil.copy(DATA / f"grid_s1/{name}.mp4", videos)
    (videos / "broken.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="module")
def request_(given):
    return SynthesisRequest(
        portraits=(given / "portraits",),
        videos=(given / "videos",),
        output=given / "dataset",
        face_models=FACE_MODELS,
        syllables=DATA / "speech_cmn/syllables",
        num_takes=1,
        num_frames=NUM_FRAMES,
        num_workers=1,
        seed=3,
    )


@pytest.fixture(scope="module")
def result(request_):
    """Of a run that was stopped after its first clip and begun again."""

    def stop(progress) -> None:
        if progress.stage == "clips" and progress.num_done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesise(request_, stop)
    assert len(finished_keys(request_.output)) == 1
    assert not (request_.output / "index.json").exists()
    return synthesise(request_, quiet)


@pytest.mark.usefixtures("result")
class TestRun:
    def test_every_usable_portrait_speaks_and_what_was_finished_is_not_made_again(self, request_, result):
        assert result.num_made == 2
        dataset = Dataset(request_.output)
        assert len(dataset) == 3
        assert sorted(facts.key.split("-")[-2] for facts in dataset.facts) == ["film", "film", "syllables"]

    def test_the_others_are_named_with_their_reasons(self, request_, result):
        reasons = {
            Path(str(line["source"])).name: line["reason"] for line in read_lines(request_.output) if not line["is_kept"]
        }
        assert reasons == {"broken.jpg": "unreadable picture", "wall.png": "no face", "broken.mp4": "unreadable video"}
        assert result.num_refused == 3

    def test_samples_are_like_those_of_films(self, request_):
        dataset = Dataset(request_.output)
        for i, facts in enumerate(dataset.facts):
            annotations, portrait = dataset.annotations(i), dataset.portrait(i)
            assert facts.is_synthetic
            assert facts.num_frames == NUM_FRAMES
            assert annotations.points.shape == (NUM_FRAMES, 478, 3)
            assert annotations.speech.shape == (NUM_FRAMES * 640,)
            assert annotations.masks.shape == (3, 64, 64)
            assert annotations.masks[0].max() == 255
            assert annotations.speech_features is not None
            assert annotations.speech_features.shape == (NUM_FRAMES, 3, 160)
            assert portrait is not None
            frames = dataset.frames(i, [0, NUM_FRAMES - 1])
            assert frames.shape == (2, 256, 256, 3)
            border = np.abs(frames[0, :8].astype(int) - portrait[:8]).mean()
            assert border < 6  # the same picture, in the same light

    def test_points_are_where_the_face_is(self, request_):
        dataset, finder = Dataset(request_.output), FaceMesh.from_path(FACE_MODELS)
        for i in range(len(dataset)):
            found = finder.track(dataset.frames(i, [NUM_FRAMES // 2])[0], None)
            assert found is not None
            away = np.linalg.norm(found.landmarks[:, :2] - dataset.annotations(i).points[NUM_FRAMES // 2, :, :2], axis=1)
            assert np.median(away) < 2.5

    def test_held_out_people_speak_with_held_out_sound_only(self, request_, monkeypatch):
        held_out = [facts for facts in Dataset(request_.output).facts if facts.is_held_out]
        assert [facts.speaker.split("/")[1] for facts in held_out] == ["025_03"]
        heard = []
        monkeypatch.setattr(studio.Studio, "_lender", lambda _studio, film: heard.append(film.is_held_out))
        cast = cast_of(request_)
        for is_held_out in (True, False):
            studio.Studio._drawn_lender(unmade(cast), is_held_out, np.random.default_rng(0))
        assert heard == [True, False]
        assert {film.path.stem for film in cast.lenders[True]} & {film.path.stem for film in cast.lenders[False]} == set()

    def test_done_once_nothing_is_made_again(self, request_):
        before = (request_.output / "index.json").read_bytes()
        again = synthesise(request_, quiet)
        assert again.num_made == 0
        assert (request_.output / "index.json").read_bytes() == before
        assert len(read_lines(request_.output)) == 3 + 2 + 4 + 3

    def test_other_options_are_refused(self, request_):
        with pytest.raises(UserError, match="begun with seed=3, not 4"):
            synthesise(replace(request_, seed=4), quiet)

    def test_a_clip_made_elsewhere_and_alone_is_the_same(self, request_, tmp_path):
        dataset, cast = Dataset(request_.output), cast_of(request_)
        plan = plan_clips(request_, usable_of(request_))[2]
        for name in ("portraits", "videos"):
            (tmp_path / name).symlink_to(cast.work / name)
        (tmp_path / "clips").mkdir()
        assert studio.Studio(replace(cast, work=tmp_path)).make(plan) == plan.key
        i = [facts.key for facts in dataset.facts].index(plan.key)
        for suffix in ("mp4", "safetensors", "json", "png"):
            assert (tmp_path / f"clips/{plan.key}.{suffix}").read_bytes() == dataset.content(i, suffix)


def cast_of(request: SynthesisRequest) -> studio.Cast:
    films = list_films(request.videos, request.num_videos)
    return _cast(request, request.output / ".work", list_stills(request.portraits), films)[0]


def usable_of(request: SynthesisRequest) -> list[Still]:
    films = list_films(request.videos, request.num_videos)
    return _cast(request, request.output / ".work", list_stills(request.portraits), films)[1]


def unmade(cast: studio.Cast) -> studio.Studio:
    """A studio without its networks."""
    empty = studio.Studio.__new__(studio.Studio)
    empty._cast = cast
    return empty


@pytest.fixture(scope="module")
def stage():
    pytest.importorskip("ai_edge_litert")
    finder, mesh = FaceMesh.from_path(FACE_MODELS), read_canonical_mesh(FACE_MODELS)
    tracked = track(Film("f", DATA / "grid_s1/bbaf2n.mp4", False), finder)
    portraits = []
    for name in PORTRAITS:
        image = read_image(DATA / "portraits" / name)
        face = finder.track(image, None)
        assert face is not None
        crop = face_crop(face.landmarks, (image.shape[0], image.shape[1]))
        portraits.append(TalkingPortrait(crop.cut(image), crop.move(face.landmarks), mesh))
    return portraits, read_gesture(tracked.points, mesh.vertices), finder, mesh


def opening_of(points: np.ndarray, template: np.ndarray) -> float:
    return float(lips.lip_gap(motion.fit_pose(points, template).undo(points)))


class TestLips:
    def test_they_close_where_the_speaker_is_silent(self, stage):
        portraits, gesture, _, mesh = stage
        # The clip begins and ends in silence: some of its frames have shut lips.
        shut = np.flatnonzero(gesture.gap[:, 3:8].mean(1) == 0)
        wide = int(gesture.gap[:, 5].argmax())
        assert len(shut) >= 10
        for portrait in portraits:
            for frame in shut[::5]:
                assert abs(opening_of(portrait.place(gesture, int(frame)).points, mesh.vertices)) < 0.02
            assert opening_of(portrait.place(gesture, wide).points, mesh.vertices) > 0.5

    def test_they_close_on_bilabials(self, stage):
        portraits, filmed, _, mesh = stage
        controls = mandarin._trajectory([(0.4, "a"), (0.7, "shut"), (1.0, "a"), (1.3, "shut"), (1.6, "o")], 50)
        sentence = mandarin.Sentence(np.zeros(50 * 640, np.float32), controls)
        deaf = Hearing(np.zeros((13 * 26, 4)), np.ones(4))
        gesture = mandarin.act(sentence, mandarin.FilmedLips(mandarin.fit_lip_basis([filmed]), deaf), filmed)
        for portrait in portraits:
            openings = [opening_of(portrait.place(gesture, frame).points, mesh.vertices) for frame in range(50)]
            for time in (0.7, 1.3):
                assert max(openings[round(time * 25 - 0.5)], openings[round(time * 25 - 0.5) - 1]) < 0.05
            assert openings[round(1.0 * 25 - 0.5)] > 0.5

    def test_the_tracker_sees_what_was_rendered(self, stage):
        portraits, gesture, finder, mesh = stage
        shut, wide = int(gesture.gap[:, 5].argmin()), int(gesture.gap[:, 5].argmax())
        for portrait in portraits:
            for frame, tolerance_cm in ((shut, 0.15), (wide, 0.55)):
                placed = portrait.place(gesture, frame)
                found = finder.track(portrait.render(placed), None)
                assert found is not None
                seen, meant = (opening_of(points, mesh.vertices) for points in (found.landmarks, placed.points))
                assert abs(seen - meant) < tolerance_cm

    def test_at_rest_the_picture_is_kept(self, stage):
        portraits, _, _, _ = stage
        still = Gesture(np.zeros((1, 478, 3)), np.zeros((1, 11)), np.zeros(1), np.eye(3)[None], np.ones(1), np.zeros((1, 3)))
        frame = portraits[0].render(portraits[0].place(still, 0))
        assert np.abs(frame.astype(int) - portraits[0].image).mean() < 1.0
