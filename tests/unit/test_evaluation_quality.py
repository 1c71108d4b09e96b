"""IQA and VQA without the published weights: samples, scales, and Q-ReAlign's way through a tiny network of its kind."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast, Qwen3_5Config, Qwen3_5ForConditionalGeneration

from joyhallo.errors import UserError
from joyhallo.evaluation.film import Film
from joyhallo.evaluation.quality import (
    LEVELS,
    OneAlign,
    QReAlign,
    frames_a_second_apart,
    level_score,
    load_judge,
    load_one_align,
    measure_quality,
)

MARKS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{% for c in m.content %}{% if c.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
)


class Made(Film):
    """A film whose frames are as bright as their number."""

    def frames(self):
        return (np.full((*self.size, 3), i, np.uint8) for i in range(self.num_frames))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder like Q-ReAlign's, around a network of 4 layers."""
    place = tmp_path_factory.mktemp("weights") / "q-realign-mini"
    place.mkdir()
    merges = [("\u0120", level[0]) for level in LEVELS]  # a space and the first letter are one token, all else are letters
    pieces = [*sorted(ByteLevel.alphabet()), *("".join(pair) for pair in merges), *MARKS]
    words = {piece: i for i, piece in enumerate(pieces)}
    backend = Tokenizer(BPE(words, merges))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    backend.decoder = ByteLevelDecoder()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, additional_special_tokens=list(MARKS))
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(place)
    text = {"vocab_size": len(words), "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 4, "head_dim": 8}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
    text |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0, **_SECTIONS}}
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
    vision |= {"num_position_embeddings": 64}
    ids = {"image_token_id": words["<|image_pad|>"], "video_token_id": words["<|video_pad|>"]}
    ids |= {"vision_start_token_id": words["<|vision_start|>"], "vision_end_token_id": words["<|vision_end|>"]}
    torch.manual_seed(0)
    Qwen3_5ForConditionalGeneration(Qwen3_5Config(text_config=text, vision_config=vision, **ids)).save_pretrained(place)
    processor = {"image_processor_type": "Qwen2VLImageProcessorFast", "patch_size": 16, "merge_size": 2}
    processor |= {"temporal_patch_size": 2, "size": {"shortest_edge": 1024, "longest_edge": 65536}}
    (place / "preprocessor_config.json").write_text(json.dumps(processor))
    return place


_SECTIONS = {"mrope_section": [2, 1, 1], "mrope_interleaved": True}


@pytest.fixture
def rater(folder, monkeypatch) -> QReAlign:
    monkeypatch.setenv("JOYHALLO_WEIGHTS", str(folder.parent))
    found = load_judge()
    assert found is not None
    return found


def noise(seed: int, size: tuple[int, int] = (64, 96)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def test_samples_of_a_film():
    assert frames_a_second_apart(76, 25.0) == [0, 25, 50]
    assert frames_a_second_apart(90, 29.97) == [0, 29, 59]
    assert frames_a_second_apart(10, 25.0) == [0], "a film of less than a second has a frame too"


def test_scores_of_levels():
    assert level_score(torch.tensor([50.0, 0, 0, 0, 0])) == pytest.approx(1.0)
    assert level_score(torch.tensor([0.0, 0, 0, 0, 50])) == pytest.approx(0.0)
    assert level_score(torch.zeros(5)) == pytest.approx(0.5)
    logits = torch.log(torch.tensor([0.1, 0.2, 0.4, 0.2, 0.1])) + 3
    assert level_score(logits) == pytest.approx(0.1 + 0.15 + 0.2 + 0.05)


class Published:
    """Answers on the published scale of 1 to 5 by how bright pictures are, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, int]] = []

    def score(self, images, task_: str, input_: str) -> torch.Tensor:
        pictures = images if input_ == "image" else images[0]
        self.asked.append((task_, input_, len(pictures)))
        return torch.tensor([1 + np.mean([np.asarray(p).mean() for p in pictures]) / 25])


def test_the_published_model_is_asked_and_brought_to_one():
    model = Published()
    film = Made("made.mp4", 25.0, 60, (8, 10), None)
    iqa, vqa = measure_quality(film, OneAlign(model))
    assert (iqa.name, vqa.name) == ("iqa", "vqa")
    assert iqa.value == pytest.approx(12.5 / 100)  # frames 0 and 25
    assert vqa.value == pytest.approx(12.5 / 100)
    assert model.asked == [("quality", "image", 1), ("quality", "image", 1), ("quality", "video", 2)]


def test_the_published_code_is_refused_in_words():
    with pytest.raises(UserError, match=r"transformers 5.*Q-ReAlign") as refusal:
        load_one_align()
    assert "\n" not in str(refusal.value)


def test_a_small_network_rates_pictures_and_films(rater):
    score = rater.rate_picture(noise(0))
    assert 0 < score < 1
    assert score == rater.rate_picture(noise(0))
    assert score != rater.rate_picture(noise(1))
    assert 0 < rater.rate_video([noise(i) for i in range(3)]) < 1
    assert rater.video_indices(100, 25.0) == [0, 14, 28, 42, 57, 71, 85, 99]
    assert len(set(rater.video_indices(3, 25.0))) == 3


def test_what_the_network_is_shown(rater, monkeypatch):
    """The question, the picture's places, the beginning of the answer; then the logits of the five words."""
    shown = {}
    model = rater._model

    class Spy:
        device, dtype = model.device, model.dtype

        def __call__(self, **inputs):
            shown.update(inputs)
            return model(**inputs)

    monkeypatch.setattr(rater, "_model", Spy())
    score = rater.rate_video([noise(0, (64, 96)), noise(1, (64, 64))])
    tokenizer = rater._tokenizer
    text = tokenizer.decode(shown["input_ids"][0])
    assert text.endswith("Can you rate the quality of this video?<|im_end|>The quality of the video is")
    marks = (shown["input_ids"] == tokenizer.convert_tokens_to_ids("<|image_pad|>"))[0]
    assert int(marks.sum()) == (64 * 96 + 64 * 64) // 32**2
    assert torch.equal(shown["mm_token_type_ids"][0].bool(), marks)
    assert shown["image_grid_thw"].tolist() == [[1, 4, 6], [1, 4, 4]]
    with torch.no_grad():
        logits = model(**shown).logits[0, -1]
    words = [tokenizer.convert_tokens_to_ids(f"\u0120{level[0]}") for level in LEVELS]
    assert len(set(words)) == 5
    assert score == pytest.approx(level_score(logits[words].float()), abs=1e-6)


def test_a_film_is_measured_and_the_model_named(rater):
    film = Made("made.mp4", 25.0, 30, (64, 64), None)
    found = measure_quality(film, rater)
    assert [measure.name for measure in found] == ["iqa", "vqa"]
    assert all(0 <= measure.value <= 1 and "not the paper's" in measure.note for measure in found)


def test_absent_weights_are_named_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("JOYHALLO_CACHE", str(tmp_path))
    monkeypatch.delenv("JOYHALLO_WEIGHTS", raising=False)
    assert load_judge() is None
    found = measure_quality(Made("made.mp4", 25.0, 30, (64, 64), None), None)
    assert [measure.value for measure in found] == [None, None]
    assert "hf download q-future/Q-ReAlign-Mini-0.8B" in found[0].note
    broken = tmp_path / "weights" / "q-realign-mini"
    broken.mkdir(parents=True)
    (broken / "config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read as Q-ReAlign"):
        load_judge()
