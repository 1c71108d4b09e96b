"""From a dataset to batches: which samples and frames a number means, and what a batch holds of them."""

import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from joyhallo.data.batches import Batches, Fit, mask_depths, speech_window
from joyhallo.data.dataset import open_datasets
from joyhallo.data.latents import LatentCache
from joyhallo.data.picking import Drawing, Picker, choose_clip, choose_pictures
from joyhallo.data.randomness import stream
from joyhallo.errors import UserError
from joyhallo.models.latents import LatentSpace
from joyhallo.training.distributed import Processes
from joyhallo.training.sources import (
    CachedLatents,
    EncodedSpeech,
    LiveLatents,
    StoredSpeech,
    encode_speech,
    latent_source,
)
from made_data import made_facts
from tiny import draw_weights, drawn_pipeline
from training_runs import NUM_FRAMES, SIZE_PX, make_dataset, pictures

CPU = torch.device("cpu")
STILL = Drawing(num_samples=4, num_at_once=2, num_frames=2, num_past=0)
CLIP = Drawing(num_samples=4, num_at_once=2, num_frames=4, num_past=2)


def facts(num_real: int = 6, num_synthetic: int = 3, num_frames: int = 60) -> list:
    real = [made_facts(f"real_{i}", num_frames=num_frames) for i in range(num_real)]
    return real + [made_facts(f"made_{i}", num_frames=num_frames, is_synthetic=True) for i in range(num_synthetic)]


def test_streams_are_what_they_are_for():
    first = {(s, p, n): stream(s, p, n).random() for s in (0, 1) for p in ("pick", "noise") for n in (0, 1, 2**40)}
    assert len(set(first.values())) == len(first)
    assert stream(1, "noise", 2**40).random() == first[1, "noise", 2**40]
    with pytest.raises(ValueError, match="2\\*\\*56"):
        stream(0, "pick", 2**56)


def test_every_sample_comes_once_in_an_epoch_and_then_in_another_order():
    picker = Picker(facts(), CLIP, seed=5)
    order = [picker.pick(number).sample for number in range(18)]
    assert sorted(order[:9]) == sorted(order[9:]) == list(range(9))
    assert order[:9] != order[9:]
    assert [Picker(facts(), CLIP, seed=5).pick(number).sample for number in (16, 2)] == [order[16], order[2]]
    assert [Picker(facts(), CLIP, seed=6).pick(number).sample for number in range(9)] != order[:9]


def test_held_out_and_short_samples_are_never_drawn():
    known = [*facts(), made_facts("held", num_frames=60, is_held_out=True), made_facts("short", num_frames=5)]
    picker = Picker(known, CLIP, seed=1)
    assert {picker.pick(number).sample for number in range(60)} == set(range(9))
    assert picker.num_too_short == 1
    with pytest.raises(UserError, match="1 in the dataset, 1 held out"):
        Picker(known[9:10], CLIP, seed=1)


def test_the_share_of_synthetic_samples():
    picker = Picker(facts(), replace(CLIP, synthetic_share=0.25), seed=1)
    drawn = Counter(picker.facts[picker.pick(number).sample].is_synthetic for number in range(800))
    assert drawn[True] / 800 == pytest.approx(0.25, abs=0.05)
    assert Picker(facts(3, 0), replace(CLIP, synthetic_share=0.9), seed=1).pick(0).sample < 3


def test_clips_come_from_the_published_range():
    """Starts s in [2, L - 16 - 2 - 1], the portrait from the same range; a past of the two frames before."""
    drawing = replace(CLIP, num_frames=16, margin_frames=2)
    drawn = [choose_clip(np.random.default_rng(i), 40, drawing) for i in range(600)]
    assert {frames[0] for _, frames in drawn} == {portrait for portrait, _ in drawn} == set(range(2, 22))
    assert all(frames == tuple(range(frames[0], frames[0] + 16)) for _, frames in drawn)
    portrait, frames = choose_clip(np.random.default_rng(0), 18, drawing)  # just long enough
    assert (portrait, frames[0]) == (2, 2)
    pick = Picker(facts(num_synthetic=0), drawing, seed=1).pick(3)
    assert pick.past == (pick.frames[0] - 2, pick.frames[0] - 1)
    assert pick.portrait is not None


