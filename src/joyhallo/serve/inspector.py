"""The process that looks at what strangers send: `python -m joyhallo.serve.inspector BYTES`, with that much memory.

It decodes a portrait and a speech and writes them anew, plain: what a damaged or hostile file can do, it does here, and the
process that renders sees only what this one wrote. Places and names that a camera stored do not survive either.
"""

import functools
import resource
import sys
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from joyhallo.errors import UserError
from joyhallo.serve.child import Parent

_RATE_HZ = 48_000
_SILENT = 10 ** (-60 / 20)  # of full scale, as the loudest sample
_SHOWN_PX = 512
_COLORS = {"lip": (230, 60, 90), "expression": (60, 140, 230)}


def main(num_bytes: int) -> None:
    """Answer messages {"model"}, or {"portrait", "speech", "folder", "max_pixels", "max_s", "face_index", "size",
    "face_share"}."""
    resource.setrlimit(resource.RLIMIT_AS, (num_bytes, num_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    parent = Parent()
    for message in parent.messages():
        try:
            if "model" in message:
                parent.say(end="taken", sampling=sampling_of(message["model"]))
                continue
            found: dict[str, Any] = {}
            folder = Path(message["folder"])
            if message.get("speech"):
                found["speech"] = take_speech(Path(message["speech"]), folder / "speech.wav", message["max_s"])
            if message.get("portrait"):
                found["portrait"] = take_portrait(Path(message["portrait"]), folder, message)
            parent.say(end="taken", **found)
        except UserError as error:
            parent.say(end="refused", note=str(error))
        except MemoryError:
            parent.say(end="refused", note="the file needs too much memory: give a smaller one")


def sampling_of(model: str) -> dict[str, Any]:
    """The fields of `Sampling` of a model's folder; one of the hub is fetched.

    Raises:
        UserError: there is no such model.
    """
    from joyhallo.weights.pipeline_folder import INDEX, find_folder, read_json

    return dict(read_json(find_folder(model) / INDEX).get("sampling", {}))


def take_speech(given: Path, written: Path, max_s: float) -> dict[str, Any]:
    """Decode a recording, block by block, into a mono WAV of 48 kHz.

    Raises:
        UserError: it cannot be decoded, is too long, or is silent.
    """
    from joyhallo.media.audio import stream_speech

    num_samples, loudest = 0, 0.0
    with wave.open(str(written), "wb") as file:
        file.setparams((1, 2, _RATE_HZ, 0, "NONE", ""))
        for block in stream_speech(given, _RATE_HZ):
            num_samples += len(block)
            if num_samples > max_s * _RATE_HZ:
                raise UserError(f"the speech lasts more than {max_s:g} s, which is the limit here: give a shorter one")
            loudest = max(loudest, float(np.abs(block).max()))
            file.writeframes((block.clip(-1, 1) * 32_767).astype("<i2").tobytes())
    if loudest < _SILENT:
        raise UserError("the speech is silent: give a recording with speech in it")
    return {"duration_s": num_samples / _RATE_HZ}


def take_portrait(given: Path, folder: Path, message: Mapping[str, Any]) -> dict[str, Any]:
    """Decode a picture into a PNG, find the face, and draw what will be animated into crop.jpg.

    Raises:
        UserError: it cannot be decoded, is too large, or has no face that can be used.
    """
    from PIL import Image

    from joyhallo.conditioning.portrait import choose_face, frame_crop
    from joyhallo.conditioning.softened_look import find_faces
    from joyhallo.media.image import read_image

    picture = read_image(given, message["max_pixels"])
    faces, _ = find_faces(_mesh(), picture)
    size = (picture.shape[0], picture.shape[1])
    face = choose_face(faces, size, message.get("face_index"))
    shown = picture
    top = left = 0
    if message.get("face_share") is not None:
        crop = frame_crop(face.landmarks, size, tuple(message["size"]), message["face_share"])
        top, left = crop.top, crop.left
        shown = crop.of(picture)
    _draw(shown, face.landmarks - np.array([left, top, 0], np.float32)).save(folder / "crop.jpg", quality=85)
    Image.fromarray(picture).save(folder / "portrait.png", compress_level=1)
    return {"height": size[0], "width": size[1], "num_faces": len(faces), "crop": [top, left, *shown.shape[:2]]}


@functools.cache
def _mesh() -> Any:  # noqa: ANN401 (a FaceMesh, whose import is slow)
    from joyhallo.conditioning.face import FaceMesh
    from joyhallo.weights.hub import face_models_path

    return FaceMesh.from_path(face_models_path())


def _draw(shown: np.ndarray, landmarks: np.ndarray) -> Any:  # noqa: ANN401 (a Pillow image)
    """The animated part with the rectangles of the lip and the expression region."""
    from PIL import Image, ImageDraw

    from joyhallo.conditioning.anatomy import LIPS, SILHOUETTE
    from joyhallo.conditioning.masks import FACE_EXPAND, LIP_EXPAND, expanded_box

    size = (shown.shape[0], shown.shape[1])
    scale = _SHOWN_PX / max(size)
    image = Image.fromarray(np.ascontiguousarray(shown)).resize((round(size[1] * scale), round(size[0] * scale)))
    draw = ImageDraw.Draw(image)
    for name, points, expand in (("expression", SILHOUETTE, FACE_EXPAND), ("lip", LIPS, LIP_EXPAND)):
        box = [float(each) * scale for each in expanded_box(landmarks, points, size, expand)]
        draw.rectangle(box, outline=_COLORS[name], width=3)
    return image


if __name__ == "__main__":
    main(int(sys.argv[1]))
