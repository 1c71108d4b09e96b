"""Datasets as the published scripts leave them: taken over as they are, broken clips skipped, nothing in a pickle ever run."""

import json
import shutil
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from joyhallo.cli import main
from joyhallo.cli.data import app
from joyhallo.data.dataset import Dataset
from joyhallo.data.frames import write_clip
from joyhallo.data.importing import ImportSettings, import_dataset
from joyhallo.data.published import find_clips
from joyhallo.data.report import read_lines
from joyhallo.errors import UserError
from made_data import grey_of, made_frames, make_dataset, nearly_full_disk

NUM_FRAMES = 26
SETTINGS = ImportSettings(size_px=64, max_frames=250)
EMBEDDING = np.linspace(-3, 3, 512, dtype=np.float32)
MASKS = {"sep_lip_mask": 90, "sep_face_mask": 160, "sep_pose_mask": 30}


def add_clip(root, name, num_frames=NUM_FRAMES, *, as_images=False, seed=0):
    """The files of one clip."""
    for folder in ("videos", "images", "face_mask", *MASKS, "face_emb", "audio_emb", "audios"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    if as_images:
        (root / "images" / name).mkdir()
        for number, frame in enumerate(made_frames(num_frames, 96, seed), 1):
            Image.fromarray(frame[:72]).save(root / "images" / name / f"{number:04d}.png")  # higher than wide would do too
    else:
        write_clip(root / "videos" / f"{name}.mp4", made_frames(num_frames, 96, seed), tone(num_frames), num_frames, 96)
    face = np.zeros((96, 96), np.uint8)
    face[24:72, 36:60] = 255
    Image.fromarray(face).save(root / "face_mask" / f"{name}.png")
    for folder, level in MASKS.items():
        mask = np.zeros((64, 64), np.uint8)
        mask[level // 4 :, :20] = level
        Image.fromarray(mask).save(root / folder / f"{name}.png")
    torch.save(EMBEDDING, root / "face_emb" / f"{name}.pt")
    torch.save(features_of(num_frames), root / "audio_emb" / f"{name}.pt")
    with wave.open(str(root / "audios" / f"{name}.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.repeat(tone(num_frames), 2).tobytes())


def tone(num_frames):
    times = np.arange(num_frames * 640) / 16000
    return np.round(9000 * np.sin(2 * np.pi * 220 * times) * (np.sin(2 * np.pi * 2 * times) > 0)).astype(np.int16)


def features_of(num_frames):
    return torch.arange(num_frames, dtype=torch.float32)[:, None, None].expand(-1, 12, 8).clone()


@pytest.fixture
def root(tmp_path):
    add_clip(tmp_path / "published", "0001")
    return tmp_path / "published"


def reasons(dataset):
    return {Path(line["source"]).stem: line["reason"] for line in read_lines(dataset) if not line["is_kept"]}


def test_a_film_is_taken_over_as_it_is(root, tmp_path):
    index = import_dataset(root, tmp_path / "dataset", SETTINGS)
    assert (index.num_samples, index.size_px, index.preset) == (1, 64, "published")
    dataset = Dataset(tmp_path / "dataset")
    facts, found = dataset.facts[0], dataset.annotations(0)
    assert (facts.num_frames, facts.start_s, facts.is_synthetic) == (NUM_FRAMES, 0.0, False)
    assert (facts.identity_encoder, facts.speech_encoder) == ("glintr100", "chinese-wav2vec2-base")
    levels = dataset.frames(0, range(NUM_FRAMES)).reshape(NUM_FRAMES, -1).mean(1)
    assert np.abs(levels - [grey_of(number) for number in range(NUM_FRAMES)]).max() < 4
    for row, (folder, level) in zip(found.masks, MASKS.items(), strict=True):
        np.testing.assert_array_equal(row, np.asarray(Image.open(root / folder / "0001.png")))
        assert row.max() == level
    np.testing.assert_array_equal(found.face_box, [24, 16, 40, 48])  # 36, 24, 60, 72 of 96 px
    assert facts.face_share == pytest.approx(16 * 32 / 64**2, abs=1e-4)
    np.testing.assert_array_equal(found.face_embedding, EMBEDDING)
    np.testing.assert_array_equal(found.speech_features, features_of(NUM_FRAMES).half().numpy())
    np.testing.assert_allclose(found.speech, tone(NUM_FRAMES), atol=2)
    assert np.isnan(found.points).all()
    assert dataset.portrait(0) is None


def test_a_folder_of_pictures_is_taken_over_too(tmp_path):
    """Pictures that are not square become square, as in published training."""
    add_clip(tmp_path / "published", "a.b c", as_images=True)
    import_dataset(tmp_path / "published", tmp_path / "dataset", SETTINGS)
    dataset = Dataset(tmp_path / "dataset")
    levels = dataset.frames(0, range(NUM_FRAMES)).reshape(NUM_FRAMES, -1).mean(1)
    assert np.abs(levels - [grey_of(number) for number in range(NUM_FRAMES)]).max() < 4
    assert dataset.facts[0].source.endswith("images/a.b c")
    assert dataset.facts[0].key.startswith("a-b-c-")


def test_a_long_clip_is_split_evenly_with_its_features_and_sound(tmp_path):
    add_clip(tmp_path / "published", "long", 70)
    import_dataset(tmp_path / "published", tmp_path / "dataset", ImportSettings(size_px=64, max_frames=25))
    dataset = Dataset(tmp_path / "dataset")
    assert [facts.num_frames for facts in dataset.facts] == [24, 23, 23]
    assert [facts.start_s for facts in dataset.facts] == [0, 0.96, 1.88]
    first = 0
    for i, facts in enumerate(dataset.facts):
        found = dataset.annotations(i)
        np.testing.assert_array_equal(found.speech_features[:, 0, 0], np.arange(first, first + facts.num_frames))
        np.testing.assert_allclose(found.speech, tone(70)[first * 640 : (first + facts.num_frames) * 640], atol=2)
        assert abs(dataset.frames(i, [5]).mean() - grey_of(first + 5)) < 4
        first += facts.num_frames
    assert len({facts.speaker for facts in dataset.facts}) == 1


def test_up_to_three_frames_may_differ(tmp_path):
    for name, num_rows in (("short", NUM_FRAMES - 3), ("long", NUM_FRAMES + 3), ("other", NUM_FRAMES + 4)):
        add_clip(tmp_path / "published", name)
        torch.save(features_of(num_rows), tmp_path / "published" / "audio_emb" / f"{name}.pt")
    import_dataset(tmp_path / "published", tmp_path / "dataset", SETTINGS)
    lengths = {Path(facts.source).stem: facts.num_frames for facts in Dataset(tmp_path / "dataset").facts}
    assert lengths == {"short": NUM_FRAMES - 3, "long": NUM_FRAMES}
    assert reasons(tmp_path / "dataset") == {"other": "speech features of another length"}


def broken_clips(root):
    """Clips with one fault each, and the reason that the report must give."""

    def write(name, folder, suffix, content):
        path = root / folder / f"{name}.{suffix}"
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)

    faults = {
        "no_lip": ("sep_lip_mask", "png", None, "no mask"),
        "no_face": ("face_mask", "png", None, "no mask"),
        "torn_mask": ("sep_pose_mask", "png", b"\x89PNG\r\n\x1a\n torn", "broken mask"),
        "no_embedding": ("face_emb", "pt", None, "no face embedding"),
        "never_seen": ("face_emb", "pt", "none", "no face embedding"),
        "nan": ("face_emb", "pt", np.full(512, np.nan, np.float32), "broken face embedding"),
        "small": ("face_emb", "pt", np.zeros(128, np.float32), "broken face embedding"),
        "text": ("face_emb", "pt", b"hello", "broken face embedding"),
        "empty": ("face_emb", "pt", b"", "broken face embedding"),
        "no_features": ("audio_emb", "pt", None, "no speech features"),
        "flat": ("audio_emb", "pt", torch.zeros(NUM_FRAMES, 12), "broken speech features"),
        "words": ("audio_emb", "pt", ["a", "list"], "broken speech features"),
        "huge": ("audio_emb", "pt", torch.full((NUM_FRAMES, 12, 8), 1e6), "broken speech features"),
        "torn_video": ("videos", "mp4", b"\x00\x00\x00\x18ftypmp42 torn", "unreadable video"),
        "torn_sound": ("audios", "wav", b"RIFF", "unusable sound"),
    }
    for name, (folder, suffix, content, _) in faults.items():
        add_clip(root, name)
        if content is None:
            (root / folder / f"{name}.{suffix}").unlink()
        else:
            write(name, folder, suffix, {"none": None}.get(content, content) if isinstance(content, str) else content)
    add_clip(root, "black")
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(root / "sep_lip_mask" / "black.png")
    add_clip(root, "black_face")
    Image.fromarray(np.zeros((96, 96), np.uint8)).save(root / "face_mask" / "black_face.png")
    return {name: fault[3] for name, fault in faults.items()} | {"black": "empty mask", "black_face": "empty mask"}


def test_broken_clips_are_skipped_with_their_reason(root, tmp_path):
    expected = broken_clips(root)
    index = import_dataset(root, tmp_path / "dataset", SETTINGS)
    assert index.num_samples == 1
    assert reasons(tmp_path / "dataset") == expected
    assert all("\n" not in line["detail"] for line in read_lines(tmp_path / "dataset"))


def test_the_metadata_chooses_clips_and_names_places(root, tmp_path):
    add_clip(root, "0002")
    add_clip(root, "0003", as_images=True)
    elsewhere = tmp_path / "elsewhere.pt"
    torch.save(-EMBEDDING, elsewhere)
    stage2 = tmp_path / "jdh-hallo_stage2.json"
    stage2.write_text(json.dumps([{"video_path": "/gone/videos/0002.mp4", "face_emb_path": str(elsewhere), "num": 3}]))
    stage1 = tmp_path / "jdh-hallo_stage1.json"
    stage1.write_text(json.dumps([{"image_path": str(root / "images" / "0003"), "mask_path": "x", "face_emb": "y"}]))
    import_dataset(root, tmp_path / "dataset", SETTINGS, meta=stage2)
    import_dataset(root, tmp_path / "dataset", SETTINGS, meta=stage1)
    dataset = Dataset(tmp_path / "dataset")
    assert [Path(facts.source).stem for facts in dataset.facts] == ["0002", "0003"]
    np.testing.assert_array_equal(dataset.annotations(0).face_embedding, -EMBEDDING)
    np.testing.assert_array_equal(dataset.annotations(1).face_embedding, EMBEDDING)
    assert dataset.facts[0].speaker != dataset.facts[1].speaker


@pytest.mark.parametrize("text", ["", "{}", "[]", "[1]", '[{"other": "x"}]', "\x00"])
def test_metadata_of_another_kind_is_one_line(root, tmp_path, text):
    (tmp_path / "meta.json").write_text(text)
    with pytest.raises(UserError, match=r"stage2\.json") as caught:
        find_clips(root, tmp_path / "meta.json")
    assert "\n" not in str(caught.value)


def test_importing_again_does_nothing_and_later_clips_are_added(root, tmp_path):
    first = import_dataset(root, tmp_path / "dataset", SETTINGS)
    seen = []
    assert import_dataset(root, tmp_path / "dataset", SETTINGS, progress=lambda *at: seen.append(at)) == first
    assert seen == [(1, 1)]
    num_lines = len(read_lines(tmp_path / "dataset"))
    add_clip(root, "0002", seed=1)
    second = import_dataset(root, tmp_path / "dataset", SETTINGS)
    assert [shard.num_samples for shard in second.shards] == [1, 1]
    assert second.shards[0] == first.shards[0]
    assert len(read_lines(tmp_path / "dataset")) == num_lines + 2


def test_a_stopped_run_goes_on_to_the_same_bytes(root, tmp_path):
    for number in (2, 3):
        add_clip(root, f"000{number}", seed=number)
    import_dataset(root, tmp_path / "whole", SETTINGS)

    class StoppedError(RuntimeError):
        pass

    def stop(num_done, _num_clips):
        if num_done == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        import_dataset(root, tmp_path / "stopped", SETTINGS, progress=stop)
    import_dataset(root, tmp_path / "stopped", SETTINGS)
    for name in ("index.json", "report.jsonl", "shards/000000.tar", "shards/000000.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def not_to_be_called(*at):
    raise AssertionError(f"work was done before the dataset was looked at: {at}")


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"size_px": 96}, "size_px=64, not 96"),
        ({"speech_encoder": "wav2vec2-base-960h"}, "speech_encoder=chinese-wav2vec2-base, not wav2vec2-base-960h"),
        ({"held_out_share": 0.5}, "held_out_share=0.02, not 0.5"),
    ],
)
def test_another_kind_is_refused_before_any_work(root, tmp_path, changes, differs):
    import_dataset(root, tmp_path / "dataset", SETTINGS)
    with pytest.raises(UserError, match=differs) as caught:
        import_dataset(root, tmp_path / "dataset", replace(SETTINGS, **changes), progress=not_to_be_called)
    assert "\n" not in str(caught.value)


