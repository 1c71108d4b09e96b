"""The latent cache: what the autoencoder gives, resumed at the sample, for both kinds of autoencoder."""

import shutil
from collections import namedtuple

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from joyhallo.data.dataset import Dataset, open_datasets
from joyhallo.data.index import DatasetError
from joyhallo.data.latents import LatentCache, fingerprint
from joyhallo.data.pixels import to_network
from joyhallo.models.autoencoder import PatchAutoencoder
from made_data import NUM_FRAMES, make_dataset, nearly_full_disk, pack, write_made_samples

TOLERANCE = {"rtol": 2e-3, "atol": 2e-3}  # float16 keeps 11 bits


def patch_autoencoder(seed=0):
    torch.manual_seed(seed)
    return PatchAutoencoder(4, (4, 4, 4, 4), (1, 1, 1, 1), (1, 1, 1, 1)).eval()


def kl_autoencoder():
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(4, 4, 4, 4), norm_num_groups=2, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return Dataset(make_dataset(tmp_path_factory.mktemp("made"), 3, max_bytes=500_000))


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*.npy"))}


def test_frames_and_portraits_are_what_the_autoencoder_gives(dataset, tmp_path):
    vae = patch_autoencoder()
    cache = LatentCache.encode_dataset(dataset, vae, tmp_path, batch=7)
    for i, indices in ((0, [0]), (1, [29, 3, 3]), (2, range(NUM_FRAMES))):
        with torch.no_grad():
            expected = vae.encode(to_network(dataset.frames(i, indices)))
        latents = cache.frames(i, indices)
        assert (latents.shape, latents.dtype) == ((len(indices), 4, 4, 4), torch.float32)
        torch.testing.assert_close(latents, expected, **TOLERANCE)
    with torch.no_grad():
        torch.testing.assert_close(cache.portrait(1), vae.encode(to_network(dataset.portrait(1)[None]))[0], **TOLERANCE)


def test_filmed_clips_have_no_portrait(tmp_path):
    filmed = Dataset(make_dataset(tmp_path, 1, is_synthetic=False))
    cache = LatentCache.encode_dataset(filmed, patch_autoencoder())
    assert cache.portrait(0) is None
    assert cache.frames(0, [2]).shape == (1, 4, 4, 4)


