"""What `joyhallo data inspect` says and draws."""

import json

import numpy as np
import pytest
from PIL import Image

from joyhallo.cli import main
from joyhallo.cli.data import app
from joyhallo.data.contact_sheet import TILE_PX, choose_samples, draw_contact_sheet, tinted
from joyhallo.data.dataset import Dataset
from joyhallo.data.index import DatasetError
from joyhallo.data.report import REPORT_NAME, ReportLine, append_lines, read_lines
from joyhallo.data.summary import summarise
from joyhallo.errors import UserError
from made_data import NUM_FRAMES, make_dataset, pack, write_made_samples

CLIP_HOURS = NUM_FRAMES / 25 / 3600


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two synthetic clips, two filmed ones of which one is held out, and a report."""
    place = tmp_path_factory.mktemp("made")
    dataset = make_dataset(place, 2)
    write_made_samples(place / "filmed", ["film_0"], is_synthetic=False, speaker="b", source="b.mp4")
    write_made_samples(
        place / "filmed", ["film_1"], is_synthetic=False, is_held_out=True, speaker="c", speech_encoder=None, num_frames=60
    )
    pack(place / "filmed", dataset)
    lines = [
        ReportLine("a.mp4", None, True, None, "2 clips"),
        ReportLine("a.mp4", "clip_0", True, None, "", 0.0, 1.2),
        ReportLine("a.mp4", None, False, "too dark", "", 1.2, 2.4),
        ReportLine("a.mp4", None, False, "no speech", "", 2.4, 3.6),
        ReportLine("a.mp4", None, False, "no speech", "", 3.6, 4.8),
        ReportLine("b.mp4", None, False, "unreadable video", "broken"),
    ]
    append_lines(dataset, lines)
    return dataset


def run(capsys, *arguments):
    capsys.readouterr()
    code = app([str(argument) for argument in arguments], result_action="return_value")
    assert code == 0
    return capsys.readouterr().out


def test_the_numbers(folder):
    summary = summarise(folder)
    assert (summary.num_clips, summary.num_speakers, summary.num_sources) == (4, 3, 2)
    assert summary.hours == pytest.approx(5 * CLIP_HOURS)
    assert (summary.held_out.num_clips, summary.held_out.hours) == (1, pytest.approx(2 * CLIP_HOURS))
    assert (summary.synthetic.num_clips, summary.synthetic.hours) == (2, pytest.approx(2 * CLIP_HOURS))
    assert (summary.length_s.low, summary.length_s.median, summary.length_s.high) == (1.2, 1.2, 2.4)
    assert summary.speech_encoders == {"mini": 3, "none": 1}
    assert (summary.sources.num_kept, summary.sources.num_rejected) == (1, 1)
    assert summary.sources.reasons == {"unreadable video": 1}
    assert (summary.parts.num_kept, summary.parts.num_rejected) == (1, 3)
    assert list(summary.parts.reasons.items()) == [("no speech", 2), ("too dark", 1)]
    assert summary.bytes == sum(path.stat().st_size for path in (folder / "shards").glob("*.tar"))


def test_what_was_tried_again_counts_as_it_ended(tmp_path):
    dataset = make_dataset(tmp_path, 1)
    append_lines(dataset, [ReportLine("a.mp4", None, False, "worker lost")])
    append_lines(dataset, [ReportLine("a.mp4", None, True, None)])
    assert summarise(dataset).sources.num_rejected == 0
    assert summarise(dataset).sources.num_kept == 1


def test_a_report_cut_short_or_absent_is_no_obstacle(tmp_path):
    dataset = make_dataset(tmp_path, 1)
    assert read_lines(dataset) == []
    assert summarise(dataset).sources.num_kept == 0
    append_lines(dataset, [ReportLine("a.mp4", None, True, None)])
    with (dataset / REPORT_NAME).open("a") as file:
        file.write('{"source": "b.mp4", "is_k')
    assert [line["source"] for line in read_lines(dataset)] == ["a.mp4"]


def test_text(folder, capsys):
    text = run(capsys, "inspect", folder)
    said = ("4 clips of 64 px", "3 speakers", "held out 1 clip, 0.0 minutes (40.0 %)", "2 no speech", "1 unreadable video")
    for words in said:
        assert words in " ".join(text.split())


def test_json(folder, capsys, tmp_path):
    values = json.loads(run(capsys, "inspect", folder, "--json", "--verify", "-o", tmp_path / "sheet.png"))
    assert values["num_clips"] == 4
    assert values["parts"]["reasons"] == {"no speech": 2, "too dark": 1}
    assert values["contact_sheet"] == {"path": str(tmp_path / "sheet.png"), "num_clips": 4}
    assert values["is_verified"] is True
    assert Image.open(tmp_path / "sheet.png").format == "PNG"


def test_masks_are_drawn_in_their_colours():
    grey, masks = np.full((128, 128, 3), 100, np.uint8), np.zeros((3, 64, 64), np.uint8)
    masks[0, 32:], masks[2, :16] = 255, 255
    drawn = tinted(grey, masks)
    assert (drawn[40:56] == 100).all()
    assert drawn[100, 64, 0] > 150 > 100 > drawn[100, 64, 1]
    assert drawn[10, 64, 2] > 150 > 100 > drawn[10, 64, 0]


def test_a_sheet_shows_every_clip_with_its_frames(folder):
    dataset = Dataset(folder)
    sheet = draw_contact_sheet(dataset, [0, 3])
    left, right = sheet[34 : 34 + TILE_PX, : sheet.shape[1] // 2], sheet[34 : 34 + TILE_PX, sheet.shape[1] // 2 :]
    portrait = np.asarray(Image.fromarray(dataset.portrait(0)).resize((TILE_PX, TILE_PX), Image.Resampling.BILINEAR))
    assert holds(left, portrait)
    assert not holds(right, portrait)
    first = np.asarray(Image.fromarray(dataset.frames(3, [0])[0]).resize((TILE_PX, TILE_PX), Image.Resampling.BILINEAR))
    assert holds(right, first)
    np.testing.assert_array_equal(sheet, draw_contact_sheet(Dataset(folder), [0, 3]))


def holds(picture, tile):
    return any((picture[:, at : at + TILE_PX] == tile).all() for at in range(picture.shape[1] - TILE_PX + 1))


def test_a_clip_that_cannot_be_read_does_not_spoil_the_sheet(tmp_path):
    folder = make_dataset(tmp_path, 2)
    tar = folder / "shards" / "000000.tar"
    offset, size = json.loads(tar.with_suffix(".json").read_text())["members"]["clip_0"]["mp4"]
    content = bytearray(tar.read_bytes())
    content[offset : offset + size] = bytes(size)
    tar.write_bytes(content)
    sheet = draw_contact_sheet(Dataset(folder), [0, 1])
    plain = draw_contact_sheet(Dataset(folder), [1])
    assert holds(sheet[34 : 34 + TILE_PX], plain[34 : 34 + TILE_PX, 244 : 244 + TILE_PX])
    with pytest.raises(DatasetError, match="another content"):
        app(["inspect", str(folder), "--verify"], result_action="return_value")


def test_samples_are_spread_evenly():
    assert choose_samples(100, 3) == [0, 50, 99]
    assert choose_samples(2, 12) == [0, 1]
    assert choose_samples(1, 1) == [0]


def test_what_cannot_be_done_is_one_line(folder, tmp_path):
    for arguments in (["-o", "sheet.jpg"], ["--samples", "0"], ["-o", str(tmp_path / "none" / "sheet.png")]):
        with pytest.raises(UserError) as caught:
            app(["inspect", str(folder), *arguments], result_action="return_value")
        assert "\n" not in str(caught.value)


def test_the_command_line_knows_it(tmp_path, capsys):
    assert main(["data", "inspect", str(tmp_path / "nowhere")]) == 2
    assert "there is no dataset" in capsys.readouterr().err
