"""The parts that make talking clips: geometry, many ways to move, Mandarin shapes, sound, the split."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from joyhallo.cli import main
from joyhallo.conditioning.similarity import fit_similarity
from joyhallo.data import heldout
from joyhallo.data.framing import FaceCrop, face_crop
from joyhallo.data.synthesis import mandarin, voices
from joyhallo.data.synthesis.acting import Style, act_out, draw_style, faster, loudness_of, rest_in_silence
from joyhallo.data.synthesis.gestures import Gesture, part_of_rotation, shut_when_nearly_shut, smooth
from joyhallo.data.synthesis.plans import SynthesisRequest, plan_clips
from joyhallo.data.synthesis.stills import Still, list_stills
from joyhallo.data.synthesis.studio import Source
from joyhallo.errors import UserError
from joyhallo.idle.curves import draw_blinks
from joyhallo.media.paste import Crop


def resting(num_frames: int) -> Gesture:
    return Gesture(
        shape=np.zeros((num_frames, 478, 3)),
        gap=np.zeros((num_frames, 11)),
        blink=np.zeros(num_frames),
        rotation=np.repeat(np.eye(3)[None], num_frames, 0),
        scale=np.ones(num_frames),
        shift=np.zeros((num_frames, 3)),
    )


class TestGeometry:
    def test_similarity_is_found_again(self):
        random = np.random.default_rng(0)
        source = random.normal(size=(12, 3))
        rotation = cv2.Rodrigues(np.array([0.2, -0.5, 0.1]))[0]
        pose = fit_similarity(source, 3.5 * source @ rotation.T + [10, -4, 2])
        assert np.allclose(pose.rotation, rotation)
        assert np.isclose(pose.scale, 3.5)
        assert np.allclose(pose.undo(pose.apply(source)), source)

    def test_mirror_image_does_not_become_a_mirroring_rotation(self):
        source = np.random.default_rng(1).normal(size=(12, 3))
        pose = fit_similarity(source, source * [-1, 1, 1])
        assert np.isclose(np.linalg.det(pose.rotation), 1)

    def test_part_of_a_rotation(self):
        rotation = cv2.Rodrigues(np.array([0.0, 0.4, 0.0]))[0]
        assert np.allclose(cv2.Rodrigues(part_of_rotation(rotation, 0.5))[0].ravel(), [0, 0.2, 0])

    def test_smoothing_keeps_parabolas(self):
        times = np.arange(12.0)
        points = (times**2)[:, None, None] * np.ones((1, 2, 3))
        assert np.allclose(smooth(points)[2:-2], points[2:-2])

    def test_what_the_tracker_reports_of_shut_lips_is_shut(self):
        gaps = np.full((3, 11), 0.03)
        gaps[1], gaps[2] = 0.2, 0.8
        settled = shut_when_nearly_shut(gaps)
        assert not settled[0].any()
        assert np.array_equal(settled[1:], gaps[1:])

    def test_crop_shows_what_its_points_say(self):
        image = np.zeros((120, 200, 3), np.uint8)
        image[60:64, 90:94] = 255
        crop = FaceCrop(Crop(top=20, left=50, height=80, width=80), size_px=160)
        rows, columns = np.nonzero(crop.cut(image)[..., 0] > 128)
        # The white square covers [90, 94) x [60, 64): its middle is at 92, 62 in continuous coordinates.
        expected = crop.move(np.array([[92.0, 62.0, 0.0]]))[0]
        assert np.allclose([columns.mean() + 0.5, rows.mean() + 0.5], expected[:2], atol=0.6)

    def test_face_crop_stays_inside(self):
        points = np.zeros((478, 3), np.float32)
        points[:, :2] = np.random.default_rng(0).uniform([120, 5], [190, 90], (478, 2))
        crop = face_crop(points, (150, 200)).crop
        assert crop.height == crop.width
        assert crop.left >= 0
        assert crop.top >= 0
        assert crop.left + crop.width <= 200
        assert crop.top + crop.height <= 150

    def test_face_crop_of_a_video_goes_by_the_median_frame(self):
        points = np.random.default_rng(0).uniform(100, 200, (478, 3))
        shaken = np.stack([points - 3, points, points + 50])
        assert face_crop(shaken, (400, 500)) == face_crop(points, (400, 500))


class TestActing:
    style = Style(1.0, (0, 0, 0), 0.0, 0.0, 0.3, False, 0.0, 0.0, 1.3, 1.0)

    def test_a_wide_mouth_opens_wider_and_shut_lips_stay_shut(self):
        gesture = resting(30)
        gesture.gap[10:20] = 0.5
        acted = act_out(gesture, np.zeros(30), self.style, np.random.default_rng(0))
        assert np.allclose(acted.gap[10:20], 0.65)
        assert not acted.gap[:10].any()

    def test_styles_differ_and_turn_heads_within_reason(self):
        random = np.random.default_rng(0)
        loudness = random.random(100)
        angles = []
        for _ in range(40):
            acted = act_out(resting(100), loudness, draw_style(random), random)
            turns = [np.degrees(np.linalg.norm(cv2.Rodrigues(rotation)[0])) for rotation in acted.rotation]
            angles.append(max(turns))
        assert min(angles) < 3 < max(angles)
        assert max(angles) < 22

    def test_a_head_without_a_share_stays_and_the_mouth_still_speaks(self):
        random = np.random.default_rng(1)
        gesture, loudness = resting(50), random.random(50)
        gesture.gap[10:20] = 0.5
        filmed = replace(gesture, shift=random.normal(0, 0.3, gesture.shift.shape), scale=np.linspace(0.95, 1.05, 50))
        style = draw_style(np.random.default_rng(2))
        still = act_out(filmed, loudness, style.with_head(0), np.random.default_rng(3))
        assert np.allclose(still.rotation, np.eye(3))
        assert np.allclose(still.shift, 0)
        assert np.allclose(still.scale, 1)
        alive = act_out(filmed, loudness, style.with_head(1), np.random.default_rng(3))
        assert (alive.gap == still.gap).all()
        assert np.abs(alive.shift).max() > 0.05

    def test_wider_lips_part_wider_and_still_shut(self):
        gesture = resting(30)
        gesture.gap[10:20] = 0.5
        wider = act_out(gesture, np.zeros(30), self.style.with_opening(1.5), np.random.default_rng(0))
        assert np.allclose(wider.gap[10:20], 1.5 * 0.65)
        assert not wider.gap[:10].any()

    def test_blinks_shut_the_eyes_at_about_the_rate_asked_for(self):
        lids = draw_blinks(25 * 200, 0.4, np.random.default_rng(0))
        num_blinks = int(((lids[1:] >= 0.95) & (lids[:-1] < 0.95)).sum())
        assert 45 <= num_blinks <= 100
        assert (lids < 0.05).mean() > 0.7

    def test_faster_shows_the_frames_between(self):
        gesture = resting(20)
        gesture.gap[:] = np.arange(20)[:, None] / 20
        quick = faster(gesture, 1.5, 2.0, 10)
        assert np.allclose(quick.gap[1:, 0], (2 + 1.5 * np.arange(1, 10)) / 20)

    def test_faster_keeps_closures(self):
        gesture = resting(40)
        gesture.gap[:] = 0.5
        gesture.gap[9:11] = 0
        for factor in (0.85, 1.0, 1.17):
            assert (faster(gesture, factor, 0.3, 30).gap.max(1) == 0).any()

    def test_the_mouth_rests_in_long_silences_and_begins_before_the_sound(self):
        gesture = resting(60)
        gesture.gap[:] = 0.4
        gesture.shape[:, 17, 1] = 0.3
        loudness = np.zeros(60)
        loudness[25:40] = 1
        settled = rest_in_silence(gesture, loudness)
        assert not settled.gap[:17].any()
        assert not settled.shape[:17, 17].any()
        assert np.allclose(settled.gap[20:42], 0.4)
        assert not settled.gap[46:].any()
        loudness[:] = 1
        loudness[30:35] = 0
        assert np.array_equal(rest_in_silence(gesture, loudness).gap, gesture.gap)

    def test_loudness_is_one_where_it_is_loudest(self):
        speech = np.zeros(3 * 640, np.float32)
        speech[640:1280] = 0.5
        assert loudness_of(speech, 3).tolist() == [0, 1, 0]


class TestSound:
    def test_the_same_generator_state_gives_the_same_recording(self):
        speech = np.random.default_rng(0).normal(size=6400).astype(np.float32)
        first, second = (voices.recorded(speech, np.random.default_rng(5)) for _ in range(2))
        assert first.dtype == np.int16
        assert np.array_equal(first, second)
        assert not np.array_equal(first, voices.recorded(speech, np.random.default_rng(6)))

    def test_rooms_and_noise_do_not_shift_the_sound(self):
        click = np.zeros(16000, np.float32)
        click[8000:8040] = 1
        for seed in range(12):
            assert abs(int(np.abs(voices.recorded(click, np.random.default_rng(seed)).astype(int)).argmax()) - 8020) < 60

    def test_played_faster_is_higher_and_starts_where_told(self):
        tone = np.sin(2 * np.pi * 200 * np.arange(32000) / 16000).astype(np.float32)
        heard = voices.played(tone, 1.25, 800, 16000)
        assert abs(np.abs(np.fft.rfft(heard)).argmax() - 250) <= 1
        assert np.isclose(heard[0], tone[800], atol=1e-6)


class TestMandarin:
    @pytest.mark.parametrize(
        ("pinyin", "expected"),
        [
            ("niu4", ["tongue-tip", "i", "o", "u"]),
            ("ba1", ["shut", "a"]),
            ("zhi1", ["retroflex", "apical"]),
            ("yu3", ["ü"]),
            ("ju2", ["palatal", "ü"]),
            ("lv4", ["tongue-tip", "ü"]),
            ("wang2", ["u", "a", "ng"]),
            ("er4", ["er"]),
            ("shuang1", ["retroflex", "u", "a", "ng"]),
            ("wanr2", ["u", "a", "er"]),
            ("shir4", ["retroflex", "apical", "er"]),
            ("huar4", ["back", "u", "a", "er"]),
        ],
    )
    def test_shapes_of_syllables(self, pinyin, expected):
        assert mandarin.phones(pinyin) == expected

    @pytest.mark.parametrize("name", ["_hm1", "ng2", "xyz", "你", "r5", "err2"])
    def test_no_syllable(self, name):
        assert mandarin.phones(name) is None

    def test_bilabials_shut_the_lips_for_as_long_as_lips_take_and_a_opens_them(self):
        controls = mandarin._trajectory([(0.5, "a"), (0.8, "shut"), (1.1, "a")], 50)
        assert not controls[19:21, 0].any()  # the two frames nearest to 0.8 s
        assert (controls[17:23, 0] == 0).sum() >= 3
        assert controls[12, 0] > 0.8
        assert abs(controls[-1, 0]) < 0.05

    def test_a_third_of_what_is_said_begins_with_shut_lips(self, monkeypatch):
        said = []
        tone = np.sin(np.arange(8000) / 5).astype(np.float32)
        monkeypatch.setattr(mandarin, "read_speech", lambda path: said.append(path.stem) or tone)
        paths = [
            Path(f"{name}.opus") for name in ("ba1", *(f"{initial}a{tone}" for initial in "dtnlgkhzc" for tone in range(1, 5)))
        ]
        random = np.random.default_rng(0)
        for _ in range(20):
            mandarin.speak(paths, 100, random)
        assert 0.3 < said.count("ba1") / len(said) < 0.45  # it is one of 37


class TestSplit:
    def test_the_two_pictures_of_a_person_stay_together(self):
        assert heldout.person_of(Path("london_neutral/001_03.jpg")) == heldout.person_of(Path("london_smiling/001_08.jpg"))
        assert heldout.person_of(Path("congress/A000055.jpg")) != heldout.person_of(Path("canada/A000055.jpg"))

    def test_about_the_share(self):
        share = np.mean([heldout.is_held_out_person(f"group/{number}") for number in range(3000)])
        assert 0.05 < share < 0.09

    @pytest.mark.parametrize(("num_videos", "num_held_out"), [(1000, 20), (100, 10), (5, 1), (2, 1), (1, 0), (0, 0)])
    def test_the_first_videos_by_name_are_held_out(self, num_videos, num_held_out):
        paths = [Path(f"{number:04d}.mp4") for number in range(num_videos)]
        split = heldout.split_videos(reversed(paths))
        assert [*split.held_out, *split.known] == paths
        assert len(split.held_out) == num_held_out


class TestPlan:
    stills = tuple(Still(Path(f"{name}.png"), name, name) for name in "abc")

    def request(self, **options) -> SynthesisRequest:
        return SynthesisRequest((), (), Path("out"), Path("x.task"), **options)

    def test_more_takes_add_to_fewer(self):
        few = plan_clips(self.request(num_takes=1, syllables=Path("s")), self.stills)
        more = plan_clips(self.request(num_takes=3, syllables=Path("s")), self.stills)
        assert [plan.key for plan in few] == ["a-film-000", "b-syllables-000", "c-film-000"]
        assert more[:3] == few
        assert len({plan.key for plan in more}) == 9

    def test_every_so_many_of_the_mandarin_clips_are_spoken_by_espeak(self):
        plans = plan_clips(self.request(num_takes=20, words=Path("w"), espeak_share=0.25), self.stills)
        count = Counter(plan.source for plan in plans)
        assert count == {Source.FILM: 30, Source.WORDS: 24, Source.ESPEAK: 6}
        assert {plan.still.name for plan in plans if plan.source is Source.ESPEAK} == {"a", "b", "c"}
        assert all(f"-{plan.source}-" in plan.key for plan in plans)

    def test_without_recordings_nobody_speaks_mandarin(self):
        plans = plan_clips(self.request(num_takes=4, espeak_share=1.0), self.stills)
        assert {plan.source for plan in plans} == {Source.FILM}

    def test_a_number_of_clips_is_spread_over_the_portraits(self):
        plans = plan_clips(self.request(num_clips=7), self.stills)
        assert len({plan.key for plan in plans}) == 7
        assert {plan.still.name for plan in plans[:3]} == {"a", "b", "c"}

    def test_stills_of_one_name_get_different_ones(self, tmp_path):
        for folder in ("x/p", "y/p"):
            (tmp_path / folder).mkdir(parents=True)
            (tmp_path / folder / "me (1).JPG").write_bytes(b"")
        assert [still.name for still in list_stills([tmp_path / "x", tmp_path / "y"])] == ["p_me--1-", "p_me--1--2"]

    def test_no_pictures(self, tmp_path):
        with pytest.raises(UserError, match="no picture"):
            list_stills([tmp_path])


class TestCommand:
    @pytest.mark.parametrize(
        ("options", "line"),
        [
            ([], "portraits 'nowhere' does not exist"),
            (["--takes", "2", "--clips", "3"], "--takes and --clips were both given"),
            (["--size", "250"], "frames of 250 px"),
            (["--frames", "8"], "clips of 8 frames"),
            (["--workers", "0"], "--workers 0: give 1 or more"),
            (["--syllables", "nowhere"], "too few recorded syllables"),
            (["--words", "nowhere"], "too few recorded words"),
            (["--espeak", "1.5"], "--espeak 1.5: give a share"),
            (["--head", "3"], "--head 3: give a share"),
        ],
    )
    def test_what_cannot_be_is_one_line(self, options, line, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("JOYHALLO_WEIGHTS", str(tmp_path / "bundle.task"))
        (tmp_path / "bundle.task").write_bytes(b"not opened")
        given = ["data", "synth", "--portraits", "nowhere", "--videos", "nowhere", "-o", "out", *options]
        assert main(given) == 2
        assert line in capsys.readouterr().err