def test_a_distribution_is_kept_and_drawn_from(dataset, tmp_path):
    vae = kl_autoencoder()
    cache = LatentCache.encode_dataset(dataset, vae, tmp_path, batch=16)
    with torch.no_grad():
        expected = vae.encode(to_network(dataset.frames(1, [5, 20]))).latent_dist
    torch.testing.assert_close(cache.frames(1, [5, 20]), expected.mean, **TOLERANCE)
    drawn = cache.frames(1, [5, 20], torch.Generator().manual_seed(3))
    noise = torch.randn(expected.mean.shape, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(drawn, expected.mean + expected.std * noise, **TOLERANCE)
    assert (drawn - cache.frames(1, [5, 20])).abs().max() > 0.01
    assert not torch.equal(cache.portrait(1, torch.Generator().manual_seed(1)), cache.portrait(1))
    (arrays,) = tmp_path.rglob("000000-*/frames.npy")
    assert np.load(arrays).shape == (2 * NUM_FRAMES, 8, 8, 8)
    assert np.load(arrays).dtype == np.float16


def test_encoding_again_encodes_nothing(dataset, tmp_path):
    vae = patch_autoencoder()
    LatentCache.encode_dataset(dataset, vae, tmp_path)
    times = [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.npy"))]
    seen = []
    LatentCache.encode_dataset(dataset, vae, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.npy"))] == times
    assert seen == [(60, 90), (90, 90)]


@pytest.mark.parametrize("num_lost_bytes", [0, 1, 3000, 10**6])
def test_a_run_that_was_stopped_goes_on_at_the_sample(dataset, tmp_path, num_lost_bytes):
    """`num_lost_bytes`: what a crash cut off the end of the unfinished file."""
    vae = patch_autoencoder()
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    LatentCache.encode_dataset(dataset, vae, whole, batch=8)

    class StoppedError(RuntimeError):
        pass

    def stop(num_done, _num_all):
        if num_done == 30:
            raise StoppedError

    with pytest.raises(StoppedError):
        LatentCache.encode_dataset(dataset, vae, stopped, batch=8, progress=stop)
    with pytest.raises(DatasetError, match="encode the dataset first"):
        LatentCache(dataset, vae, stopped)
    (partial,) = stopped.rglob("*.partial")
    with partial.open("rb+") as file:
        file.truncate(max(0, partial.stat().st_size - num_lost_bytes))
    seen = []
    LatentCache.encode_dataset(dataset, vae, stopped, batch=8, progress=lambda done, _: seen.append(done))
    assert seen[0] == (30 if num_lost_bytes == 0 else 0)
    assert seen[-1] == 90
    assert files_of(stopped) == files_of(whole)
    assert len(files_of(whole)) == 4


def test_another_autoencoder_has_other_latents(dataset, tmp_path):
    one, two = patch_autoencoder(0), patch_autoencoder(1)
    LatentCache.encode_dataset(dataset, one, tmp_path)
    with pytest.raises(DatasetError, match="missing"):
        LatentCache(dataset, two, tmp_path)
    assert fingerprint(one) == fingerprint(patch_autoencoder(0)) != fingerprint(two)
    assert len(fingerprint(kl_autoencoder())) == 16


def test_the_cache_lies_in_each_dataset_and_follows_its_tars(tmp_path):
    one, two = make_dataset(tmp_path / "one", 1), make_dataset(tmp_path / "two", 2)
    vae = patch_autoencoder()
    cache = LatentCache.encode_dataset(open_datasets([one, two]), vae)
    assert (one / "latents" / fingerprint(vae)).is_dir()
    alone = LatentCache(Dataset(two), vae)
    torch.testing.assert_close(cache.frames(2, [4]), alone.frames(1, [4]), rtol=0, atol=0)
    write_made_samples(tmp_path / "more", ["more"])
    pack(tmp_path / "more", two)
    with pytest.raises(DatasetError, match="missing"):
        LatentCache(Dataset(two), vae)
    seen = []
    LatentCache.encode_dataset(Dataset(two), vae, progress=lambda done, _: seen.append(done))
    assert seen == [60, 60, 90]


def test_frames_that_are_not_there_are_refused(dataset, tmp_path):
    cache = LatentCache.encode_dataset(dataset, patch_autoencoder(), tmp_path)
    for indices in ([30], [-1], [0, 30]):
        with pytest.raises(IndexError, match="30 frames"):
            cache.frames(0, indices)


@pytest.mark.parametrize("damage", ["cut", "text", "rows"])
def test_damaged_latents_are_one_line(dataset, tmp_path, damage):
    vae = patch_autoencoder()
    LatentCache.encode_dataset(dataset, vae, tmp_path)
    path = sorted(tmp_path.rglob("frames.npy"))[0]
    if damage == "rows":
        np.save(path, np.zeros((3, 4, 4, 4), np.float16))
    else:
        path.write_bytes(path.read_bytes()[:-10] if damage == "cut" else b"not an array")
    with pytest.raises(DatasetError, match="remove it and encode") as caught:
        LatentCache(dataset, vae, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(dataset, tmp_path):
    vae = patch_autoencoder()
    with nearly_full_disk(6000), pytest.raises(DatasetError, match="the disk is full while writing the latents"):
        LatentCache.encode_dataset(dataset, vae, tmp_path)  # the second sample does not fit
    seen = []
    LatentCache.encode_dataset(dataset, vae, tmp_path, progress=lambda done, _: seen.append(done))
    assert seen == [30, 60, 60, 90]


def test_a_disk_that_is_too_small_for_all_is_told_before_the_work(dataset, tmp_path, monkeypatch):
    vae, num_bytes = patch_autoencoder(), 90 * 4 * 4 * 4 * 2
    disk = namedtuple("disk", "total used free")(10**9, 0, num_bytes - 1)
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: disk)
        with pytest.raises(DatasetError, match=r"the latents in .* GB more, the disk has"):
            LatentCache.encode_dataset(dataset, vae, tmp_path, progress=lambda done, _: seen.append(done))
    assert not seen
    LatentCache.encode_dataset(dataset, vae, tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk._replace(free=0))
    LatentCache.encode_dataset(dataset, vae, tmp_path)  # what is there needs no room


def test_a_damaged_dataset_is_one_line(dataset, tmp_path):
    copy = shutil.copytree(dataset.shards[0].folder, tmp_path / "copy")
    broken = Dataset(copy)
    (copy / "shards" / "000000.tar").unlink()
    with pytest.raises(DatasetError, match="cannot be read"):
        LatentCache.encode_dataset(broken, patch_autoencoder(), tmp_path / "latents")


def test_latents_in_other_numbers_lie_beside(dataset, tmp_path):
    vae = patch_autoencoder()
    full = LatentCache.encode_dataset(dataset, vae, tmp_path)
    with pytest.raises(DatasetError, match="missing"):
        LatentCache(dataset, vae, tmp_path, torch.bfloat16)
    halved = LatentCache.encode_dataset(dataset, vae, tmp_path, dtype=torch.bfloat16)
    apart = (halved.frames(0, [3]) - full.frames(0, [3])).abs()
    assert 0 < apart.max() < 0.05
    assert (tmp_path / f"{fingerprint(vae)}-bf16").is_dir()
