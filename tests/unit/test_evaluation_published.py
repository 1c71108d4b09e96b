"""The paper's columns without their weights: every one is there, empty, with the command that mends it."""

import numpy as np
import pytest

from joyhallo.evaluation.catalogue import choose_metrics
from joyhallo.evaluation.columns import PAPER
from joyhallo.evaluation.suite import Tools, evaluate_film
from made_films import made_film, made_points, still, tone


@pytest.fixture(scope="module")
def film():
    points = made_points(np.zeros(6), np.full(6, 0.6), np.full(6, 2.0), still(6))
    return made_film(points, [np.full((64, 48, 3), 10 * index, np.uint8) for index in range(6)], tone(np.full(6, 0.3)))


def test_every_column_of_the_paper_says_what_is_missing(film, monkeypatch, tmp_path):
    monkeypatch.setenv("JOYHALLO_CACHE", str(tmp_path))
    monkeypatch.delenv("JOYHALLO_WEIGHTS", raising=False)
    report = evaluate_film(film, choose_metrics(["paper"]), Tools())
    found = {measure.name: measure for measure in report.measures}
    assert {column.name for column in PAPER} <= set(found)
    for column in PAPER:
        assert found[column.name].value is None
        assert "joyhallo models pull metrics" in found[column.name].note or "hf download" in found[column.name].note, (
            column.name
        )


def test_networks_are_loaded_once():
    calls = []

    def load() -> str:
        calls.append(1)
        return "network"

    tools = Tools()
    assert [tools.experts.get(load), tools.experts.get(load)] == ["network", "network"]
    assert len(calls) == 1
