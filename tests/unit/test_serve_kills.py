"""Clients over HTTP, and a service that is killed under them: the benchmark of the service, made small."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("dbos")
pytest.importorskip("fastapi")
pytest.importorskip("httpx")

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "service.py"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_no_job_is_lost_none_runs_twice_and_none_is_open_to_others():
    command = [sys.executable, str(BENCHMARK), "--jobs", "4", "--clients", "2", "--kills", "1", "--kill-within-s", "6"]
    command += ["--load-s", "0.5", "--port", str(free_port())]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["done_once"] == found["rows"] == 4
    assert found["kills"] == 1
    assert found["foreign_secrets_refused"] == 3
