"""`joyhallo models`: list, fetch, convert and check weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from joyhallo.cli import EXIT_SHORTFALL
from joyhallo.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from joyhallo.weights.hub import FetchProgress

app = App(name="models", help="List, fetch, convert and check weights.")

_SHOWN_EVERY_S = 0.5


@app.command(name="list")
def list_models(*, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False) -> int:
    """List the known weights: sources, sizes, hashes, licences, and which are here.

    Parameters
    ----------
    as_json
        Print one JSON object on standard output instead of text.
    """
    from joyhallo.weights import hub
    from joyhallo.weights.registry import SETS, known_file

    if as_json:
        print(json.dumps({"sets": [_described(entry.name) for entry in SETS]}, ensure_ascii=False))
        return 0
    for entry in SETS:
        print(f"{entry.name}: {entry.purpose}")
        if entry.is_bundled:
            is_here = (hub.bundled_folder(entry.name) / "model_index.json").is_file()
            print(f"  {'here' if is_here else 'missing'}, inside the package")
        for name in entry.files:
            file = known_file(name)
            place = hub.find(name)
            print(f"  {'here' if place else '-':>4}  {name}  ({file.purpose})")
            print(f"        {_size(file.size_bytes, file.about_bytes)}, sha256 {file.sha256 or 'unknown'}, {file.source}")
            print(f"        licence: {file.licence}{'; ' + file.note if file.note else ''}")
    print(f"cache: {hub.cache_folder()}   own folder (JOYHALLO_WEIGHTS): {hub.weights_folder() or 'not set'}")
    return 0


@app.command
def pull(name: str, /, *, source: Annotated[Path | None, Parameter(name="--from")] = None) -> int:
    """Fetch weights into the cache. An interrupted download goes on where it stopped.

    Parameters
    ----------
    name
        A set or a file of `joyhallo models list`, such as joyhallo-v1. HF_ENDPOINT names a mirror.
    source
        Copy from this folder instead of the network.
    """
    from joyhallo.weights.hub import fetch

    print(fetch(name, source=source, progress=_Meter().show))
    return 0


@app.command
def convert(
    source: Path,
    out: Path,
    /,
    *,
    variant: Literal["joyhallo", "hallo"] = "joyhallo",
    dtype: Literal["keep", "fp32", "bf16", "fp16"] = "keep",
) -> int:
    """Turn a published net.pth into a folder that `--model` takes. Memory holds one tensor at a time.

    Parameters
    ----------
    source
        net.pth, or a folder like the published pretrained_models.
    out
        The folder to write; it must not exist.
    variant
        Whose checkpoint it is.
    dtype
        Element type to store; "keep" as it is.
    """
    from joyhallo.device import DTYPES
    from joyhallo.weights.convert import convert as convert_published

    written = convert_published(source, out, variant, dtype=DTYPES.get(dtype), progress=_Meter().show)
    print(written)
    return 0


@app.command
def verify(
    *,
    goldens: Path,
    device: str = "auto",
    dtype: str = "fp32",
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Compare this build with goldens of the published code; exit code 1 where it falls short.

    Parameters
    ----------
    goldens
        A folder with golden_<variant>_{config.json,weights.safetensors,io.safetensors}.
    device
        auto, cpu, cuda, cuda:1 or mps.
    dtype
        auto, fp32, bf16 or fp16; the tolerances are those of fp32.
    as_json
        Print one JSON object on standard output instead of a table.
    """
    from joyhallo.device import choose_device, choose_dtype
    from joyhallo.weights.parity import compare_goldens

    if not goldens.is_dir():
        raise UserError(f"'{goldens}' is not a folder: name the folder that holds the goldens")
    where = choose_device(device)
    differences = []
    for found in compare_goldens(goldens, where, choose_dtype(dtype, where).value):
        differences.append(found)
        if not as_json:
            verdict = "equal" if found.is_equal else "DIFFERS"
            print(
                f"{found.variant:9} {found.quantity:44} {found.largest:.2e}  (≤ {found.tolerance:.0e})  {verdict}", flush=True
            )
    is_equal = all(found.is_equal for found in differences)
    if as_json:
        rows = [{k: getattr(d, k) for k in ("variant", "quantity", "largest", "tolerance", "is_equal")} for d in differences]
        print(json.dumps({"is_equal": is_equal, "differences": rows}))
    else:
        num_wrong = sum(not found.is_equal for found in differences)
        print(f"{len(differences)} quantities, {'all equal' if is_equal else f'{num_wrong} differ'} on {where}")
    return 0 if is_equal else EXIT_SHORTFALL


def _described(name: str) -> dict[str, object]:
    from joyhallo.weights import hub
    from joyhallo.weights.registry import known_file, known_set

    entry = known_set(name)
    assert entry is not None

    def rows() -> Iterator[dict[str, object]]:
        for path in entry.files:
            file, place = known_file(path), hub.find(path)
            yield {
                "name": path,
                "purpose": file.purpose,
                "source": str(file.source),
                "size_bytes": file.size_bytes,
                "sha256": file.sha256,
                "licence": file.licence,
                "path": None if place is None else str(place),
            }

    return {"name": name, "purpose": entry.purpose, "is_bundled": entry.is_bundled, "files": list(rows())}


def _size(exact: int | None, about: int | None) -> str:
    num_bytes = exact or about
    if num_bytes is None:
        return "size unknown"
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= scale:
            return f"{'' if exact else 'about '}{num_bytes / scale:.1f} {unit}"
    return f"{'' if exact else 'about '}{num_bytes} bytes"


class _Meter:
    """Bytes so far on one line of standard error, on terminals only."""

    def __init__(self) -> None:
        self.shown_at = 0.0

    def show(self, progress: FetchProgress) -> None:
        import time

        if not sys.stderr.isatty():
            return
        now, is_last = time.monotonic(), progress.done_bytes == progress.total_bytes
        if is_last or now - self.shown_at > _SHOWN_EVERY_S:
            self.shown_at = now
            total = f" of {_size(progress.total_bytes, None)}" if progress.total_bytes else ""
            print(f"\r{progress.name}: {_size(progress.done_bytes, None)}{total}    ", end="", file=sys.stderr, flush=True)
            if is_last:
                print(file=sys.stderr)
