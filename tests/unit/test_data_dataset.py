"""Reading a dataset in place: exact frames, several datasets as one, in other processes, and damage said in one line."""

import json
import multiprocessing
import pickle
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from joyhallo.data.dataset import Dataset, open_datasets
from joyhallo.data.frames import FilePart, read_clip_frames, write_clip
from joyhallo.data.index import DatasetError, Index, ShardEntry, write_index
from joyhallo.data.samples import SampleError
from joyhallo.errors import UserError
from joyhallo.media.video import VideoError, read_frames
from made_data import (
    NUM_FRAMES,
    SIZE_PX,
    grey_of,
    made_annotations,
    made_facts,
    made_portrait,
    make_dataset,
    pack,
    write_sample,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("made"), 3, max_bytes=500_000)


@pytest.fixture
def own_folder(folder, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(folder, tmp_path / "dataset")


def level_of(frames):
    return frames.reshape(len(frames), -1).mean(1)


def test_the_facts_are_there_without_a_tar(folder):
    dataset = Dataset(folder)
    assert len(dataset) == 3
    assert dataset.facts == [made_facts(f"clip_{n}", is_synthetic=True) for n in range(3)]
    assert [place.first for place in dataset.shards] == [0, 2]


@pytest.mark.parametrize(
    "indices",
    [[0], [29], [12], [11, 12], [24, 23], [5, 5, 5], list(range(30)), [29, 0, 13, 12, 28, 1], np.array([7, 25, 8])],
    ids=str,
)
def test_frames_are_the_exact_ones(folder, indices):
    dataset = Dataset(folder)
    for i in range(3):
        frames = dataset.frames(i, indices)
        assert (frames.shape, frames.dtype) == ((len(indices), SIZE_PX, SIZE_PX, 3), np.uint8)
        assert np.abs(level_of(frames) - [grey_of(int(number), seed=i) for number in indices]).max() < 3


def test_frames_by_number_equal_frames_in_order(tmp_path):
    """Bit for bit, with a picture that moves."""
    (tmp_path / "work").mkdir()
    shifted = [np.roll(made_portrait(), number * 2, axis=1) for number in range(NUM_FRAMES)]
    write_sample(tmp_path / "work", made_facts("a"), made_annotations(), shifted, None)
    pack(tmp_path / "work", tmp_path / "dataset")
    in_order = np.stack(list(read_frames(tmp_path / "work" / "a.mp4")))
    dataset = Dataset(tmp_path / "dataset")
    for number in range(NUM_FRAMES):
        np.testing.assert_array_equal(dataset.frames(0, [number])[0], in_order[number])
    np.testing.assert_array_equal(dataset.frames(0, range(NUM_FRAMES)), in_order)


@pytest.mark.parametrize("indices", [[30], [-1], [0, 99]])
def test_frames_that_are_not_there_are_refused(folder, indices):
    with pytest.raises(IndexError, match="has 30 frames"):
        Dataset(folder).frames(0, indices)


def test_annotations_and_portraits(folder):
    dataset = Dataset(folder)
    for i in range(3):
        read, written = dataset.annotations(i), made_annotations(seed=i)
        for name in ("points", "speech", "masks", "face_box", "face_embedding", "speech_features"):
            np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
        np.testing.assert_array_equal(dataset.portrait(i), made_portrait())


def test_filmed_clips_have_no_portrait(tmp_path):
    dataset = Dataset(make_dataset(tmp_path, 1, is_synthetic=False))
    assert dataset.portrait(0) is None
    assert not dataset.has_portrait(0)


def test_several_datasets_are_one(folder, tmp_path):
    other = make_dataset(tmp_path, 2)
    joined = open_datasets([folder, other])
    assert [facts.key for facts in joined.facts] == ["clip_0", "clip_1", "clip_2", "clip_0", "clip_1"]
    assert (joined.index.num_samples, len(joined.index.shards)) == (5, 3)
    assert joined.index.hours == pytest.approx(5 * NUM_FRAMES / 25 / 3600)
    assert [(place.folder, place.first) for place in joined.shards] == [(folder, 0), (folder, 2), (other, 3)]
    for i, seed in enumerate([0, 1, 2, 0, 1]):
        assert abs(joined.frames(i, [17]).mean() - grey_of(17, seed)) < 3
        np.testing.assert_array_equal(joined.annotations(i).speech, made_annotations(seed=seed).speech)
    assert joined.portrait(4) is not None


def test_datasets_of_several_sizes_are_refused(folder, tmp_path):
    other = make_dataset(tmp_path, 1, size_px=96)
    with pytest.raises(DatasetError, match="96 px"):
        open_datasets([folder, other])
    with pytest.raises(DatasetError, match="no dataset was given"):
        open_datasets([])


def _level_of_frame(dataset, number):
    return float(dataset.frames(0, [number]).mean())


def test_a_dataset_works_in_forked_processes(folder):
    dataset = Dataset(folder)
    here = [_level_of_frame(dataset, number) for number in range(8)]
    with multiprocessing.get_context("fork").Pool(4) as pool:
        there = pool.starmap(_level_of_frame, [(dataset, number) for number in range(8)])
    assert here == there


def test_a_dataset_can_be_sent_to_other_processes(folder):
    sent = pickle.loads(pickle.dumps(Dataset(folder)))
    np.testing.assert_array_equal(sent.frames(2, [4]), Dataset(folder).frames(2, [4]))


def test_no_file_stays_open(folder):
    folder_of_open = Path("/proc/self/fd")
    if not folder_of_open.is_dir():
        pytest.skip("open files cannot be counted here")
    dataset = Dataset(folder)
    dataset.frames(0, [0])
    before = len(list(folder_of_open.iterdir()))
    for _ in range(5):
        dataset.frames(0, [3, 20])
        dataset.annotations(1)
        dataset.portrait(1)
    assert len(list(folder_of_open.iterdir())) == before


def test_a_large_dataset_opens_quickly(tmp_path):
    """Ten thousand samples; the tar is a hole of the right length, which opening does not touch."""
    (tmp_path / "shards").mkdir()
    num, keys = 10_000, [f"clip_{number:06d}" for number in range(10_000)]
    with (tmp_path / "shards" / "000000.tar").open("wb") as file:
        file.truncate(num * 1536)
    members = {key: {suffix: [n * 1536 + 512, 100] for suffix in ("mp4", "safetensors", "json")} for n, key in enumerate(keys)}
    text = json.dumps({"members": members, "facts": {key: asdict(made_facts(key)) for key in keys}})
    (tmp_path / "shards" / "000000.json").write_text(text)
    write_index(tmp_path, Index(1, "mini", 25, 64, num, 6.7, (ShardEntry("000000.tar", num, num * 1536, ""),)))
    start = time.process_time()
    assert len(Dataset(tmp_path)) == num
    assert time.process_time() - start < 1


def test_folders_that_are_no_datasets_are_one_line(tmp_path):
    with pytest.raises(DatasetError, match="there is no dataset"):
        Dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"no index\.json"):
        Dataset(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="there is no dataset"):
        Dataset(tmp_path / "file")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"shards": [{"file": 1}]}', '{"shards": 3}', "\x00\xff"])
