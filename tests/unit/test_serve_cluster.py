"""A list of videos over a Ray cluster: its division, and the same jobs with the same promises on its nodes."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("dbos")

from batch_process import assert_two_were_made_once, settings_for
from joyhallo.cli import main
from joyhallo.errors import UserError
from joyhallo.serve.batch import folder_beside, run_batch
from joyhallo.serve.cluster import Cluster, Share, divide
from serving import PORTRAIT, write_speech, write_weights

FOUR, EIGHT = {"CPU": 4.0, "memory": 1e9}, {"CPU": 8.0, "GPU": 2.0}


@pytest.mark.parametrize(
    ("nodes", "device", "workers", "expected"),
    [
        ([FOUR, FOUR], "auto", None, Share(8, 1, 0)),
        ([FOUR, FOUR], "auto", 2, Share(2, 4, 0)),
        ([FOUR, FOUR, FOUR], "cpu", 4, Share(4, 2, 0)),  # three each would leave one without a place
        ([FOUR, EIGHT], "auto", None, Share(2, 1, 1)),
        ([FOUR, EIGHT, EIGHT], "cuda", 3, Share(3, 1, 1)),
        ([FOUR, EIGHT], "cpu", 1, Share(1, 8, 0)),
        ([{"CPU": 500.0}], "cpu", None, Share(64, 7, 0)),
    ],
)
def test_a_cluster_is_divided_so_that_every_video_has_a_place(nodes, device, workers, expected):
    assert divide(nodes, device, workers) == expected


@pytest.mark.parametrize(
    ("nodes", "device", "workers", "message"),
    [
        ([FOUR], "cuda", None, "no node of the cluster has a GPU"),
        ([FOUR], "auto", 5, "room for 4"),
        ([EIGHT], "auto", 3, "room for 2"),
        ([EIGHT], "cuda:1", None, "Ray hands out the devices"),
    ],
)
def test_more_than_there_is_is_refused_in_one_line(nodes, device, workers, message):
    with pytest.raises(UserError, match=message):
        divide(nodes, device, workers)


def test_without_ray_the_command_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "list.jsonl").write_text("{}")
    assert main(["batch", str(tmp_path / "list.jsonl"), "--engine", "ray"]) == 2
    assert "pip install 'joyhallo[cluster]'" in capsys.readouterr().err


def renderers(lock: Path) -> list[int]:
    """The processes that render with that lock."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode()
        except OSError:
            continue
        if "joyhallo.serve.worker" in command and str(lock) in command:
            found.append(int(folder.name))
    return found


@pytest.fixture
def ray():
    module = pytest.importorskip("ray")
    path = {"PYTHONPATH": str(Path(__file__).parent)}
    module.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": path})
    yield module
    module.shutdown()


@pytest.mark.usefixtures("ray")
def test_a_list_over_a_cluster_and_a_process_of_it_that_is_killed(tmp_path):
    weights, manifest = write_weights(tmp_path / "weights"), tmp_path / "list.jsonl"
    write_speech(tmp_path / "speech.wav", 1.0)
    lines = [{"portrait": str(PORTRAIT), "speech": "speech.wav", "output": f"{i}.mp4", "seed": i} for i in range(2)]
    manifest.write_text("\n".join(map(json.dumps, lines)))
    cluster = Cluster("cpu")
    assert cluster.share == Share(2, 1, 0)
    settings = settings_for(folder_beside(manifest), weights, workers=cluster.share.workers)
    killed, at_once = [], []

    def kill_one(_line, job):
        at_once.append(len(renderers(settings.device_lock)))
        if job.progress.get("clips_done") and not killed:
            killed.append(renderers(settings.device_lock)[0])
            os.kill(killed[0], signal.SIGKILL)

    ended = list(run_batch(manifest, settings, on_progress=kill_one, hire=cluster.hire))
    assert sorted(each.status for each in ended) == ["done", "done"]
    assert killed
    assert max(at_once) == 2  # both lines at the same time
    assert any("went on after clip" in each.note for each in ended)
    assert_two_were_made_once(manifest)
    deadline = time.monotonic() + 30
    while renderers(settings.device_lock):  # none outlives the run
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert threading.active_count() < 50
