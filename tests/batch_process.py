"""A service of tiny weights, and a batch in a process that can be killed: `python batch_process.py MANIFEST WEIGHTS`."""

import sys
from pathlib import Path

from joyhallo.media.labels import read_label
from joyhallo.media.video import probe_video
from joyhallo.serve.batch import client_of_list, folder_beside, run_batch
from joyhallo.serve.records import Records
from joyhallo.serve.settings import Settings


def settings_for(folder: Path, weights: Path, **changes: object) -> Settings:
    """A service of tiny weights that shares no lock with others on this machine."""
    given = {"render": {"model": str(weights), "device": "cpu", "dtype": "fp32"}, "polling_s": 0.05, **changes}
    return Settings(folder, device_lock=folder.with_name(folder.name + "-device"), **given)


def assert_two_were_made_once(manifest: Path) -> None:
    """The list's videos 0.mp4 and 1.mp4 are whole and labelled, and each of its two jobs ran to its end once."""
    for number in range(2):
        assert probe_video(manifest.with_name(f"{number}.mp4")).num_frames == 25
        assert read_label(manifest.with_name(f"{number}.mp4")) is not None
    records = Records(f"sqlite:///{folder_beside(manifest) / 'jobs.sqlite'}")
    assert [job.finishes for job in records.of_client(client_of_list(manifest))] == [1, 1]
    records.close()


if __name__ == "__main__":  # a batch in a process that can be killed: MANIFEST WEIGHTS
    for ended in run_batch(Path(sys.argv[1]), settings_for(folder_beside(Path(sys.argv[1])), Path(sys.argv[2]))):
        sys.stdout.write(f"{ended.line.number} {ended.status} {ended.note}\n")
        sys.stdout.flush()
