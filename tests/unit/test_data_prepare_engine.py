"""Work in processes: killed ones, errors of the program, errors of the user. Real processes, and Ray where it is installed."""

import errno
import functools
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from joyhallo.data.preparation.engine import LocalCrew, RayCrew, run_all
from joyhallo.errors import UserError


def build(folder):
    return functools.partial(work, folder)


def build_wrongly():
    raise UserError("a model is missing: install it")


def work(folder, task):
    """Does what the task's name says, and leaves a mark for every try."""
    tries = len(list(folder.glob(f"{task}.*")))
    (folder / f"{task}.{tries}.{os.getpid()}").touch()
    if task.startswith("deadly") or (task.startswith("unlucky") and tries == 0):
        os.kill(os.getpid(), signal.SIGKILL)
    if task.startswith("wrong"):
        raise KeyError("nose")
    if task.startswith("full"):
        raise OSError(errno.ENOSPC, "No space left on device")
    if task.startswith("mended"):
        raise UserError("free some space")
    return task.upper()


def crew_of(name, folder):
    if name == "local":
        return LocalCrew(functools.partial(build, folder))
    ray = pytest.importorskip("ray")
    if not ray.is_initialized():  # a node must find this module; the package itself is installed there
        path = {"PYTHONPATH": str(Path(__file__).parent)}
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": path})
    return RayCrew(functools.partial(build, folder))


@pytest.fixture(autouse=True, scope="module")
def _end_of_ray():
    yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def tries(folder, task):
    return len(list(folder.glob(f"{task}.*")))


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_killed_worker_costs_its_task_one_try_and_nothing_else(tmp_path, engine):
    tasks = ["a", "deadly", "b", "unlucky", "c", "wrong"]
    answers = {answer.task: answer for answer in run_all(crew_of(engine, tmp_path), tasks, 2)}
    assert set(answers) == set(tasks)
    assert {task: answer.result for task, answer in answers.items() if answer.problem is None} == {
        "a": "A",
        "b": "B",
        "c": "C",
        "unlucky": "UNLUCKY",
    }
    assert "killed" in answers["deadly"].problem
    assert answers["wrong"].problem == "KeyError: 'nose'"
    assert [tries(tmp_path, task) for task in tasks] == [1, 2, 1, 2, 1, 1]


def test_processes_are_kept_for_the_next_task(tmp_path):
    tasks = [f"t{number}" for number in range(5)]
    list(run_all(crew_of("local", tmp_path), tasks, 1))
    processes = {file.name.rsplit(".", 1)[1] for file in tmp_path.iterdir()}
    assert len(processes) == 1
    assert str(os.getpid()) not in processes


@pytest.mark.parametrize(("task", "message"), [("full", "No space left"), ("mended", "free some space")])
def test_what_the_user_must_mend_stops_everything(tmp_path, task, message):
    with pytest.raises(UserError, match=message):
        list(run_all(crew_of("local", tmp_path), [task, "a", "b"], 1))
    assert tries(tmp_path, task) == 1
    assert tries(tmp_path, "b") == 0


def test_what_the_workers_lack_is_told():
    with pytest.raises(UserError, match="a model is missing"):
        list(run_all(LocalCrew(build_wrongly), ["a"], 1))


def children():
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return path.read_text().split() if path.exists() else []


def test_no_process_stays_behind(tmp_path):
    before = set(children())
    answers = run_all(crew_of("local", tmp_path), ["a", "b", "c"], 2)
    next(answers)
    answers.close()
    for _ in range(50):
        left = set(children()) - before
        names = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left if Path(f"/proc/{pid}/cmdline").exists()]
        if not [name for name in names if b"spawn_main" in name]:
            return
        time.sleep(0.1)
    raise AssertionError(f"still there: {names}")
