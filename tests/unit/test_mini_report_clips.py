"""The clips of the report: made once for the same weights and code."""

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from joyhallo.data.synthesis.stills import Still  # noqa: E402
from joyhallo.errors import UserError  # noqa: E402
from mini_report import clips, sayings, traces  # noqa: E402


def test_other_weights_have_another_folder(tmp_path):
    weights = tmp_path / "weights"
    (weights / "vae").mkdir(parents=True)
    (weights / "model_index.json").write_text("{}")
    (weights / "vae" / "x.safetensors").write_bytes(b"1234")
    before = clips.fingerprint(str(weights))
    assert before == clips.fingerprint(str(weights))
    (weights / "vae" / "x.safetensors").write_bytes(b"1235")
    after = clips.fingerprint(str(weights))
    assert after != before
    (weights / "model_index.json").write_text('{"sampling": {"num_steps": 4}}')
    assert clips.fingerprint(str(weights)) not in (before, after)


def test_other_code_has_another_folder(tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")
    monkeypatch.setattr(clips, "find_folder", Path)
    monkeypatch.setattr(clips.joyhallo, "__file__", str(tmp_path / "code" / "__init__.py"))
    (tmp_path / "code" / "media").mkdir(parents=True)
    code = tmp_path / "code" / "media" / "paste.py"
    code.write_text("one = 1")
    first = clips.fingerprint(str(tmp_path / "weights"))
    assert clips.fingerprint(str(tmp_path / "weights")) == first
    code.write_text("one = 2")
    assert clips.fingerprint(str(tmp_path / "weights")) != first


def test_a_clip_that_is_there_is_not_made_again(tmp_path):
    sources = clips.Sources(tmp_path, tmp_path, tmp_path, tmp_path, tmp_path / "work")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model_index.json").write_text("{}")  # of which no pipeline can be made
    maker = clips.Maker(str(tmp_path / "weights"), sources, (None, None))
    job = clips.Job(Still(tmp_path / "a.png", "a", "a"), sayings.Saying("s", "sentence", np.zeros(64 * 640, np.float32)))
    kept = traces.Trace(np.zeros((64, 478, 3), np.float32), np.zeros(64), np.ones(16), np.array([3.0]))
    kept.save(maker.folder / "traces" / f"{job.name}.npz")
    with pytest.raises(UserError, match="model_index"):  # its video is missing
        maker.made(job)
    maker.video_of(job).parent.mkdir(parents=True)
    maker.video_of(job).write_bytes(b"video")
    again = maker.made(job)
    assert np.array_equal(again.points, kept.points)
    assert again.spent_s == 3.0