def test_foreign_indices_are_one_line(tmp_path, text):
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(DatasetError) as caught:
        Dataset(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_index_of_a_later_version_is_one_line(own_folder):
    values = json.loads((own_folder / "index.json").read_text())
    (own_folder / "index.json").write_text(json.dumps(values | {"version": 2}))
    with pytest.raises(DatasetError, match="version 2"):
        Dataset(own_folder)
    (own_folder / "index.json").write_text(json.dumps(values | {"num_samples": 4}))
    with pytest.raises(DatasetError, match="contradicts itself"):
        Dataset(own_folder)


def test_missing_and_cut_tars_are_one_line(own_folder):
    tar = own_folder / "shards" / "000001.tar"
    content = tar.read_bytes()
    tar.write_bytes(content[:-1000])
    with pytest.raises(DatasetError, match=r"000001\.tar' has \d+ bytes and not"):
        Dataset(own_folder)
    tar.unlink()
    with pytest.raises(DatasetError, match="missing, though the index names it"):
        Dataset(own_folder)


def test_missing_and_foreign_lists_are_one_line(own_folder):
    path = own_folder / "shards" / "000001.json"
    path.write_bytes((own_folder / "shards" / "000000.json").read_bytes())
    with pytest.raises(DatasetError, match="does not match"):
        Dataset(own_folder)
    for text in ('{"members": 1, "facts": 2}', '{"members": {"a": {"mp4": [1]}}, "facts": {"a": {}}}', "[]"):
        path.write_text(text)
        with pytest.raises((DatasetError, SampleError)):
            Dataset(own_folder)
    path.unlink()
    with pytest.raises(DatasetError, match="missing"):
        Dataset(own_folder)


def test_a_tar_of_the_right_length_with_other_content_is_noticed(own_folder):
    """As when the tars of two datasets were mixed up."""
    tar = own_folder / "shards" / "000000.tar"
    content = bytearray(tar.read_bytes())
    content[:6] = b"clip_9"
    tar.write_bytes(content)
    dataset = Dataset(own_folder)
    with pytest.raises(DatasetError, match=r"does not hold 'clip_0\.mp4'"):
        dataset.frames(0, [0])
    dataset.frames(1, [0])


def test_damaged_content_is_one_line(own_folder):
    tar = own_folder / "shards" / "000000.tar"
    places = json.loads(tar.with_suffix(".json").read_text())["members"]
    content = bytearray(tar.read_bytes())
    for key, suffix in (("clip_0", "mp4"), ("clip_0", "safetensors"), ("clip_1", "png")):
        offset, size = places[key][suffix]
        content[offset : offset + size] = bytes(size)
    tar.write_bytes(content)
    dataset = Dataset(own_folder)
    with pytest.raises(VideoError, match="broken"):
        dataset.frames(0, [0])
    with pytest.raises(SampleError, match="broken"):
        dataset.annotations(0)
    with pytest.raises(DatasetError, match="no whole picture"):
        dataset.portrait(1)


@pytest.mark.parametrize("name", ["index.json", "shards/000000.json", "shards/000000.tar"])
def test_damage_anywhere_is_one_line(own_folder, name):
    """Bytes changed at random: what can be read is read, the rest is an error for the user."""
    whole, random = (own_folder / name).read_bytes(), np.random.default_rng(0)
    errors = []
    for _ in range(40):
        content = bytearray(whole)
        for place in random.integers(0, min(len(content), 8000), 12):
            content[place] = random.integers(256)
        (own_folder / name).write_bytes(content)
        try:
            dataset = Dataset(own_folder)
            for i in range(2):
                dataset.annotations(i)
                dataset.frames(i, [0, min(14, dataset.facts[i].num_frames - 1)])
                dataset.portrait(i)
        except UserError as problem:
            errors.append(str(problem))
    assert len(errors) > 10
    assert not [error for error in errors if "\n" in error]


def test_a_clip_with_fewer_frames_than_its_facts_is_one_line(own_folder):
    path = own_folder / "shards" / "000000.json"
    values = json.loads(path.read_text())
    values["facts"]["clip_0"]["num_frames"] = 35
    path.write_text(json.dumps(values))
    with pytest.raises(VideoError, match="no frame 33"):
        Dataset(own_folder).frames(0, [33])


def test_a_frame_late_in_a_clip_is_sought_not_walked_to(tmp_path):
    """Bytes read for one frame of a clip of 240, whose frames are noise and so all about equally large."""
    random = np.random.default_rng(0)
    noise = (random.integers(0, 255, (SIZE_PX, SIZE_PX, 3)).astype(np.uint8) for _ in range(240))
    write_clip(tmp_path / "a.mp4", noise, np.zeros(240 * 640, np.int16), 240, SIZE_PX)
    num_bytes = (tmp_path / "a.mp4").stat().st_size

    class Counted(FilePart):
        total = 0

        def read(self, size=-1):
            content = super().read(size)
            self.total += len(content)
            return content

    with Counted(tmp_path / "a.mp4", 0, num_bytes) as part:
        assert len(read_clip_frames(part, [120, 130], "a")) == 2
        assert part.total < num_bytes / 5
