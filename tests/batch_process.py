"""A service of tiny weights, and a batch in a process that can be killed: `python batch_process.py MANIFEST WEIGHTS`."""

import sys
from pathlib import Path

from joyhallo.serve.batch import folder_beside, run_batch
from joyhallo.serve.settings import Settings


def settings_for(folder: Path, weights: Path, **changes: object) -> Settings:
    """A service of tiny weights that shares no lock with others on this machine."""
    given = {"render": {"model": str(weights), "device": "cpu", "dtype": "fp32"}, "polling_s": 0.05, **changes}
    return Settings(folder, device_lock=folder.with_name(folder.name + "-device"), **given)


if __name__ == "__main__":  # a batch in a process that can be killed: MANIFEST WEIGHTS
    for ended in run_batch(Path(sys.argv[1]), settings_for(folder_beside(Path(sys.argv[1])), Path(sys.argv[2]))):
        sys.stdout.write(f"{ended.line.number} {ended.status} {ended.note}\n")
        sys.stdout.flush()
