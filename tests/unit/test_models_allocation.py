"""Memory that tensors free is kept for the next ones, and no more of it than they had."""

import os
import subprocess
import sys

import pytest

_PROGRAM = """
import resource, sys, torch
from joyhallo.models.allocation import keep_freed_memory
torch.set_num_threads(1)
kept = sys.argv[1] == "keep"
assert not kept or keep_freed_memory()
def turn():
    with torch.no_grad():
        a = torch.ones(3_000_000)  # 12 MB
        b = a + 1
        del a
        return float((b * 2).sum())
for _ in range(5):
    turn()
before = resource.getrusage(resource.RUSAGE_SELF)
for _ in range(20):
    assert turn() == 12_000_000
after = resource.getrusage(resource.RUSAGE_SELF)
print(after.ru_minflt - before.ru_minflt, after.ru_maxrss - before.ru_maxrss)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_pages_are_not_cleared_anew_and_memory_stays_flat():
    first_thresholds = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}  # glibc raises them after frees, when it will

    def run(how):
        command = [sys.executable, "-c", _PROGRAM, how]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=first_thresholds)
        return [int(number) for number in done.stdout.split()]

    pages = 12_000_000 // os.sysconf("SC_PAGESIZE")  # of one of the 60 tensors
    faults, grown_kb = run("keep")
    faults_before, _ = run("usual")
    assert faults_before > 50 * pages
    assert faults < 4 * pages  # no more than one turn has: a hole that something small took a part of
    assert grown_kb < 4 * 12_000
