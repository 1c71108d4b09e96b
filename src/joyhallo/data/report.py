"""report.jsonl of a dataset: a line for every video and every part of one, kept or rejected, and why."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from joyhallo.data.index import DatasetError
from joyhallo.media.files import writing_error

REPORT_NAME = "report.jsonl"


@dataclass(frozen=True)
class ReportLine:
    """What became of a video (`key` None) or of a part of it."""

    source: str
    key: str | None
    is_kept: bool
    reason: str | None  # of a rejection, in the same few words each time, because reasons are counted: "no face"
    detail: str = ""  # what was measured, what is needed
    start_s: float | None = None
    end_s: float | None = None


def append_lines(dataset_folder: Path, lines: Iterable[ReportLine]) -> None:
    """Add lines at the end of the report, at once. Raises DatasetError when they cannot be written."""
    path = Path(dataset_folder) / REPORT_NAME
    text = "".join(json.dumps(asdict(line), ensure_ascii=False) + "\n" for line in lines)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as problem:
        raise writing_error(problem, path, "report", DatasetError) from problem


def read_lines(dataset_folder: Path) -> list[dict[str, object]]:
    """All lines; one that was cut short by a full disk or a power cut is left out, a report that is not there is empty."""
    path = Path(dataset_folder) / REPORT_NAME
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            values = json.loads(text)
        except ValueError:
            continue
        if isinstance(values, dict):
            lines.append(values)
    return lines
