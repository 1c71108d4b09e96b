"""The marks: seen, embedded, and found again."""

import json
import math

import numpy as np
import pytest
import soundfile
from PIL import Image, ImageFont

from joyhallo.errors import UserError
from joyhallo.media.labels import (
    DEFAULT_TEXT,
    DIGITAL_HUMAN_TEXT,
    ENGLISH_TEXT,
    METADATA_KEY,
    AigcLabel,
    LabelError,
    Mark,
    MarkError,
    draw_mark,
    new_label,
    read_label,
    verify_file,
)
from joyhallo.media.strokes import draw_character, has_strokes
from joyhallo.media.video import VideoWriter

FIELDS = ["Label", "ContentProducer", "ProduceID", "ReservedCode1", "ContentPropagator", "PropagateID", "ReservedCode2"]


def film(path, metadata):
    with VideoWriter(path, size=(64, 64), speech=None, metadata=metadata) as writer:
        writer.write(np.zeros((64, 64, 3), np.uint8))
    return path


def ink_box(frame, mark):
    """Top, left, height, width of the white letters that a mark draws on a grey frame."""
    rows, columns = np.nonzero((mark.apply(frame, 0.0) > 200).all(axis=2))
    return rows.min(), columns.min(), rows.max() - rows.min() + 1, columns.max() - columns.min() + 1


