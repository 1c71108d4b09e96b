"""IQA and VQA: how good a picture or a film looks, by a language model that is asked to finish "The quality of … is".

The paper's numbers come from Q-Align (one-align) on its 0-to-1 scale. The code that is published beside its weights was written
for transformers 4.36 and breaks in transformers 5, so it cannot run here; `OneAlign` takes the model where it does. What runs
here is Q-ReAlign, the same recipe on a small Qwen3.5 (0.8 billion parameters); its numbers are not
the paper's.

Axes: L = 5 levels, from excellent to bad.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from joyhallo.device import choose_device
from joyhallo.errors import UserError
from joyhallo.evaluation.film import Film
from joyhallo.evaluation.lacking import lacking
from joyhallo.evaluation.measures import Measure, missing
from joyhallo.weights import hub
from joyhallo.weights.metric_files import ALIGN_FILES, REALIGN_FOLDER, REALIGN_REPO

if TYPE_CHECKING:
    from PIL.Image import Image

NAMES = ("iqa", "vqa")
LEVELS = ("excellent", "good", "fair", "poor", "bad")
LEVEL_SCORES = (1.0, 0.75, 0.5, 0.25, 0.0)
VIDEO_FRAMES = 8  # of a film that Q-ReAlign looks at
VIDEO_PX = 448  # their longer side, at most
_IMAGE_MARK = "<|image_pad|>"


class Rater(Protocol):
    """A model that scores pictures and films in [0, 1]."""

    note: str  # said beside every value

    def video_indices(self, num_frames: int, fps: float) -> list[int]:
        """Which frames of a film `rate_video` is to be given."""
        ...

    def rate_picture(self, picture: np.ndarray) -> float:
        """The score of [H, W, 3] uint8 RGB."""
        ...

    def rate_video(self, pictures: Sequence[np.ndarray]) -> float:
        """The score of a film by its frames [H, W, 3] uint8 RGB."""
        ...


def frames_a_second_apart(num_frames: int, fps: float) -> list[int]:
    """Q-Align's sample of a film: a frame for every whole second; the first one alone where there is no whole second."""
    return [int(fps * i) for i in range(int(num_frames / fps))] or [0]


def level_score(logits: Tensor) -> float:
    """The score in [0, 1] that logits [5] of the levels' words stand for."""
    return float(torch.softmax(logits.double(), 0) @ torch.tensor(LEVEL_SCORES, dtype=torch.float64))


def measure_quality(film: Film, rater: Rater | None) -> list[Measure]:
    """`iqa`, the mean over frames a second apart, and `vqa`, of the film as a whole; both in [0, 1].

    The paper does not say which frames its IQA takes; this is our choice. Those of VQA are kept in memory together.

    Parameters
    ----------
    rater : from `load_judge` or `OneAlign`; None gives measures without values, which name what is to be done.
    """
    if rater is None:
        return missing(NAMES, absent_note())
    seconds = set(frames_a_second_apart(film.num_frames, film.fps))
    video = set(rater.video_indices(film.num_frames, film.fps))
    scores, kept = [], []
    for index, frame in enumerate(film.frames()):
        if index in seconds:
            scores.append(rater.rate_picture(frame))
        if index in video:
            kept.append(frame)
    if not scores or not kept:
        return missing(NAMES, "no frame can be decoded")
    return [Measure("iqa", float(np.mean(scores)), note=rater.note), Measure("vqa", rater.rate_video(kept), note=rater.note)]


def absent_note() -> str:
    """What to do where there is no model for the two columns."""
    here = hub.weights_folder() or hub.cache_folder() / "weights"
    text = f"Q-ReAlign is not here: hf download {REALIGN_REPO} --local-dir {here / REALIGN_FOLDER}"
    return f"{text} (2.2 GB); the published Q-Align does not run with transformers 5"


