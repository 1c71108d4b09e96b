"""The encoders and the vocal separation of the presets."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch

from joyhallo.conditioning.speech import prepare_speech
from joyhallo.conditioning.vocals import VocalSeparator
from joyhallo.data.preparation.equipment import mandarin_encoder, open_equipment
from joyhallo.data.preparation.films import Settings, identify, note_on, settings_for
from joyhallo.data.preparation.one_video import VideoPreparer
from joyhallo.data.samples import read_annotations
from joyhallo.errors import UserError
from talking import babble, open_face_mesh, write_talking_film

NUM_FRAMES = 40


def test_the_published_preset_says_what_to_install():
    if importlib.util.find_spec("insightface") is not None:
        pytest.skip("InsightFace is installed")
    with pytest.raises(UserError, match=r"joyhallo\[official\]"):
        open_equipment("published", separate_vocals=False)


def test_the_voice_is_taken_out_first_when_asked(tmp_path):
    """With a network that lets everything through the clip is the same, but for what the separation does to any sound."""
    open_face_mesh()
    path = write_talking_film(tmp_path / "a.mp4", 30)
    (tmp_path / "out").mkdir()
    equipment = open_equipment("mini", separate_vocals=False)
    separating = replace(equipment, separator=VocalSeparator(lambda spectrum: spectrum))
    speeches = []
    for chosen in (equipment, separating):
        _, part = VideoPreparer(Settings(), chosen).prepare(identify(path), tmp_path / "out")
        notes = read_annotations((tmp_path / "out" / f"{part.key}.safetensors").read_bytes(), "")
        speeches.append(notes.speech.astype(float))
    assert not np.array_equal(*speeches)
    assert np.corrcoef(*speeches)[0, 1] > 0.97


def test_the_mandarin_encoder_is_used_when_it_is_there(tmp_path, monkeypatch):
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    published = settings_for("published")
    monkeypatch.setenv("JOYHALLO_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("JOYHALLO_CACHE", str(tmp_path / "cache"))
    assert mandarin_encoder() is None
    assert "no speech features are stored" in note_on(published)
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = Wav2Vec2Config(**small, conv_dim=(8,) * 7, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2)
    folder = tmp_path / "chinese-wav2vec2-base"
    folder.mkdir()
    config.save_pretrained(folder)
    torch.save(Wav2Vec2Model(config).state_dict(), folder / "pytorch_model.bin")
    assert note_on(published) is None
    encoder = mandarin_encoder()
    features = prepare_speech(babble(NUM_FRAMES / 25), encoder, fps=25, clip_length=1).window(0, NUM_FRAMES)
    assert features.shape == (NUM_FRAMES, 5, 2, 16)
