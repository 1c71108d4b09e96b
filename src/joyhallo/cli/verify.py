"""`joyhallo verify`: what marks of AI content a file carries."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from joyhallo.cli import EXIT_SHORTFALL


def verify(file: Path, /, *, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False) -> int:
    """Say what marks of AI content a file carries. Exit code 1 when the embedded label is absent or broken.

    Parameters
    ----------
    file
        A video that JoyHallo or another program made.
    as_json
        Print one JSON object on standard output instead of text.
    """
    from joyhallo.media.labels import verify_file

    report = verify_file(file)
    if as_json:
        label = None if report.aigc is None else asdict(report.aigc)
        found = {"file": str(report.path), "is_sound": report.is_sound, "aigc": label, "aigc_note": report.aigc_note}
        print(json.dumps(found | {"c2pa": asdict(report.c2pa)}, ensure_ascii=False))
    else:
        print(f"embedded label (AIGC): {report.aigc_note}")
        print(f"signature (C2PA):      {report.c2pa.state}, {report.c2pa.note}")
        print("visible mark:          for the eye alone: look at the first seconds")
    return 0 if report.is_sound else EXIT_SHORTFALL