def test_a_dataset_that_something_else_made_is_looked_at_too(root, tmp_path):
    made = make_dataset(tmp_path / "made", 1)
    with pytest.raises(UserError, match="preset=mini, not published"):
        import_dataset(root, made, SETTINGS, progress=not_to_be_called)
    assert not list((made / ".work").glob("*.json"))


def test_a_full_disk_stops_the_run_and_the_next_goes_on(root, tmp_path):
    with nearly_full_disk(9000), pytest.raises(UserError, match="disk is full"):
        import_dataset(root, tmp_path / "dataset", SETTINGS)
    assert import_dataset(root, tmp_path / "dataset", SETTINGS).num_samples == 1


def test_held_out_clips_are_a_share_by_content(root, tmp_path):
    import_dataset(root, tmp_path / "none", ImportSettings(size_px=64, held_out_share=0))
    import_dataset(root, tmp_path / "all", ImportSettings(size_px=64, held_out_share=1))
    assert not Dataset(tmp_path / "none").facts[0].is_held_out
    assert Dataset(tmp_path / "all").facts[0].is_held_out


def test_folders_of_another_kind_are_one_line(root, tmp_path):
    for place, words in ((tmp_path / "nowhere", "no folder"), (root / "videos", "neither videos")):
        with pytest.raises(UserError, match=words) as caught:
            import_dataset(place, tmp_path / "dataset", SETTINGS)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="even number"):
        import_dataset(root, tmp_path / "dataset", ImportSettings(size_px=65))
    shutil.rmtree(root / "face_emb")
    with pytest.raises(UserError, match="no clip could be made"):
        import_dataset(root, tmp_path / "dataset", SETTINGS)


