"""The report of the embedded weights: what it counts, what it compares, where it writes."""

import dataclasses
import json
import sys
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from joyhallo.conditioning import anatomy  # noqa: E402
from joyhallo.conditioning.lip_sync import LipSync  # noqa: E402
from joyhallo.data.heldout import is_held_out_person  # noqa: E402
from joyhallo.data.synthesis.stills import list_stills  # noqa: E402
from joyhallo.errors import UserError  # noqa: E402
from mini_report import effort, people, sayings, scores, table, traces  # noqa: E402

PORTRAITS = ROOT.parent / "shared" / "data" / "portraits"


def clip_scores(**changes) -> scores.ClipScores:
    plain = scores.ClipScores(
        name="a", kind="english", sync=0.7, offset_frames=0, shifted=(0.1, 0.2), bilabials=(True, True), others=(False, False),
        num_silent=10, num_at_rest=10, amplitude=0.1, psnr_db=35.0, flicker=0.05, spent_s=2.0,
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def findings(*made: scores.ClipScores, **changes) -> table.Findings:
    shown = tuple(table.Shown(clip, ("beard",), False, None, 0.1) for clip in made)
    return table.Findings(shown, (clip_scores(flicker=0.06),), 0, 0, 50.0, None, **changes)


def verdicts(found: table.Findings) -> dict[str, bool | None]:
    return {row.title: row.is_met for row in table.rows_of(found)}


def test_words_count_as_onsets_only_right_after_another_and_where_the_lips_say_so(tmp_path):
    (tmp_path / "x.align").write_text(
        "0 10000 sil\n10000 15000 bin\n15000 20000 blue\n20000 25000 at\n25000 30000 m\n30000 35000 four\n"
        "35000 36000 sp\n36000 40000 please\n40000 45000 now\n45000 74000 sil\n"
    )
    words = sayings.read_alignment(tmp_path / "x.align")
    assert (words[0], words[-1]) == ((10, 15, "bin"), (40, 45, "now"))
    found = [(onset.frame, onset.is_bilabial) for onset in sayings.word_onsets(words, first_frame=5)]
    assert found == [(10, True), (15, False), (35, False)]  # blue, at, now; not bin, m, four, please


def test_a_missing_alignment_is_said(tmp_path):
    with pytest.raises(UserError, match=r"alignment .* is missing"):
        sayings.read_alignment(tmp_path / "none.align")


def held_out_name(initials: str) -> str:
    finals = ("a", "o", "i", "u", "an", "en", "ang", "ao", "ei", "ai")
    names = (f"{initial}{final}{tone}" for initial in initials for final in finals for tone in range(1, 6))
    return next(name for name in names if is_held_out_person(name) and sayings.read_syllable(name))


def write_opus(path: Path, sound: np.ndarray) -> None:
    import av

    with av.open(str(path), "w", format="ogg") as file:
        stream = file.add_stream("libopus", rate=48000)
        frame = av.AudioFrame.from_ndarray((sound[None] * 32767).astype(np.int16), format="s16", layout="mono")
        frame.sample_rate = 16000
        resampler = av.AudioResampler("s16", "mono", 48000)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))


def test_syllables_follow_one_another_where_their_onsets_are_said_to_be(tmp_path):
    random = np.random.default_rng(0)
    for name in (held_out_name("bpm"), held_out_name("dtg")):
        sound = np.zeros(9600, np.float32)
        sound[2400:7200] = 0.3 * np.sin(np.arange(4800) * 0.1) + 0.01 * random.normal(size=4800)
        write_opus(tmp_path / f"{name}.opus", sound)
    first, second = sayings.syllables_in_a_row(tmp_path, 2)
    kinds = [onset.is_bilabial for onset in first.onsets]
    assert len(kinds) >= 3
    assert all(before != after for before, after in pairwise(kinds))
    level = np.abs(first.speech).reshape(sayings.NUM_FRAMES, -1).mean(1)
    assert level[: first.spoken[0] - 1].max() < 0.01 < level[first.onsets[0].frame + 1]
    assert first.silent[0]
    assert not first.silent[first.onsets[0].frame]
    assert first.name != second.name
    again = sayings.syllables_in_a_row(tmp_path, 1)[0]
    assert np.array_equal(first.speech, again.speech)
    changed, again = sayings.in_another_voice(first), sayings.in_another_voice(again)
    assert np.array_equal(changed.speech, again.speech)
    assert (changed.onsets, changed.speech.shape) == (first.onsets, first.speech.shape)
    assert (changed.name, changed.kind) == ("syllables-00-voice", sayings.OTHER_VOICE)
    assert np.corrcoef(changed.speech, first.speech)[0, 1] < 0.5
    loud = (np.abs(sound).reshape(sayings.NUM_FRAMES, -1).mean(1) for sound in (changed.speech, first.speech))
    assert np.corrcoef(*loud)[0, 1] > 0.8


