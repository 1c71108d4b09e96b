"""Subject and Background by VBench's formulas: features made by hand, and small networks of the published shape."""

import json
import re

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

from joyhallo.evaluation.consistency import (
    build_clip,
    build_dino,
    clip_features,
    consistency,
    dino_features,
    load_clip,
    load_dino,
    measure_background,
    measure_subject,
    resized,
)
from joyhallo.weights.checkpoint import CheckpointError
from made_films import film_of

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def pictures(num: int, size: tuple[int, int] = (64, 96)) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (num, *size, 3), np.uint8))


@pytest.fixture
def vit() -> ViTModel:
    torch.manual_seed(0)
    return ViTModel(ViTConfig(**SMALL), add_pooling_layer=False).eval()


@pytest.fixture
def clip() -> CLIPModel:
    torch.manual_seed(0)
    text = {**SMALL, "vocab_size": 50, "max_position_embeddings": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config={**SMALL, "patch_size": 32}, projection_dim=8)).eval()


def test_formula_on_features_made_by_hand():
    features = [np.array(f, float) for f in ((2, 0), (1, 1), (0, 3), (-1, 0))]
    root = np.sqrt(0.5)
    expected = [root, (root + 0) / 2, 0.0]  # a negative cosine counts as zero
    np.testing.assert_allclose(consistency(iter(features)), expected, atol=1e-12)
    assert len(consistency(iter(features[:1]))) == 0


def test_a_still_film_is_consistent_and_noise_is_less(vit, clip):
    still = film_of([pictures(1)[0]] * 5)
    noise = film_of(pictures(5))
    for measure, features in ((measure_subject, dino_features(vit)), (measure_background, clip_features(_vision(clip)))):
        calm = measure(still, features)[0]
        assert calm.value == pytest.approx(1.0, abs=1e-6)
        assert calm.weight == 4
        assert np.isnan(calm.curve[0])
        assert calm.curve.shape == (5,)
        wild = measure(noise, features)[0]
        assert wild.value < calm.value


def _vision(clip: CLIPModel):
    from transformers import CLIPVisionModelWithProjection

    clip.config.vision_config.projection_dim = clip.config.projection_dim
    model = CLIPVisionModelWithProjection(clip.config.vision_config).eval()
    state = clip.state_dict()
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    return model


def test_batches_change_nothing(vit):
    features = dino_features(vit)
    frames = pictures(7)
    one = np.stack(list(features(iter(frames), batch=1)))
    many = np.stack(list(features(iter(frames), batch=3)))
    assert one.shape == (7, 16)
    np.testing.assert_allclose(one, many, atol=1e-5)


def test_square_frames_are_what_the_model_itself_sees(vit):
    frame = pictures(1, (224, 224))[0]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    ready = torch.from_numpy((frame / 255 - mean) / std).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        expected = vit(pixel_values=ready).last_hidden_state[0, 0].numpy()
    np.testing.assert_allclose(next(dino_features(vit)([frame])), expected, atol=1e-5)


def test_wide_frames_are_seen_whole_with_places_stretched_as_dino_does(vit):
    """Fourteen by twenty-one patches; DINO's factor is a tenth of a patch larger than the ratio."""
    frame = pictures(1, (32, 48))[0]
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
    large = functional.interpolate(pixels, (224, 336), mode="bilinear", align_corners=False)
    mean, std = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        patches = vit.embeddings.patch_embeddings.projection((large / 255 - mean) / std).flatten(2).mT
        grid = vit.embeddings.position_embeddings[:, 1:].reshape(1, 14, 14, 16).permute(0, 3, 1, 2)
        places = functional.interpolate(grid, scale_factor=(14.1 / 14, 21.1 / 14), mode="bicubic").flatten(2).mT
        start = vit.embeddings.cls_token + vit.embeddings.position_embeddings[:, :1]
        state = torch.cat([start, patches + places], 1)
        for layer in vit.layers:
            out = layer(state)
            state = out if isinstance(out, torch.Tensor) else out[0]
        expected = vit.layernorm(state)[0, 0].numpy()
    np.testing.assert_allclose(next(dino_features(vit)([frame])), expected, atol=1e-5)


