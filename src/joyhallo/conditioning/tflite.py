"""A tflite network with one picture as its input, run by LiteRT."""

import os
import tempfile
import threading
from contextlib import ExitStack
from typing import Any

import numpy as np

_STDERR = 2
_NOTICE = b"Created TensorFlow Lite XNNPACK delegate"
_allocating = threading.Lock()
_was_noticed = threading.Event()  # LiteRT gives its notice once in a process


class TfliteNetwork:
    """Ready to run; not for use from several threads at once."""

    def __init__(self, content: bytes, num_threads: int) -> None:
        """Takes the content of a tflite file."""
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_content=content, num_threads=num_threads)
        with _allocating:
            _allocate_quietly(self._interpreter)
        details = self._interpreter.get_input_details()[0]
        self._input_index = details["index"]
        self.input_size = int(details["shape"][1])
        self._output_indices = [d["index"] for d in self._interpreter.get_output_details()]

    def run(self, pixels: np.ndarray) -> list[np.ndarray]:
        """All outputs for `pixels` [1, S, S, 3] float32."""
        self._interpreter.set_tensor(self._input_index, pixels)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._output_indices]


def _allocate_quietly(interpreter: Any) -> None:  # noqa: ANN401
    """Allocate without LiteRT's notice, on standard error, that it computes on the CPU.

    There is no switch for it: neither a variable nor a function. So the first time standard error is a file for as long as
    allocating takes (milliseconds), and what else is written there by then, from any thread, is passed on.
    """
    if _was_noticed.is_set():
        interpreter.allocate_tensors()
        return
    with ExitStack() as opened:
        try:
            screen = opened.enter_context(os.fdopen(os.dup(_STDERR), "wb", buffering=0))
            kept = opened.enter_context(tempfile.TemporaryFile())
        except OSError:  # there is no standard error, or no place for the file
            interpreter.allocate_tensors()
            return
        os.dup2(kept.fileno(), _STDERR)
        try:
            interpreter.allocate_tensors()
        finally:
            os.dup2(screen.fileno(), _STDERR)
            kept.seek(0)
            for line in kept:
                if _NOTICE in line:
                    _was_noticed.set()
                else:
                    screen.write(line)