def test_the_score_of_lips_in_time_is_high_and_falls_when_they_are_shifted():
    random = np.random.default_rng(0)
    lips = np.cumsum(random.normal(size=(64, 8)), axis=0)
    lips -= np.linspace(lips[0], lips[-1], 64)
    model = LipSync(np.zeros((338, 8)), np.ones(338), np.ones(8), np.full(8, 1 / 8, np.float32))
    spoken = np.arange(12, 50)
    score, shifted = scores.spoken_scores(model, lips, lips, spoken)
    assert score == pytest.approx(1)
    assert len(shifted) == 22
    assert max(shifted) < 0.9
    late, _ = scores.spoken_scores(model, lips, np.roll(lips, 7, axis=0), spoken)
    assert late < 0.9


@pytest.mark.parametrize(("place", "closes"), [(16, False), (17, True), (22, True), (23, False)])
def test_lips_close_from_three_frames_before_an_onset_to_two_after(place, closes):
    opening = np.tile([0.5, 0.6], 32)
    opening[[1, 2, 3, 4]] = 0  # elsewhere they are shut
    opening[place] = 0.0
    assert scores.closes_at(scores.normalised(opening), 20) is closes


def face(num_frames: int) -> np.ndarray:
    """Points [F, 478, 3] of a round face of 200 px that holds still, lips below the middle."""
    random = np.random.default_rng(1)
    points = np.stack([random.uniform(30, 170, 478), random.uniform(30, 110, 478), np.zeros(478)], 1)
    angles = np.linspace(0, 2 * np.pi, len(anatomy.LIPS), endpoint=False)
    points[list(anatomy.LIPS), :2] = np.stack([100 + 25 * np.cos(angles), 150 + 8 * np.sin(angles)], 1)
    points[33, :2], points[263, :2] = (60, 80), (140, 80)
    return np.repeat(points[None], num_frames, 0).astype(np.float32)


def test_flicker_counts_outside_the_mouth_and_while_the_head_holds_still():
    frames = np.full((9, 200, 200, 3), 100, np.uint8)
    assert np.nanmax(traces.flicker_of(frames, face(9))) == 0
    in_mouth = frames.copy()
    in_mouth[::2, 146:154, 90:110] = 200
    assert np.nanmax(traces.flicker_of(in_mouth, face(9))) == 0
    on_cheek = frames.copy()
    on_cheek[::2, 100:108, 40:60] = 200
    shown = traces.flicker_of(on_cheek, face(9))
    share = 1 - traces.mouth_mask(face(1), (200, 200)).mean()
    assert np.nanmean(shown) == pytest.approx(100 * 160 / 40000 / share)
    moving = face(9)
    moving[..., 0] += 3 * np.arange(9)[:, None]
    assert np.isnan(traces.flicker_of(on_cheek, moving)).all()


def test_a_portrait_that_only_moves_is_the_same_person_and_one_with_a_spot_is_not():
    random = np.random.default_rng(0)
    still = (random.uniform(60, 200, (20, 20, 3))).astype(np.uint8).repeat(10, 0).repeat(10, 1)
    still = cv2.GaussianBlur(still, (0, 0), 2)
    points = face(1)[0]
    points[[10, 11, 12, 15], :2] = [[20, 20], [180, 20], [180, 180], [20, 180]]
    triangles = np.array([[10, 11, 12], [10, 12, 15]])
    moved = points + np.array([4, -3, 0], np.float32)
    frame = np.roll(still, (-3, 4), (0, 1))

    def error(picture: np.ndarray) -> float:
        return float(traces.differences(picture[None], moved[None], still, points, triangles)[0])

    assert error(frame) < 1
    nearly, far = (error(np.roll(frame, (shift, shift), (0, 1))) for shift in (1, 4))
    assert nearly < 0.3 * far  # the mesh is not exact
    assert error(still) > 100  # it did not move with its mesh
    spoken, spotted = frame.copy(), frame.copy()
    spoken[143:152, 95:112] = 0  # within the moved lips
    spotted[60:69, 60:77] = 0
    assert error(spoken) < 1
    assert error(spotted) > 20