def test_a_made_clip_s_portrait_is_the_picture_that_it_was_made_from():
    assert Picker(facts(num_real=0), CLIP, seed=1).pick(0).portrait is None


def test_pictures_lie_apart_from_their_portrait():
    drawing = replace(STILL, num_frames=1, reference_gap_frames=30)
    for i in range(300):
        portrait, (frame,) = choose_pictures(np.random.default_rng(i), 70, drawing)
        assert frame - portrait >= 30 if portrait < 40 else portrait - frame >= 30
    assert choose_pictures(np.random.default_rng(1), 10, drawing)[1][0] < 10  # too short: any
    assert len(set(choose_pictures(np.random.default_rng(1), 10, replace(STILL, num_frames=10))[1])) == 10
    assert len(choose_pictures(np.random.default_rng(1), 3, replace(STILL, num_frames=5))[1]) == 5


def test_a_window_of_speech_is_clamped_to_its_clip():
    features = np.arange(6, dtype=np.float16).reshape(6, 1, 1)
    window = speech_window(features, (0, 3, 5))[..., 0, 0]
    assert window.tolist() == [[0, 0, 0, 1, 2], [1, 2, 3, 4, 5], [3, 4, 5, 5, 5]]


def test_masks_become_one_tensor_a_depth():
    masks = np.zeros((3, 64, 64), np.uint8)
    masks[0], masks[1, :, 32:] = 255, 255
    lip, expression, pose = mask_depths(masks, (5, 8), 2)
    assert [tuple(depth.shape) for depth in lip] == [(1, 5, 8), (1, 3, 4)]
    assert lip[0].min() == 1
    assert pose[1].max() == 0
    assert expression[0][0, :, :3].max() == 0 < expression[0][0, :, 5:].min()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_datasets([make_dataset(tmp_path_factory.mktemp("data"), 5)])


@pytest.fixture(scope="module")
def pipe():
    return drawn_pipeline()


