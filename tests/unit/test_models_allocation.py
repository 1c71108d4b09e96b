"""Memory that tensors free is kept for the next ones, and no more of it than they had."""

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
    def run(how):
        done = subprocess.run([sys.executable, "-c", _PROGRAM, how], capture_output=True, text=True, check=True)
        return [int(number) for number in done.stdout.split()]

    faults, grown_kb = run("keep")
    faults_before, _ = run("usual")
    assert faults < faults_before / 10
    assert grown_kb < 3 * 12_000  # of 60 tensors of 12 MB: no more than a turn has
