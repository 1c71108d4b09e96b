"""The trainings of the small encoders of mini, some seconds each, on made-up datasets: what they read, that they learn."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from joyhallo.data.samples import write_sample
from joyhallo.data.shards import pack
from joyhallo.data.synthesis.speakers import refused_film, save_tracked
from joyhallo.errors import UserError
from joyhallo.models.autoencoder import PatchAutoencoder
from joyhallo.models.speech_encoder import MelSpeechNetwork
from joyhallo.training import autoencoder, identity, speech
from joyhallo.training.lip_clips import LipSources, read_lip_clips
from joyhallo.training.pictures import FaceData, Pictures, read_face_data
from joyhallo.weights.hub import face_models_path
from made_data import made_annotations, made_facts, made_portrait

NUM_FRAMES, SIZE_PX = 32, 64
SYLLABLES = Path(__file__).parents[3] / "shared/data/speech_cmn/syllables"
WORDS = SYLLABLES.with_name("words")
LOWER_LIP = [95, 88, 178, 87, 14, 317, 402, 318, 324]
UPPER_LIP = [191, 80, 81, 82, 13, 312, 311, 310, 415]
BASE = np.random.default_rng(7).uniform(-4, 4, (478, 3))
BASE[UPPER_LIP] = BASE[LOWER_LIP] = [[x, 3.0, -5.0] for x in np.linspace(-2, 2, 9)]


def opening(number: int) -> np.ndarray:
    """Of the lips in the frames of a clip, centimetres: slow waves."""
    times = np.arange(NUM_FRAMES) / 25
    return np.maximum(0, 0.8 * np.sin(2 * np.pi * (1 + 0.2 * (number % 5)) * times + number))


def talking_points(number: int) -> np.ndarray:
    points = np.repeat(BASE[None], NUM_FRAMES, 0)
    points[:, LOWER_LIP, 1] += opening(number)[:, None]
    return (points * 5 + [32, 30, 0]).astype(np.float32)


def talking_sound(number: int) -> np.ndarray:
    """Noise as loud as the lips are open."""
    loudness = np.repeat(opening(number), 640)
    return (loudness * np.random.default_rng(number).normal(size=len(loudness)) * 6000).astype(np.int16)


def made_dataset(folder: Path, is_synthetic: bool) -> Path:
    """Twelve people with a picture each, one of them held out; what they say is how far they open their mouths."""
    (folder / "work").mkdir()
    random = np.random.default_rng(0)
    for number in range(12):
        facts = made_facts(
            f"clip_{number:02d}", source=f"{number}.png", speaker=f"person {number}", num_frames=NUM_FRAMES, size_px=SIZE_PX,
            is_held_out=number == 5, is_synthetic=is_synthetic,
        )  # fmt: skip
        made = made_annotations(NUM_FRAMES, SIZE_PX, number)
        annotations = type(made)(**{**vars(made), "points": talking_points(number), "speech": talking_sound(number)})
        portrait = np.roll(made_portrait(SIZE_PX), 5 * number, 1) // 2 + random.integers(0, 100, 3).astype(np.uint8)
        frames = (np.roll(portrait, frame % 3, 0) for frame in range(NUM_FRAMES))
        write_sample(folder / "work", facts, annotations, frames, portrait if is_synthetic else None)
    pack(folder / "work", folder / "dataset")
    return folder / "dataset"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return made_dataset(tmp_path_factory.mktemp("made"), is_synthetic=True)


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> LipSources:
    """The same people on film."""
    films = made_dataset(tmp_path_factory.mktemp("films"), is_synthetic=False)
    return LipSources((films,), tmp_path_factory.mktemp("tracks"), face_models_path(), num_frames=NUM_FRAMES)


def test_pictures_are_divided_by_what_is_held_out(dataset):
    data = read_face_data([dataset])
    assert data.portraits.images.shape == (11, SIZE_PX, SIZE_PX, 3)
    assert len(data.held_out_portraits) == 1
    assert len(data.frames) == 11 * 4
    assert len(data.held_out_frames) == 4
    assert data.size_px == SIZE_PX
    middle = talking_points(0)[0, [61, 291], :2].mean(0)
    assert np.allclose(data.portraits.mouths[0], middle[::-1], atol=0.5)


def test_without_held_out_clips_nothing_is_trained(dataset, tmp_path):
    (tmp_path / "work").mkdir()
    facts = made_facts("only", num_frames=NUM_FRAMES, is_synthetic=False)
    write_sample(tmp_path / "work", facts, made_annotations(NUM_FRAMES), (made_portrait() for _ in range(NUM_FRAMES)), None)
    pack(tmp_path / "work", tmp_path / "dataset")
    with pytest.raises(UserError, match="held out"):
        read_face_data([tmp_path / "dataset"])
    assert len(read_face_data([dataset, tmp_path / "dataset"]).portraits) == 11
    with pytest.raises(UserError, match="held-out people"):
        identity.People([tmp_path / "dataset"])
    with pytest.raises(UserError, match="held out"):
        read_lip_clips(LipSources((tmp_path / "dataset",), tmp_path / "tracks", face_models_path(), num_frames=24), BASE)


def test_autoencoder_learns_and_is_written(dataset, tmp_path):
    torch.set_num_threads(1)
    data = read_face_data([dataset])
    network = autoencoder.train_reconstruction(data, tmp_path / "net", minutes=0.04)
    measures = autoencoder.measure(network, data)
    assert measures["portraits_db"] > 14  # a grey picture has about 10
    tuned = autoencoder.tune_decoder(
        PatchAutoencoder.from_pretrained(tmp_path / "net"), data, tmp_path / "net2", 0.01, is_short=True
    )
    written = PatchAutoencoder.from_pretrained(tmp_path / "net2").state_dict()
    assert all(torch.equal(value, written[name]) for name, value in tuned.state_dict().items())


@pytest.mark.parametrize(
    ("look", "side", "least"), [(autoencoder.Look(), 64, 0.4), (autoencoder.Look(3 / 8, 1.0, 0.0), 48, 0.95)]
)
def test_cut_outs_lie_around_mouths_as_often_as_told(look, side, least):
    images = np.zeros((3, 128, 128, 3), np.uint8)
    images[:, 100:108, 20:28] = 255
    faces = Pictures(images, np.full((3, 2), [104.0, 24.0]), np.full(3, 8.0))
    nobody = Pictures(images * 0, faces.mouths, faces.widths)
    portraits = nobody if look.portraits == 0 else faces
    batches = islice(autoencoder.Batches(FaceData(portraits, faces, faces, faces), 0, look), 12)
    cut_outs = [batch for number, batch in enumerate(batches) if number % 4 < 3]
    assert {batch.shape[1:] for batch in cut_outs} == {(3, side, side)}
    shown = torch.cat([batch.amax((1, 2, 3)) > 0.5 for batch in cut_outs])
    assert shown.float().mean() > least


def test_lip_clips_of_longer_films_have_several_parts(sources):
    clips = read_lip_clips(replace(sources, num_frames=24), BASE)
    assert len(clips.speech) == (12 + 2 * 11) * 2
    assert clips.num_held_out == 2
    expected = opening(5)[:24]
    assert np.corrcoef(clips.opening[0], expected)[0, 1] > 0.98
    assert np.isclose(clips.speech[3].std(), 1, atol=1e-3)
    assert (clips.shut[0] == (clips.opening[0] < 0.05)).all()
    assert 0 < clips.shut[0].mean() < 1


def test_films_are_tracked_once(sources):
    read_lip_clips(sources, BASE)
    tracks = sorted(sources.tracks.glob("*.npz"))
    assert len(tracks) == 12
    save_tracked(refused_film("no face", "made so"), tracks[0])
    assert len(read_lip_clips(sources, BASE).speech) == 11 + 2 * 10
    tracks[0].unlink()


@pytest.mark.skipif(not SYLLABLES.is_dir(), reason="needs ../shared")
def test_mandarin_sentences_are_added_on_both_sides(sources):
    asked = replace(sources, syllables=SYLLABLES, words=WORDS, num_sentences=19)
    clips = read_lip_clips(asked, BASE)
    assert len(clips.speech) == 12 + 19 + 2 * (11 + 17)
    assert clips.num_held_out == 1 + 2
    again = read_lip_clips(asked, BASE)
    assert (clips.speech == again.speech).all()


def test_what_is_trained_on_is_heard_in_other_voices_with_the_same_lips(sources):
    clips = read_lip_clips(sources, BASE)
    own, others = slice(1, 12), (slice(12, 23), slice(23, 34))
    for other in others:
        assert np.array_equal(clips.opening[own], clips.opening[other])
        assert not np.allclose(clips.speech[own], clips.speech[other], atol=0.1)
    assert not np.allclose(clips.speech[others[0]], clips.speech[others[1]], atol=0.1)
    assert np.allclose(clips.speech.std(1), 1, atol=1e-3)


def test_lips_heard_are_measured_by_opening_and_by_being_shut(sources):
    clips = read_lip_clips(sources, BASE)
    sound = speech.normalised(clips.speech[:1])
    truth = np.stack([clips.opening[:1], clips.shut[:1]], -1)

    class Told(torch.nn.Module):
        def __init__(self, sign: float) -> None:
            super().__init__()
            self.sign = sign

        def forward(self, _):
            return self.sign * torch.from_numpy(truth).float()

    assert speech.measure(Told(1), clips, sound) == speech.Heard(pytest.approx(1, abs=1e-5), 1)
    assert speech.measure(Told(-1), clips, sound) == speech.Heard(pytest.approx(-1, abs=1e-5), 0)


def test_lips_said_shut_with_certainty_cost_least():
    target = torch.zeros(1, 4, 10)
    target[..., 9] = torch.tensor([0.0, 1, 1, 0])
    sure = target.clone()
    sure[..., 9] = 20 * target[..., 9] - 10
    weights = torch.ones(9)
    assert speech.lip_loss(sure, target, weights) < 1e-3
    assert speech.lip_loss(-sure, target, weights) > 4
    sure[..., 0] += 1
    assert torch.isclose(speech.lip_loss(sure, target, weights), torch.tensor(1 / 9), atol=1e-3)


def test_speech_encoder_hears_the_opening(sources):
    torch.set_num_threads(1)
    clips = read_lip_clips(sources, BASE)
    network = speech.train_speech(clips, minutes=0.07, batch_size=4)
    assert isinstance(network, MelSpeechNetwork)
    with torch.no_grad():
        features = network(speech.normalised(clips.speech))
        shut = network.shut_logits(features.unfold(1, 5, 1).movedim(-1, 2)).numpy()
    # A linear probe on some clips, tried on others: the opening is there to be read. The clips in other voices come after.
    flat = features.flatten(2).numpy()
    train, test = np.arange(3, 12), np.arange(0, 3)
    with_one = [np.c_[flat[part].reshape(-1, flat.shape[-1]), np.ones(len(part) * 32)] for part in (train, test)]
    gram = with_one[0].T @ with_one[0] + 30 * np.eye(with_one[0].shape[1])
    weights = np.linalg.solve(gram, with_one[0].T @ clips.opening[train].ravel())
    assert np.corrcoef(with_one[1] @ weights, clips.opening[test].ravel())[0, 1] > 0.6
    # What tells shut lips stays in the encoder.
    assert np.corrcoef(shut[test].ravel(), clips.opening[test, 2:-2].ravel())[0, 1] < -0.5


@pytest.mark.parametrize("hears_shut_lips", [False, True])
def test_speech_encoder_goes_on_from_another(sources, tmp_path, hears_shut_lips):
    torch.set_num_threads(1)
    known = MelSpeechNetwork(20, 24, num_blocks=2, num_fine_blocks=1, hears_shut_lips=hears_shut_lips)
    with torch.no_grad():
        (known.shut if hears_shut_lips else known.norms)[-1].bias.fill_(3)
    known.save_pretrained(tmp_path / "known")
    network = speech.train_speech(read_lip_clips(sources, BASE), minutes=0.01, batch_size=2, init=tmp_path / "known")
    assert network.config["channels"] == 24
    assert network.config["hears_shut_lips"]
    assert (network.shut if hears_shut_lips else network.norms)[-1].bias.min() > 2, "it begins where the other ended"
    assert torch.equal(network.band_mean, known.band_mean)
    assert not torch.equal(network.input.weight, known.input.weight)
    with pytest.raises(UserError, match="is missing"):
        speech.train_speech(read_lip_clips(sources, BASE), minutes=0.01, init=tmp_path / "nowhere")


def test_identity_network_tells_people_apart(dataset):
    torch.set_num_threads(1)
    people = identity.People([dataset])
    assert len(people.known) == 11
    assert {len(faces) for faces in people.known.values()} == {1 + 4}
    assert [len(faces) for faces in people.held_out.values()] == [1]
    network = identity.train_identity(people, minutes=0.06)
    with torch.no_grad():
        embeddings = torch.nn.functional.normalize(
            network(torch.stack([torch.from_numpy(faces[k]) for faces in people.known.values() for k in (0, 3)])
            .permute(0, 3, 1, 2).float() / 127.5 - 1), dim=-1,
        )  # fmt: skip
    similarity = embeddings @ embeddings.T
    similarity.fill_diagonal_(-1)
    same = similarity.argmax(1) == torch.arange(22) ^ 1
    assert same.float().mean() > 0.6
