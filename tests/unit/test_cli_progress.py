"""The bar of the commands: on a terminal only; elsewhere lines, and those alone that a command wants."""

import io
import sys

import pytest

from joyhallo.cli.progress import Bar, shown, time_left


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def show_three(stream, monkeypatch) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    with shown(lambda n: Bar("clips", n, 3, f"text {n}"), lambda n: f"line {n}" if n % 2 else None) as show:
        for number in (1, 2, 3):
            show(number)
    return stream.getvalue()


def test_lines_where_there_is_no_terminal(monkeypatch):
    assert show_three(io.StringIO(), monkeypatch) == "line 1\nline 3\n"


def test_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    text = show_three(Terminal(), monkeypatch)
    assert "clips" in text
    assert "text 3" in text
    assert "line" not in text


@pytest.mark.parametrize(
    ("left_s", "text"),
    [(None, ""), (0.4, ", 0:00 left"), (125.2, ", 2:05 left"), (3599.7, ", 1:00:00 left"), (36610, ", 10:10:10 left")],
)
def test_the_time_left(left_s, text):
    assert time_left(left_s) == text