@pytest.fixture(scope="module")
def kl() -> AutoencoderKL:
    """An autoencoder with a distribution."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        norm_num_groups=2,
    )
    draw_weights(vae, 9)
    return vae.eval().requires_grad_(False)


def batches(dataset, source, speech=None, drawing: Drawing = CLIP, seed: int = 1) -> Batches:
    return Batches(Picker(dataset.facts, drawing, seed), dataset, source, speech, Fit(LatentSpace("absolute", 2.0), (4, 4), 2))


def test_what_a_batch_holds(dataset, pipe):
    source = batches(dataset, LiveLatents(dataset, pipe.vae, None), StoredSpeech())
    loaded = source.load([4, 9])
    batch = source.finish(loaded, CPU)
    assert batch.latents.shape == (2, 4, 4, 4, 4)
    assert batch.reference_latents.shape == (2, 3, 4, 4, 4)
    assert batch.audio_window.shape == (2, 4, 5, 3, 8)
    assert batch.face_region.shape == (2, 3, SIZE_PX, SIZE_PX)
    assert batch.start_latents is None
    assert [tuple(m.shape) for m in batch.masks.pose] == [(2, 1, 4, 4), (2, 1, 2, 2)]
    for row, pick in enumerate(loaded.picks):
        known = dataset.annotations(pick.sample)
        assert batch.face_embedding[row].numpy() == pytest.approx(known.face_embedding)
        assert batch.audio_window[row, 0, 2].numpy() == pytest.approx(known.speech_features[pick.frames[0]])
        x0, y0, x1, y1 = known.face_box
        assert batch.face_region[row].sum() == 3 * (x1 - x0) * (y1 - y0)
        numbers = [*pick.past, *pick.frames]
        expected = 2.0 * pipe.vae.encode(torch.from_numpy(dataset.frames(pick.sample, numbers)).permute(0, 3, 1, 2) / 127.5 - 1)
        assert torch.allclose(batch.reference_latents[row, 1:], expected[:2], atol=1e-5)
        assert torch.allclose(batch.latents[row].transpose(0, 1), expected[2:], atol=1e-5)


def test_a_batch_depends_on_its_numbers_alone(dataset, pipe):
    one, other = (batches(dataset, LiveLatents(dataset, pipe.vae, None), StoredSpeech()) for _ in range(2))
    other.load([50, 51])
    a, b = one.finish(one.load([7, 8]), CPU), other.finish(other.load([8, 7]), CPU)
    assert torch.equal(a.latents, b.latents.flip(0))
    assert torch.equal(a.audio_window, b.audio_window.flip(0))


@pytest.mark.parametrize("is_drawn", [False, True])
@pytest.mark.parametrize("kind", ["plain", "distribution"])
def test_a_cache_gives_what_encoding_gives(dataset, pipe, kl, tmp_path, kind, is_drawn):
    """Up to the half precision that it is kept in; the noise of drawn latents is the same."""
    vae, seed = kl if kind == "distribution" else pipe.vae, 3 if is_drawn else None
    LatentCache.encode_dataset(dataset, vae, tmp_path)
    cached = CachedLatents(LatentCache(dataset, vae, tmp_path), vae, SIZE_PX, seed)
    live = LiveLatents(dataset, vae, seed)
    drawing = replace(CLIP, start="grey")
    found, expected = (
        source.finish(source.load(list(range(6))), CPU)
        for source in (batches(dataset, one, drawing=drawing) for one in (cached, live))
    )
    for name in ("latents", "reference_latents", "start_latents"):
        assert torch.allclose(getattr(found, name), getattr(expected, name), atol=2e-2), name
    if kind == "distribution":
        mean = batches(dataset, LiveLatents(dataset, vae, None), drawing=drawing)
        is_mean = torch.equal(expected.latents, mean.finish(mean.load(list(range(6))), CPU).latents)
        assert is_mean == (not is_drawn)


def test_latents_are_encoded_in_the_run_s_numbers_unless_they_are_there(dataset, pipe):
    alone = Processes(CPU)
    folders = {shard.folder / "latents" for shard in dataset.shards}
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)

    def kinds() -> set[str]:
        return {path.name.partition("-")[2] for folder in folders for path in folder.iterdir()}

    latent_source(dataset, pipe.vae, CLIP, 0, alone, torch.bfloat16)
    assert kinds() == {"bf16"}
    latent_source(dataset, pipe.vae, CLIP, 0, alone, torch.float32)
    assert kinds() == {"bf16", ""}
    for folder in folders:
        (half,) = folder.glob("*-bf16")
        shutil.rmtree(half)
    latent_source(dataset, pipe.vae, CLIP, 0, alone, torch.bfloat16)
    assert kinds() == {""}, "those in float32 are taken"


def test_grey_is_a_picture_of_zeros(dataset, pipe):
    source = batches(dataset, LiveLatents(dataset, pipe.vae, None), drawing=replace(CLIP, start="grey"))
    batch = source.finish(source.load([0]), CPU)
    assert torch.allclose(batch.start_latents[0, 1], 2.0 * pipe.vae.encode(torch.zeros(1, 3, SIZE_PX, SIZE_PX))[0], atol=1e-6)


def test_speech_is_encoded_once_as_the_pipeline_does_it(dataset, pipe, tmp_path):
    encode_speech(dataset, [0, 2], pipe.speech_encoder, tmp_path / "speech")
    source = EncodedSpeech(tmp_path / "speech")
    known = dataset.annotations(2)
    speech = pipe.speech(known.speech.astype(np.float32) / 32768)
    assert source.rows(2, known).shape == (NUM_FRAMES, 2, 8)
    assert source.rows(2, known)[3:9] == pytest.approx(speech.window(3, 6)[:, 2].numpy(), abs=5e-3)
    assert len(source.rows(1, known)) == 0
    assert not list(tmp_path.glob(".*"))


def test_the_pictures_of_the_test_can_be_told_apart():
    assert np.abs(pictures(0)[1].astype(int) - pictures(0)[0]).max() > 5
