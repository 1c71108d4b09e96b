"""Weights of the published metrics. Animating and training need none of them.

Sources are copies on the hub of what the metrics' own code fetches elsewhere, in the layout that transformers reads where there
is one: the numbers are the same.
"""

from joyhallo.weights.entries import HubFile, KnownFile, WeightsSet

SYNCNET_FILE = "syncnet/syncnet_v2.model"
S3FD_FILE = "syncnet/sfd_face.pth"
DINO_FILES = ("dino-vitb16/config.json", "dino-vitb16/pytorch_model.bin")
CLIP_FILES = ("clip-vit-base-patch32/config.json", "clip-vit-base-patch32/pytorch_model.bin")
AMT_FILE = "amt/amt-s.pth"
REALIGN_REPO, REALIGN_FOLDER = "q-future/Q-ReAlign-Mini-0.8B", "q-realign-mini"  # Apache-2.0; fetched as a whole folder

_VGG = "Creative Commons Attribution, for research purposes (VGG group's page)"
_DINO, _CLIP = "facebook/dino-vitb16", "openai/clip-vit-base-patch32"
_ALIGN = "q-future/one-align"
_ALIGN_LICENCE = "MIT by its card; made from LLaMA-2, whose licence applies too"
_SYNC = "ByteDance/LatentSync-1.6"

_ALIGN_SMALL = (
    "config.json",
    "configuration_mplug_owl2.py",
    "generation_config.json",
    "modeling_attn_mask_utils.py",
    "modeling_llama2.py",
    "modeling_mplug_owl2.py",
    "preprocessor_config.json",
    "pytorch_model.bin.index.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "visual_encoder.py",
)
_ALIGN_LARGE = (
    ("pytorch_model-00001-of-00002.bin", 9_990_000_000, "ca4cdc96237832a9eb3486274de0b10fa7235d5007ee6cff49320c7250970fe3"),
    ("pytorch_model-00002-of-00002.bin", 6_420_000_000, "d445a50608f025a39ac75c6da13cb9d12a4cc923f6e1b9abc4b767408eac0729"),
)
ALIGN_FILES = tuple(f"one-align/{name}" for name in (*_ALIGN_SMALL, *(name for name, _, _ in _ALIGN_LARGE)))

METRIC_FILES = (
    KnownFile(
        SYNCNET_FILE,
        "judges lips and sound (Sync-C, Sync-D)",
        HubFile(_SYNC, "auxiliary/syncnet_v2.model"),
        _VGG,
        size_bytes=54_573_114,
        sha256="961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442",
    ),
    KnownFile(
        S3FD_FILE,
        "finds the faces that it judges",
        HubFile(_SYNC, "auxiliary/sfd_face.pth"),
        _VGG,
        size_bytes=89_844_381,
        sha256="d54a87c2b7543b64729c9a25eafd188da15fd3f6e02f0ecec76ae1b30d86c491",
    ),
    KnownFile(DINO_FILES[0], "its configuration", HubFile(_DINO, "config.json"), "Apache-2.0", about_bytes=454),
    KnownFile(
        DINO_FILES[1],
        "subject consistency (Subject)",
        HubFile(_DINO, "pytorch_model.bin"),
        "Apache-2.0",
        about_bytes=343_000_000,
    ),
    KnownFile(CLIP_FILES[0], "its configuration", HubFile(_CLIP, "config.json"), "MIT", about_bytes=4_200),
    KnownFile(
        CLIP_FILES[1],
        "background consistency (Background)",
        HubFile(_CLIP, "pytorch_model.bin"),
        "MIT",
        about_bytes=605_000_000,
        sha256="a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f",
    ),
    KnownFile(
        AMT_FILE,
        "frame interpolation (Smooth)",
        HubFile("lalala125/AMT", "amt-s.pth"),
        "CC BY-NC 4.0: not for commercial use",
    ),
    *(KnownFile(f"one-align/{name}", "part of Q-Align", HubFile(_ALIGN, name), _ALIGN_LICENCE) for name in _ALIGN_SMALL),
    *(
        KnownFile(
            f"one-align/{name}", "Q-Align (IQA, VQA)", HubFile(_ALIGN, name), _ALIGN_LICENCE, about_bytes=size, sha256=sha
        )
        for name, size, sha in _ALIGN_LARGE
    ),
)

METRIC_SETS = (
    WeightsSet("metrics-sync", "Sync-C and Sync-D of `joyhallo evaluate`", (SYNCNET_FILE, S3FD_FILE)),
    WeightsSet("metrics-consistency", "Subject and Background of `joyhallo evaluate`", (*DINO_FILES, *CLIP_FILES)),
    WeightsSet("metrics", "both of these (1.1 GB)", (SYNCNET_FILE, S3FD_FILE, *DINO_FILES, *CLIP_FILES)),
    WeightsSet("metrics-smooth", "Smooth of `joyhallo evaluate`; not for commercial use", (AMT_FILE,)),
    WeightsSet("metrics-one-align", "the published IQA and VQA (16 GB)", ALIGN_FILES),
)
