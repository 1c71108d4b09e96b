"""`joyhallo doctor`: what is installed, what is missing, and the command that mends it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from joyhallo._version import __version__
from joyhallo.cli import EXIT_SHORTFALL
from joyhallo.cores import num_cores

if TYPE_CHECKING:
    from collections.abc import Iterator

_CORE = {
    "torch": "networks",
    "diffusers": "pipeline",
    "transformers": "speech encoder",
    "safetensors": "weights",
    "numpy": "arrays",
    "pillow": "pictures",
    "opencv-python-headless": "masks and paste-back",
    "av": "sound and video",
    "soxr": "resampling",
    "ai-edge-litert": "face models",
    "cyclopts": "command line",
    "rich": "progress bars",
    "filelock": "one process at a time",
    "huggingface-hub": "fetching weights",
}
_EXTRAS = {
    "official": {"insightface": "face embedding of the published weights", "onnxruntime": "runs it"},
    "vocals": {"onnxruntime": "voice separation"},
    "labels": {"c2pa-python": "signing with C2PA"},
    "train": {"scipy": "training data", "pypinyin": "Mandarin text", "tensorboard": "curves of a training"},
    "serve": {"fastapi": "HTTP API", "gradio": "page", "dbos": "durable queue"},
    "cluster": {"ray": "data preparation on several machines"},
}
_SCARCE_BYTES = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    topic: str
    state: str  # "ok", "optional" (missing, and only some commands need it) or "missing"
    text: str
    remedy: str | None = None


def doctor(*, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False) -> int:
    """Say what is installed, which device runs, which weights are here, what is missing and the command that mends it.

    Parameters
    ----------
    as_json
        Print one JSON object on standard output instead of text.
    """
    findings = []
    for look in (_system, _packages, _extras, _device, _codecs, _weights):
        for finding in look():
            findings.append(finding)
            if not as_json:
                _show(finding)
    missing = [finding for finding in findings if finding.state == "missing"]
    if as_json:
        print(json.dumps({"is_ready": not missing, "findings": [asdict(f) for f in findings]}, ensure_ascii=False))
    else:
        print("everything needed is here" if not missing else f"{len(missing)} needed things are missing: see above")
    return EXIT_SHORTFALL if missing else 0


def _show(finding: Finding) -> None:
    sign = {"ok": "ok", "optional": "--", "missing": "!!"}[finding.state]
    print(f"{sign}  {finding.topic:10} {finding.text}", flush=True)
    if finding.remedy is not None:
        print(f"    {'':10} to mend it: {finding.remedy}", flush=True)


def _system() -> Iterator[Finding]:
    text = f"JoyHallo {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield Finding("system", "ok", f"{text}, {num_cores()} CPUs")
    from joyhallo.weights.hub import cache_folder

    folder = cache_folder()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    is_writable = os.access(folder, os.W_OK)
    text = f"cache {cache_folder()}, {free / 1e9:.1f} GB free"
    if not is_writable:
        yield Finding("system", "missing", f"{text}, not writable", "export JOYHALLO_CACHE=/a/folder/you/may/write")
    elif free < _SCARCE_BYTES:
        yield Finding("system", "missing", text, "free some space, or export JOYHALLO_CACHE=/a/larger/disk")
    else:
        yield Finding("system", "ok", text)


def _version_of(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _packages() -> Iterator[Finding]:
    for package, purpose in _CORE.items():
        found = _version_of(package)
        if found is None:
            remedy = f"{sys.executable} -m pip install {package}"
            yield Finding("package", "missing", f"{package} is not installed ({purpose})", remedy)
        else:
            yield Finding("package", "ok", f"{package} {found} ({purpose})")


def _extras() -> Iterator[Finding]:
    for extra, packages in _EXTRAS.items():
        lacking = [f"{package} ({purpose})" for package, purpose in packages.items() if _version_of(package) is None]
        if lacking:
            remedy = f"{sys.executable} -m pip install 'joyhallo[{extra}]'"
            yield Finding("extra", "optional", f"{extra}: {', '.join(lacking)} not installed", remedy)
        else:
            yield Finding("extra", "ok", f"{extra}: {', '.join(packages)}")


def _device() -> Iterator[Finding]:
    if _version_of("torch") is None:
        return
    import torch

    from joyhallo.device import choose_device, choose_dtype, dtype_name

    device = choose_device()
    choice = choose_dtype("auto", device)
    yield Finding("device", "ok", f"{device}, {torch.get_num_threads()} threads; {dtype_name(choice.value)}: {choice.reason}")


def _codecs() -> Iterator[Finding]:
    if _version_of("av") is None:
        return
    from av.codec.codec import Codec, UnknownCodecError

    for name, purpose in (("libx264", "H.264 video"), ("aac", "AAC sound")):
        try:
            Codec(name, "w")
        except UnknownCodecError:
            remedy = f"{sys.executable} -m pip install --force-reinstall av"
            yield Finding("codec", "missing", f"PyAV has no encoder {name} ({purpose})", remedy)
        else:
            yield Finding("codec", "ok", f"{name} ({purpose})")


def _weights() -> Iterator[Finding]:
    from joyhallo.weights import hub
    from joyhallo.weights.registry import SETS

    for entry in SETS:
        if entry.is_bundled:
            folder = hub.bundled_folder(entry.name)
            is_here = (folder / "model_index.json").is_file()
            remedy = None if is_here else f"{sys.executable} -m pip install --force-reinstall joyhallo"
            text = f"{entry.name}: {entry.purpose}{'' if is_here else f' are not in {folder}'}"
            yield Finding("weights", "ok" if is_here else "missing", text, remedy)
            continue
        lacking = [name for name in entry.files if hub.find(name) is None]
        own = hub.own_face_models() if entry.name == "face-models" else None
        if lacking and own is not None:
            yield Finding("weights", "ok", f"{entry.name}: {entry.purpose} (from {own})")
            continue
        if lacking:
            text = f"{entry.name}: {len(lacking)} of {len(entry.files)} files are not here ({entry.purpose})"
            yield Finding("weights", "optional", text, f"joyhallo models pull {entry.name}")
        else:
            yield Finding("weights", "ok", f"{entry.name}: {entry.purpose}")