def test_landmarks_are_tracked_where_a_face_is(tmp_path):
    """On a real portrait, where those are at hand."""
    shared = Path(__file__).resolve().parents[3] / "shared" / "data"
    films, models = sorted((shared / "grid_s1").glob("*.mp4")), sorted((shared / "models").glob("*.task"))
    if not films or not models:
        pytest.skip("no talking film and no face models here")
    from joyhallo.conditioning.face import FaceMesh
    from joyhallo.media.video import read_frames

    frames = list(read_frames(films[0]))[:60]
    add_clip(tmp_path / "published", "face", len(frames), as_images=True)
    for path, frame in zip(sorted((tmp_path / "published" / "images" / "face").iterdir()), frames, strict=True):
        Image.fromarray(frame).save(path)
    shutil.copy(films[0], tmp_path / "published" / "videos" / "face.mp4")
    (tmp_path / "published" / "audios" / "face.wav").unlink()  # then the film's own sound is taken
    import_dataset(
        tmp_path / "published", tmp_path / "dataset", ImportSettings(size_px=192), mesh=FaceMesh.from_path(models[0])
    )
    dataset = Dataset(tmp_path / "dataset")
    points = dataset.annotations(0).points
    assert np.isfinite(points).all()
    assert 0 < points[..., :2].min() < 100 < points[..., :2].max() < 192
    assert abs(dataset.facts[0].sync_offset_frames) <= 1
    assert dataset.facts[0].sync_confidence > 0


def test_the_command(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JOYHALLO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JOYHALLO_WEIGHTS", raising=False)
    app(["import", str(root), "-o", str(tmp_path / "dataset"), "--size", "64"], result_action="return_value")
    told = capsys.readouterr()
    assert "1 clip of 64 px" in told.out
    assert "no face models" in told.err
    assert main(["data", "import", str(tmp_path / "nowhere"), "-o", str(tmp_path / "other")]) == 2
    assert "there is no folder" in capsys.readouterr().err
