"""LiteRT's notice is kept off standard error, and nothing else is."""

import os
import subprocess
import sys

from talking import open_face_mesh

PROGRAM = """
import os, sys, threading, time
from joyhallo.conditioning.face import FaceMesh
from joyhallo.weights import hub

stop = threading.Event()

def say():
    number = 0
    while not stop.is_set():
        os.write(2, f"line {number}\\n".encode())
        number += 1
        time.sleep(0.0001)

thread = threading.Thread(target=say)
thread.start()
FaceMesh.from_path(hub.face_models_path())
stop.set()
thread.join()
os.write(2, b"end\\n")
"""


def test_only_the_notice_is_kept_back():
    open_face_mesh()
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=dict(os.environ))
    *lines, end = done.stderr.splitlines()
    assert end == "end"
    assert sorted(lines) == sorted(f"line {number}" for number in range(len(lines)))


def test_a_process_without_standard_error_finds_faces_too():
    open_face_mesh()
    program = "import os; os.close(2)\n" + PROGRAM.replace("os.write(2,", "len(")
    subprocess.run([sys.executable, "-c", program], check=True, env=dict(os.environ))