class QReAlign:
    """Q-ReAlign: prompts, frames and scores as in its own toolkit."""

    note = "Q-ReAlign, which is not the paper's Q-Align"

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any) -> None:  # noqa: ANN401
        """Takes the three parts that `load_judge` reads from a folder; transformers says nothing of their types."""
        self._model, self._tokenizer, self._image_processor = model, tokenizer, image_processor
        self._levels = [tokenizer(f" {level}", add_special_tokens=False)["input_ids"][0] for level in LEVELS]
        self._image_id = tokenizer.convert_tokens_to_ids(_IMAGE_MARK)

    def video_indices(self, num_frames: int, fps: float) -> list[int]:  # noqa: ARG002  the same at every speed
        """Eight, evenly from the first to the last."""
        return [round(i) for i in np.linspace(0, max(num_frames - 1, 0), VIDEO_FRAMES)]

    def rate_picture(self, picture: np.ndarray) -> float:
        """See `Rater`."""
        return self._rate([_to_image(picture)], "Can you rate the quality of this picture?", "The quality of the image is")

    def rate_video(self, pictures: Sequence[np.ndarray]) -> float:
        """See `Rater`."""
        images = [_at_most(_to_image(picture), VIDEO_PX) for picture in pictures]
        return self._rate(images, "Can you rate the quality of this video?", "The quality of the video is")

    @torch.inference_mode()
    def _rate(self, images: "list[Image]", question: str, answer: str) -> float:
        content = [*({"type": "image"} for _ in images), {"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) + answer
        seen = self._image_processor(images=images, return_tensors="pt")
        # one mark in the text becomes as many as the picture has places; done here, because the ready-made processor
        # cannot be loaded without torchvision
        parts = text.split(_IMAGE_MARK)
        counts = seen["image_grid_thw"].prod(1) // self._image_processor.merge_size**2
        if len(parts) != len(counts) + 1:
            raise UserError("the chat template of Q-ReAlign's folder has no place for pictures: fetch the folder again")
        text = parts[0] + "".join(_IMAGE_MARK * int(n) + part for n, part in zip(counts, parts[1:], strict=True))
        ids = self._tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        device, dtype = self._model.device, self._model.dtype
        logits = self._model(
            input_ids=ids.to(device),
            attention_mask=torch.ones_like(ids).to(device),
            mm_token_type_ids=(ids == self._image_id).int().to(device),
            pixel_values=seen["pixel_values"].to(device, dtype),
            image_grid_thw=seen["image_grid_thw"].to(device),
        ).logits[0, -1, self._levels]
        return level_score(logits.float().cpu())


class OneAlign:
    """Q-Align as published, around a model that its own code has loaded elsewhere."""

    note = ""

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        """Takes an object with `score(images, task_=…, input_=…)` that answers on the scale of 1 to 5, as one-align's does."""
        self._model = model

    def video_indices(self, num_frames: int, fps: float) -> list[int]:
        """One for every second, all in one prompt."""
        return frames_a_second_apart(num_frames, fps)

    def rate_picture(self, picture: np.ndarray) -> float:
        """See `Rater`."""
        return _to_unit(self._model.score([_to_image(picture)], task_="quality", input_="image"))

    def rate_video(self, pictures: Sequence[np.ndarray]) -> float:
        """See `Rater`."""
        return _to_unit(self._model.score([[_to_image(p) for p in pictures]], task_="quality", input_="video"))


def load_judge(device: torch.device | str = "auto") -> QReAlign | None:
    """Q-ReAlign from the folder `q-realign-mini` of the user's weights or the cache; None where there is none.

    Raises
    ------
    UserError : this release of transformers does not know the network (it needs 5.2), or the folder is not complete.
    """
    own = hub.weights_folder()
    places = [*([] if own is None else [own]), hub.cache_folder() / "weights"]
    folder = next((place / REALIGN_FOLDER for place in places if (place / REALIGN_FOLDER / "config.json").is_file()), None)
    return None if folder is None else read_q_realign(folder, choose_device(str(device)))


def read_q_realign(folder: Path, device: torch.device | str = "cpu") -> QReAlign:
    """As `load_judge`, from that folder."""
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        image_processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto", local_files_only=True)
    except (OSError, ValueError, KeyError) as problem:
        reason = " ".join(str(problem).split())[:120]
        raise UserError(
            f"'{folder}' cannot be read as Q-ReAlign ({reason}): it needs transformers 5.2 and all files of {REALIGN_REPO}."
        ) from problem
    return QReAlign(model.to(device).eval(), tokenizer, image_processor)


def load_one_align() -> OneAlign:
    """The published Q-Align, with the code that is published beside its weights.

    Raises
    ------
    UserError : transformers 5 or newer, in which that code breaks; or files that are not here.
    """
    import transformers

    if int(transformers.__version__.split(".")[0]) >= 5:
        raise UserError(
            f"the code beside Q-Align's weights breaks in transformers {transformers.__version__} (it is for 4.36): rate with "
            "Q-ReAlign, or load one-align in an environment of its own and give it to OneAlign."
        )
    places = [hub.find(name) for name in ALIGN_FILES]
    folders = {place.parent for place in places if place is not None}
    if None in places or len(folders) != 1:
        raise UserError(f"{lacking('metrics-one-align')} (all in one folder).")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folders.pop(), trust_remote_code=True, attn_implementation="eager", dtype=torch.float16
    )
    return OneAlign(model.eval())


def _to_unit(score: Any) -> float:  # noqa: ANN401
    return (float(score) - 1) / 4


def _to_image(picture: np.ndarray) -> "Image":
    from PIL import Image

    return Image.fromarray(picture)


def _at_most(image: "Image", longest: int) -> "Image":
    scale = longest / max(image.size)
    return image if scale >= 1 else image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))))
