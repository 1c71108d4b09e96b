"""Tars and their index: the same samples are the same bytes, what is named is whole, anyone's tools read them."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from joyhallo.data.dataset import Dataset
from joyhallo.data.index import DatasetError, read_index
from joyhallo.data.samples import SampleError
from joyhallo.data.shards import pack
from made_data import (
    NUM_FRAMES,
    made_annotations,
    make_dataset,
    nearly_full_disk,
    write_made_samples,
)

SMALL_BYTES = 500_000  # two of the made samples in a tar


def content_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def keys_of(dataset):
    return [facts.key for facts in Dataset(dataset).facts]


def test_the_index_says_what_the_tars_are(tmp_path):
    dataset = make_dataset(tmp_path, 5, SMALL_BYTES)
    index = read_index(dataset)
    assert (index.num_samples, index.fps, index.size_px, index.preset) == (5, 25, 64, "mini")
    assert index.hours == pytest.approx(5 * NUM_FRAMES / 25 / 3600, rel=1e-12)
    assert [(shard.name, shard.num_samples) for shard in index.shards] == [
        ("000000.tar", 2),
        ("000001.tar", 2),
        ("000002.tar", 1),
    ]
    for shard in index.shards:
        content = (dataset / "shards" / shard.name).read_bytes()
        assert len(content) == shard.bytes <= SMALL_BYTES
        assert hashlib.sha256(content).hexdigest() == shard.sha256
    values = json.loads((dataset / "index.json").read_text())
    assert set(values) == {"version", "preset", "fps", "size_px", "num_samples", "hours", "shards"}


def test_pythons_tarfile_reads_the_tars(tmp_path):
    dataset = make_dataset(tmp_path, 3)
    with tarfile.open(dataset / "shards" / "000000.tar") as tar:
        names = tar.getnames()
        assert names == [f"clip_{number}.{suffix}" for number in range(3) for suffix in ("mp4", "safetensors", "json", "png")]
        for name in names:
            assert tar.extractfile(name).read() == (tmp_path / "work" / name).read_bytes()
        places = json.loads((dataset / "shards" / "000000.json").read_text())["members"]
        for name in names:
            key, suffix = name.split(".")
            assert places[key][suffix] == [tar.getmember(name).offset_data, tar.getmember(name).size]


def test_the_system_tar_reads_the_tars(tmp_path):
    if not shutil.which("tar"):
        pytest.skip("no tar here")
    dataset = make_dataset(tmp_path, 2)
    done = subprocess.run(["tar", "tf", dataset / "shards" / "000000.tar"], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert len(done.stdout.split()) == 8


def test_webdataset_reads_the_tars(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    dataset = make_dataset(tmp_path, 3, SMALL_BYTES)
    samples = list(webdataset.WebDataset(f"{dataset}/shards/{{000000..000001}}.tar", shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["clip_0", "clip_1", "clip_2"]
    for number, sample in enumerate(samples):
        assert json.loads(sample["json"])["speaker"] == "小明"
        np.testing.assert_array_equal(load(sample["safetensors"])["points"], made_annotations(seed=number).points)
        assert sample["mp4"] == (tmp_path / "work" / f"clip_{number}.mp4").read_bytes()
        assert set(sample) >= {"mp4", "safetensors", "json", "png"}


def test_the_datasets_library_reads_the_tars(tmp_path):
    datasets = pytest.importorskip("datasets")
    folder = make_dataset(tmp_path, 2)
    write_made_samples(tmp_path / "filmed", ["filmed_0"], is_synthetic=False)
    pack(tmp_path / "filmed", folder)
    tars = [str(folder / "shards" / name) for name in ("000000.tar", "000001.tar")]
    stream = datasets.load_dataset("webdataset", data_files=tars, split="train", streaming=True)
    assert [sample["__key__"] for sample in stream.decode(False)] == ["clip_0", "clip_1", "filmed_0"]


def test_clips_with_and_without_a_portrait_are_never_in_one_tar(tmp_path):
    """Libraries take the columns from the first samples and refuse a tar in which they differ."""
    for number in range(4):
        write_made_samples(tmp_path / "work", [f"clip_{number}"], is_synthetic=number % 2 == 1)
    index = pack(tmp_path / "work", tmp_path / "dataset")
    assert [shard.num_samples for shard in index.shards] == [2, 2]
    assert keys_of(tmp_path / "dataset") == ["clip_1", "clip_3", "clip_0", "clip_2"]
    dataset = Dataset(tmp_path / "dataset")
    assert [dataset.has_portrait(i) for i in range(4)] == [True, True, False, False]


def test_the_same_samples_are_the_same_bytes(tmp_path):
    one, two = (make_dataset(tmp_path / name, 3, SMALL_BYTES) for name in ("one", "two"))
    assert content_of(one) == content_of(two)


def test_more_samples_become_more_tars_and_the_old_ones_stay(tmp_path):
    dataset = make_dataset(tmp_path, 3, SMALL_BYTES)
    before = content_of(dataset / "shards")
    write_made_samples(tmp_path / "more", ["a_0", "z_0"])
    index = pack(tmp_path / "more", dataset, SMALL_BYTES)
    assert index == read_index(dataset)
    assert (index.num_samples, len(index.shards)) == (5, 3)
    assert index.hours == pytest.approx(5 * NUM_FRAMES / 25 / 3600, rel=1e-12)
    assert before.items() <= content_of(dataset / "shards").items()
    assert keys_of(dataset) == ["clip_0", "clip_1", "clip_2", "a_0", "z_0"]


def test_packing_again_changes_nothing(tmp_path):
    dataset = make_dataset(tmp_path, 3, SMALL_BYTES)
    before = content_of(dataset)
    pack(tmp_path / "work", dataset, SMALL_BYTES)
    assert content_of(dataset) == before


@pytest.mark.parametrize("is_moved", [False, True])
def test_a_packing_that_was_stopped_goes_on_to_the_same_bytes(tmp_path, is_moved):
    whole = make_dataset(tmp_path, 5, SMALL_BYTES)

    class StoppedError(RuntimeError):
        pass

    def stop(num_done, _num_samples):
        if num_done == 4:
            raise StoppedError

    stopped = tmp_path / "stopped"
    with pytest.raises(StoppedError):
        pack(tmp_path / "work", stopped, SMALL_BYTES, is_moved=is_moved, progress=stop)
    assert len(Dataset(stopped)) == 4
    (stopped / "shards" / "000002.tar").write_bytes(b"half of a tar")
    (stopped / "shards" / ".000002.abc.partial.tar").write_bytes(b"half of a tar")
    pack(tmp_path / "work", stopped, SMALL_BYTES, is_moved=is_moved)
    assert content_of(stopped) == content_of(whole)
    assert bool(list((tmp_path / "work").iterdir())) != is_moved


KILLED = """
import os, signal, sys
from pathlib import Path
from joyhallo.data import shards
append, num_files = shards._append, int(sys.argv[3])
def killed(tar, source):
    global num_files
    num_files -= 1
    if num_files < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return append(tar, source)