def test_clip_sees_the_middle(clip):
    frame = pictures(1, (64, 200))[0]
    inside = frame.copy()
    inside[:, :60] = 0  # 224 of 700 columns are seen: 68 to 132 of 200, and the neighbours that bicubic reads
    features = clip_features(_vision(clip))
    np.testing.assert_allclose(next(features([frame])), next(features([inside])), atol=1e-6)
    inside[:, 80:] = 0
    assert np.abs(next(features([frame])) - next(features([inside]))).max() > 1e-3
    assert next(features([frame])).shape == (8,)


def test_sizes_after_resizing():
    assert resized(torch.zeros(1, 3, 100, 151), "bilinear").shape[2:] == (224, 338)
    assert resized(torch.zeros(1, 3, 720, 405), "bicubic").shape[2:] == (398, 224)


def folder_of(tmp_path, config, tensors):
    folder = tmp_path / config.model_type
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.to_dict(), default=str))
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder / "config.json", folder / "pytorch_model.bin"


def test_published_names_of_dino_are_understood(vit, tmp_path):
    """The file is from 2021, with the names of transformers 4."""
    old = {}
    for name, value in vit.state_dict().items():
        name = re.sub(r"^layers\.", "encoder.layer.", name)
        name = re.sub(r"attention\.q_proj", "attention.attention.query", name)
        name = re.sub(r"attention\.k_proj", "attention.attention.key", name)
        name = re.sub(r"attention\.v_proj", "attention.attention.value", name)
        name = name.replace("attention.o_proj", "attention.output.dense")
        old[name.replace("mlp.fc1", "intermediate.dense").replace("mlp.fc2", "output.dense")] = value
    config, weights = folder_of(tmp_path, vit.config, old)
    loaded = build_dino(config, weights).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in vit.state_dict().items())
    old.pop("layernorm.bias")
    torch.save(old, weights)
    with pytest.raises(CheckpointError, match="layernorm"):
        build_dino(config, weights)


def test_the_picture_half_of_a_clip_file_is_loaded(clip, tmp_path):
    stored = {**clip.state_dict(), "vision_model.embeddings.position_ids": torch.arange(50)[None]}
    model = build_clip(*folder_of(tmp_path, clip.config, stored))
    frame = pictures(1)[0]
    np.testing.assert_array_equal(next(clip_features(model)([frame])), next(clip_features(_vision(clip))([frame])))


def test_absent_weights_are_named_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("JOYHALLO_CACHE", str(tmp_path))
    monkeypatch.delenv("JOYHALLO_WEIGHTS", raising=False)
    film = film_of(pictures(2))
    for found in (measure_subject(film, load_dino())[0], measure_background(film, load_clip())[0]):
        assert found.value is None
        assert found.note.endswith("joyhallo models pull metrics-consistency")


def test_weights_are_found_in_the_users_folder(vit, tmp_path, monkeypatch):
    config, _ = folder_of(tmp_path, vit.config, vit.state_dict())
    config.parent.rename(tmp_path / "dino-vitb16")
    monkeypatch.setenv("JOYHALLO_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("JOYHALLO_CACHE", str(tmp_path / "cache"))
    still = film_of([pictures(1)[0]] * 3)
    assert measure_subject(still, load_dino())[0].value == pytest.approx(1.0, abs=1e-6)


def test_a_bare_file_name_that_several_weights_share_is_nobodys(vit, tmp_path, monkeypatch):
    folder_of(tmp_path, vit.config, vit.state_dict())[1].rename(tmp_path / "pytorch_model.bin")
    monkeypatch.setenv("JOYHALLO_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("JOYHALLO_CACHE", str(tmp_path / "cache"))
    assert load_dino() is None
    assert load_clip() is None
