"""Speech features of a run: whose they are, encoded once, gone on with at the sample, one line on a full disk."""

import shutil
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2Config, Wav2Vec2Model

from joyhallo.conditioning.speech import Wav2Vec2Speech
from joyhallo.data.dataset import open_datasets
from joyhallo.data.samples import write_sample
from joyhallo.data.shards import pack
from joyhallo.data.speech_features import are_of_one_encoder, encode_clip
from joyhallo.errors import UserError
from joyhallo.models.speech_encoder import MelSpeechNetwork
from joyhallo.training import sources
from joyhallo.training.distributed import Processes
from joyhallo.training.sources import EncodedSpeech, StoredSpeech, encode_speech, speech_source
from made_data import made_annotations, made_facts, made_frames, nearly_full_disk

NUM_FRAMES = 20
SAMPLES = [0, 1, 2, 3]


def wav2vec2(seed: int) -> Wav2Vec2Model:
    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = Wav2Vec2Config(**small, conv_dim=(16,) * 7, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2)
    torch.manual_seed(seed)
    return Wav2Vec2Model(config).eval()


def dataset_of(folder, encoder, name):
    """Four clips with the features of an encoder, the first one silent."""
    (folder / "work").mkdir(parents=True)
    for number in SAMPLES:
        facts = made_facts(f"clip_{number}", num_frames=NUM_FRAMES, speech_encoder=name, speech_share=float(number > 0))
        notes = made_annotations(NUM_FRAMES, facts.size_px, number)
        speech = np.zeros_like(notes.speech) if number == 0 else notes.speech
        notes = replace(notes, speech=speech, speech_features=encode_clip(speech, Wav2Vec2Speech(encoder)))
        write_sample(folder / "work", facts, notes, made_frames(NUM_FRAMES, facts.size_px, number), None)
    pack(folder / "work", folder / "dataset")
    return folder / "dataset"


@pytest.fixture(scope="module")
def mandarin():
    return wav2vec2(0)


@pytest.fixture(scope="module")
def english():
    return wav2vec2(1)


@pytest.fixture(scope="module")
def place(tmp_path_factory, mandarin):
    return dataset_of(tmp_path_factory.mktemp("made"), mandarin, "chinese-wav2vec2-base")


@pytest.fixture(scope="module")
def dataset(place):
    return open_datasets([place])


@pytest.fixture
def heard(monkeypatch):
    """How many clips are encoded."""
    calls = []

    def counted(speech, encoder):
        calls.append(1)
        return encode_clip(speech, encoder)

    monkeypatch.setattr(sources, "encode_clip", counted)
    return calls


def alone() -> Processes:
    return Processes(torch.device("cpu"))


def test_stored_features_of_the_run_s_encoder_are_used(dataset, mandarin, tmp_path):
    assert isinstance(speech_source(dataset, SAMPLES, mandarin, tmp_path, alone()), StoredSpeech)
    assert not list(tmp_path.iterdir())


def test_features_of_another_encoder_of_the_same_shape_are_not_used(dataset, english, tmp_path, caplog):
    """A name says nothing: the Mandarin and the English wav2vec2 have the same layers and channels."""
    caplog.set_level("INFO", logger="joyhallo")
    source = speech_source(dataset, SAMPLES, english, tmp_path, alone())
    assert isinstance(source, EncodedSpeech)
    expected = encode_clip(dataset.annotations(2).speech, Wav2Vec2Speech(english))
    np.testing.assert_array_equal(source.rows(2, dataset.annotations(2)), expected)
    assert "are not of this run's speech encoder" in caplog.text


def test_every_dataset_of_several_is_heard(place, mandarin, english, tmp_path):
    other = dataset_of(tmp_path / "other", english, "chinese-wav2vec2-base")
    joined = open_datasets([place, other])
    assert sources.foreign_features(joined, SAMPLES, mandarin) is None
    assert sources.foreign_features(joined, range(8), mandarin) == other
    assert sources.foreign_features(joined, range(8), english) == place


def test_features_are_told_apart_by_what_they_do_over_time(dataset, mandarin, english):
    speech = dataset.annotations(1).speech
    made, foreign = (encode_clip(speech, Wav2Vec2Speech(encoder)) for encoder in (mandarin, english))
    assert are_of_one_encoder(made, made)
    quieter = (speech // 2).astype(np.int16)
    assert are_of_one_encoder(made, encode_clip(quieter, Wav2Vec2Speech(mandarin)))
    assert not are_of_one_encoder(made, foreign)
    assert not are_of_one_encoder(made, np.stack([made[:, 0], foreign[:, 1]], axis=1)), "one layer is another's"
    assert not are_of_one_encoder(made, made[:, :1])


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("num_lost_bytes", [0, 1, 10**6])
def test_a_run_that_was_stopped_goes_on_at_the_sample(dataset, english, tmp_path, heard, monkeypatch, num_lost_bytes):
    """`num_lost_bytes`: what a crash cut off the end of the unfinished file."""
    encode_speech(dataset, [1, 2, 3], english, tmp_path / "whole")

    class StoppedError(RuntimeError):
        pass

    class Stop:
        def __init__(self, _text):
            pass

        def __call__(self, done, _of):
            if done == 2:
                raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(sources, "_Told", Stop)
        with pytest.raises(StoppedError):
            encode_speech(dataset, [1, 2, 3], english, tmp_path / "stopped")
    partial = tmp_path / "stopped" / "features.partial"
    with partial.open("rb+") as file:
        file.truncate(max(0, partial.stat().st_size - num_lost_bytes))
    heard.clear()
    encode_speech(dataset, [1, 2, 3], english, tmp_path / "stopped")
    assert len(heard) == {0: 1, 1: 2, 10**6: 3}[num_lost_bytes]
    assert files_of(tmp_path / "stopped") == files_of(tmp_path / "whole")


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(dataset, english, tmp_path, heard):
    """Not the end of the process, as writing to mapped memory is."""
    num_bytes = 2 * NUM_FRAMES * 2 * 64  # of a sample
    with nearly_full_disk(2 * num_bytes), pytest.raises(UserError, match="disk is full while writing the speech") as caught:
        encode_speech(dataset, [1, 2, 3], english, tmp_path)
    assert "\n" not in str(caught.value)
    heard.clear()
    encode_speech(dataset, [1, 2, 3], english, tmp_path)
    assert len(heard) == 2


def test_a_disk_that_is_too_small_is_told_before_the_work(dataset, english, tmp_path, heard, monkeypatch):
    disk = namedtuple("disk", "total used free")(10**6, 10**6 - 1000, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)
    with pytest.raises(UserError, match=r"need 0\.0 GB more, the disk has 0\.0 GB left"):
        encode_speech(dataset, SAMPLES, english, tmp_path)
    assert not heard


def test_damaged_features_are_one_line(dataset, english, tmp_path):
    encode_speech(dataset, SAMPLES, english, tmp_path)
    (tmp_path / "features.npy").write_bytes(b"not an array")
    with pytest.raises(UserError, match="remove it and encode"):
        EncodedSpeech(tmp_path)


def test_features_of_mini_are_always_made_anew(dataset, tmp_path):
    small = MelSpeechNetwork(num_bands=8, channels=8, num_blocks=2, num_fine_blocks=1).eval()
    first = speech_source(dataset, [1, 2], small, tmp_path, alone())
    assert isinstance(first, EncodedSpeech)
    assert first.rows(1, dataset.annotations(1)).shape == (NUM_FRAMES, 2, 8)