shards._append = killed
shards.pack(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[4]), is_moved=True)
"""


@pytest.mark.parametrize("num_files", [2, 9, 17])
def test_a_packing_that_was_killed_goes_on_to_the_same_bytes(tmp_path, num_files):
    """In the first, the second and the third tar."""
    whole, stopped = make_dataset(tmp_path, 5, SMALL_BYTES), tmp_path / "stopped"
    command = [sys.executable, "-c", KILLED, tmp_path / "work", stopped, str(num_files), str(SMALL_BYTES)]
    done = subprocess.run([str(word) for word in command], check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(stopped.rglob("*.partial.*"))
    if num_files > 8:
        assert len(Dataset(stopped)) == num_files // 8 * 2
    pack(tmp_path / "work", stopped, SMALL_BYTES, is_moved=True)
    assert content_of(stopped) == content_of(whole)


def test_samples_that_are_not_finished_are_left_out(tmp_path):
    write_made_samples(tmp_path / "work", ["a", "b", "c"])
    (tmp_path / "work" / "b.json").unlink()
    (tmp_path / "work" / ".d.part").mkdir()
    (tmp_path / "work" / ".d.part" / "d.json").write_text("{}")
    pack(tmp_path / "work", tmp_path / "dataset")
    assert keys_of(tmp_path / "dataset") == ["a", "c"]


def test_a_sample_larger_than_a_tar_has_its_own(tmp_path):
    dataset = make_dataset(tmp_path, 2, max_bytes=1000)
    assert [shard.num_samples for shard in read_index(dataset).shards] == [1, 1]


def test_nothing_to_pack_is_one_line(tmp_path):
    (tmp_path / "work").mkdir()
    with pytest.raises(DatasetError, match="no finished sample"):
        pack(tmp_path / "work", tmp_path / "dataset")
    assert not (tmp_path / "dataset" / "index.json").exists()


def test_two_sizes_in_one_dataset_are_refused(tmp_path):
    dataset = make_dataset(tmp_path, 1)
    write_made_samples(tmp_path / "large", ["large"], size_px=128)
    with pytest.raises(DatasetError, match="64 and 128 px"):
        pack(tmp_path / "large", dataset)
    assert keys_of(dataset) == ["clip_0"]


def test_two_presets_in_one_dataset_are_refused(tmp_path):
    dataset = make_dataset(tmp_path, 1)
    with pytest.raises(DatasetError, match="preset 'mini' and not 'published'"):
        pack(tmp_path / "work", dataset, preset="published")


def test_a_sample_without_its_film_is_one_line(tmp_path):
    write_made_samples(tmp_path / "work", ["a"])
    (tmp_path / "work" / "a.mp4").unlink()
    with pytest.raises(DatasetError, match=r"'a\.mp4' is missing"):
        pack(tmp_path / "work", tmp_path / "dataset")


def test_facts_of_another_sample_are_one_line(tmp_path):
    write_made_samples(tmp_path / "work", ["a"])
    for path in list((tmp_path / "work").iterdir()):
        path.rename(path.with_stem("b"))
    with pytest.raises(DatasetError, match="facts of 'a'"):
        pack(tmp_path / "work", tmp_path / "dataset")
    (tmp_path / "work" / "b.json").write_text("{}")
    with pytest.raises(SampleError, match="no 'key'"):
        pack(tmp_path / "work", tmp_path / "dataset")


def test_a_full_disk_keeps_what_is_packed_and_nothing_half_written(tmp_path):
    """The second tar does not fit."""
    write_made_samples(tmp_path / "work", ["a", "b"])
    write_made_samples(tmp_path / "work", ["c"], num_frames=90)  # three times as large
    with nearly_full_disk(490_000), pytest.raises(DatasetError, match="the disk is full while writing the shard"):
        pack(tmp_path / "work", tmp_path / "dataset", SMALL_BYTES)
    assert keys_of(tmp_path / "dataset") == ["a", "b"]
    assert sorted(path.name for path in (tmp_path / "dataset" / "shards").iterdir()) == ["000000.json", "000000.tar"]
    pack(tmp_path / "work", tmp_path / "dataset", SMALL_BYTES)
    assert keys_of(tmp_path / "dataset") == ["a", "b", "c"]


def test_a_file_where_the_dataset_should_be_is_one_line(tmp_path):
    write_made_samples(tmp_path / "work", ["a"])
    (tmp_path / "dataset").write_text("not a folder")
    with pytest.raises(DatasetError, match="cannot be written"):
        pack(tmp_path / "work", tmp_path / "dataset")


def test_a_tar_has_nothing_of_this_machine(tmp_path):
    dataset = make_dataset(tmp_path, 1)
    with tarfile.open(dataset / "shards" / "000000.tar") as tar:
        for member in tar:
            assert (member.uid, member.gid, member.uname, member.gname, member.mtime) == (0, 0, "", "", 0)
    assert str(Path.home()).encode() not in (dataset / "shards" / "000000.tar").read_bytes()