def test_every_number_is_held_against_its_target():
    assert all(met is not False for met in verdicts(findings(clip_scores(), clip_scores(kind="syllables"))).values())
    bad = clip_scores(sync=0.64, offset_frames=2, bilabials=(True, False), others=(True, True), num_at_rest=9, amplitude=0.12,
                      psnr_db=33.9, flicker=0.07)  # fmt: skip
    found = verdicts(dataclasses.replace(findings(bad, dataclasses.replace(bad, kind="sentence", shifted=(0.7, 0.1))),
                                         num_lost=1, size_mb=61.0))  # fmt: skip
    unmet = [title for title, met in found.items() if met is not False]
    assert unmet == [
        "of these, spoken sentences",
        "of these, syllables in a row",
        "in other voices: in time or shifted (AUC)",
        "in other voices: lips close on b, p, m",
        "in other voices: lips close on others",
        "clips whose picture is refused, with the reason",
        "processor time of the frames alone, one thread",
    ]


def test_other_weights_stand_beside_the_embedded_ones():
    lines = table.report_text(findings(clip_scores()), "", {"lip-sync score, English": "0.33"}).splitlines()
    head, first = (next(line.split(" | ") for line in lines if start in line) for start in ("at least", "lip-sync score"))
    assert first[head.index("embedded weights")] == "0.33"
    assert first[head.index("these weights")] == "0.70 ✓"
    assert "embedded" not in table.report_text(findings(clip_scores()), "")


def test_other_voices_have_rows_of_their_own_and_are_in_no_other():
    other = clip_scores(kind=sayings.OTHER_VOICE, bilabials=(False, True), others=(True, True), psnr_db=10.0)
    alone, with_voice = ({row.title: row for row in table.rows_of(findings(*made))}
                         for made in ([clip_scores()], [clip_scores(), other]))  # fmt: skip
    rows = [with_voice[f"in other voices: lips close on {which}"] for which in ("b, p, m", "others")]
    assert [row.value for row in rows] == [0.5, 1]
    assert {title for title, row in with_voice.items() if row != alone[title]} == {
        "in other voices: in time or shifted (AUC)",
        *(row.title for row in rows),
        "clips in which the face is lost",
        "clips whose picture is refused, with the reason",
    }


def test_the_size_is_that_of_float16_whatever_is_stored(tmp_path):
    from safetensors.numpy import save_file

    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "X", "vae": ["a", "B"], "scheduler": ["a", "B"], "sampling": {}}'
    )
    for name in ("vae", "kept"):
        (tmp_path / name).mkdir()
        save_file({"x": np.zeros((500, 1000), np.float32)}, tmp_path / name / "model.safetensors")
    assert effort.size_mb(str(tmp_path)) == 1.0


def test_shifted_sound_is_told_by_ranks_over_all_clips():
    several = [clip_scores(sync=0.5, shifted=(0.4, 0.6)), clip_scores(sync=0.7, shifted=(0.2, 0.7))]
    assert table.shifted_auc(several) == pytest.approx((2 + 3.5) / 8)
    assert table.shifted_auc([]) is None


def test_groups_have_their_own_lines():
    made = findings(clip_scores(sync=0.5), clip_scores(sync=0.7))
    styled = table.Shown(clip_scores(sync=0.1, psnr_db=20.0), ("sketch",), True, None, None)
    lines = {cells[0]: cells[1:] for cells in table.group_cells(dataclasses.replace(made, shown=(*made.shown, styled)))}
    assert set(lines) == {"everybody", *people.SEEN_BY_EYE, *people.FROM_MESH, *people.STYLES, people.TURNED}
    assert lines["everybody"][:2] == ["2", "0.60"]
    assert lines["beard"] == lines["everybody"]
    assert lines["sketch"][:2] == ["1", "0.10"]
    assert lines["glasses"] == ["0", *["–"] * 6]


def test_tables_are_written_between_the_marks_alone(tmp_path):
    path = tmp_path / "card.md"
    path.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.write_between_marks(path, table.report_text(findings(clip_scores()), "Of weights."))
    text = path.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "\nold\n" not in text
    assert "| lip-sync score, English | 0.65 | 0.70 ✓ |" in text
    table.write_between_marks(path, "new")
    assert path.read_text() == f"before\n{table.BEGIN}\nnew{table.END}\nafter\n"
    path.write_text("no marks")
    with pytest.raises(UserError, match="once each"):
        table.write_between_marks(path, "new")
    assert path.read_text() == "no marks"


@pytest.mark.skipif(not PORTRAITS.is_dir(), reason="the portraits are not here")
def test_the_groups_name_held_out_portraits_only():
    known = {still.name for still in list_stills([PORTRAITS]) if still.is_held_out}
    listed = json.loads((ROOT / "benchmarks" / "mini_report" / "groups.json").read_text())
    assert tuple(listed) == people.SEEN_BY_EYE
    for names in listed.values():
        assert names == sorted(set(names))
        assert set(names) <= known
    assert {still.name for still in people.held_out_stills(PORTRAITS)} == known