@pytest.mark.parametrize("text", [DEFAULT_TEXT, ENGLISH_TEXT, DIGITAL_HUMAN_TEXT, "本视频由AI合成", "本视频由 AI 生成"])
@pytest.mark.parametrize("size", [(512, 512), (720, 1280), (640, 480), (201, 303)])
def test_letters_are_large_enough_and_top_left(text, size):
    grey = np.full((*size, 3), 90, np.uint8)
    mark = Mark(size, text)
    top, left, height, width = ink_box(grey, mark)
    assert height >= 0.05 * min(size)
    assert height <= 0.10 * min(size)
    assert mark.text_height_px >= math.ceil(0.06 * min(size))
    assert (top, left) < (0.1 * size[0], 0.1 * size[1])
    assert left + width <= size[1]
    changed = (mark.apply(grey, 0.0) != grey).any(axis=2)
    assert changed[: size[0] // 4].any()
    assert not changed[size[0] // 3 :].any(), "the face must stay free"


def test_capitals_alone_are_large_enough():
    grey = np.full((512, 512, 3), 90, np.uint8)
    assert ink_box(grey, Mark((512, 512), "AI"))[2] >= 0.06 * 512


def test_the_box_is_half_transparent_and_letters_stand_out():
    for shade in (0, 255):
        frame = np.full((256, 256, 3), shade, np.uint8)
        marked = draw_mark(frame)
        region = marked[8:40, 8:60]
        assert region.max() == 255
        assert region.min() <= 128, "white letters need something dark behind them"
    light = draw_mark(np.full((256, 256, 3), 200, np.uint8))
    assert (light == 100).all(axis=2).sum() > 200, "the picture shines through the box"


def test_start_mode_ends_after_three_seconds_and_persistent_never():
    frame = np.random.default_rng(0).integers(0, 256, (128, 160, 3), dtype=np.uint8)
    before = frame.copy()
    start, persistent = Mark((128, 160), mode="start"), Mark((128, 160), mode="persistent")
    for time_s in (0.0, 1.0, 2.0, 2.99):
        assert (start.apply(frame, time_s) != frame).any()
    assert np.array_equal(start.apply(frame, 3.0), frame)
    assert (persistent.apply(frame, 3600.0) != frame).any()
    assert np.array_equal(frame, before)
    with pytest.raises(ValueError, match="uint8"):
        start.apply(frame[:64], 0.0)


def test_every_character_we_promise_is_drawn_and_differs():
    drawn = {character: draw_character(character, 64) for character in "生成数字人本视频由合"}
    assert len({image.tobytes() for image in drawn.values()}) == 10
    for character, image in drawn.items():
        box = image.getbbox()
        assert image.size == (64, 64)
        assert box[3] - box[1] >= 0.8 * 64, character
        assert box[2] - box[0] >= 0.7 * 64, character
        ink = np.asarray(image)
        assert not ink[0].any(), f"{character} is cut off"
        assert not ink[:, [0, -1]].any(), f"{character} is cut off"
        assert 0.1 < ink.mean() / 255 < 0.5, character
    assert has_strokes("·")
    assert not has_strokes("A")


def test_marks_that_say_too_little_or_do_not_fit_are_refused():
    wanted = {"Hello": "must name AI", "AI视频": "生成", "AI 生成 龙": "without a font", "AI é": "without a font"}
    for text, message in {**wanted, "AI生成" * 9: "does not fit", "AI\n生成": "one line"}.items():
        with pytest.raises(MarkError, match=message) as caught:
            Mark((256, 256), text)
        assert isinstance(caught.value, UserError)
    with pytest.raises(MarkError, match="'start' or 'persistent'"):
        Mark((256, 256), mode="never")


def test_a_users_font_draws_the_text_or_names_the_missing_glyph(tmp_path):
    builtin = ImageFont.load_default(20)
    (tmp_path / "some.ttf").write_bytes(builtin.font_bytes)
    mark = Mark((400, 400), "Made by AI", font=tmp_path / "some.ttf")
    assert ink_box(np.full((400, 400, 3), 90, np.uint8), mark)[2] >= 0.06 * 400
    for text, missing in (("AI生成", "生"), ("AI généré", "é")):
        with pytest.raises(MarkError, match=f"no glyph for '{missing}'"):
            Mark((400, 400), text, font=tmp_path / "some.ttf")
    (tmp_path / "bad.ttf").write_bytes(b"no font")
    for name in ("bad.ttf", "absent.ttf"):
        with pytest.raises(MarkError, match="cannot be read"):
            Mark((400, 400), font=tmp_path / name)


def test_the_label_has_the_seven_fields_in_order():
    label = new_label("JoyHallo-OSS-local", "0123abcd")
    fields = json.loads(label.to_json())
    assert list(fields) == FIELDS
    assert fields["Label"] == "1"
    assert fields["ContentPropagator"] == fields["ContentProducer"] == "JoyHallo-OSS-local"
    assert fields["PropagateID"] == fields["ProduceID"] == "0123abcd"
    assert AigcLabel.from_json(label.to_json()) == label
    assert AigcLabel.from_json('{"AIGC": ' + label.to_json() + "}") == label


@pytest.mark.parametrize("provider", ["", "with space", 'quo"te', "back\\slash", "中文", "tab\t", "\x7f", "line\n"])
def test_characters_outside_the_standard_are_refused(provider):
    with pytest.raises(LabelError, match="ContentProducer"):
        new_label(provider, "1")


def test_the_whole_character_set_is_allowed():
    allowed = "".join(chr(code) for code in [0x21, *range(0x23, 0x5C), *range(0x5D, 0x7F)])
    assert AigcLabel.from_json(new_label(allowed, "1").to_json()).content_producer == allowed


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"AIGC": 1}', '{"Label": "1"}', '{"Label":"4","ContentProducer":"a","ProduceID":"b"}',
             '{"Label":1,"ContentProducer":"a","ProduceID":"b"}', '{"Label":"1","ContentProducer":"a","ProduceID":"b","X":"y"}',
             "[" * 100_000]
)  # fmt: skip
def test_broken_labels_are_refused(text):
    with pytest.raises(LabelError) as caught:
        AigcLabel.from_json(text)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_the_label_is_found_again_in_the_file(tmp_path, suffix):
    label = new_label("JoyHallo-OSS-local", "42")
    path = film(tmp_path / f"a.{suffix}", {METADATA_KEY: label.to_json(), "title": "x"})
    assert read_label(path) == label
    report = verify_file(path)
    assert report.is_labelled
    assert report.is_sound
    assert "AI-generated" in report.aigc_note
    if (
        suffix != "mkv"
    ):  # the place the standard's guide names: a key of moov.udta.meta or moov.meta, the bare JSON as its value
        content = path.read_bytes()
        assert b"mdtaAIGC" in content[content.index(b"moov") :]
        assert label.to_json().encode() in content


def test_files_without_or_with_broken_labels_are_reported(tmp_path):
    report = verify_file(film(tmp_path / "a.mp4", {}))
    assert (report.aigc, report.is_labelled, report.aigc_note) == (None, False, "no AIGC label")
    report = verify_file(film(tmp_path / "b.mp4", {METADATA_KEY: "{}"}))
    assert not report.is_labelled
    assert "lacks" in report.aigc_note
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    assert "not a video" in verify_file(tmp_path / "a.png").aigc_note
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    assert not verify_file(tmp_path / "a.wav").is_labelled
    with pytest.raises(LabelError, match="does not exist"):
        verify_file(tmp_path / "absent.mp4")
