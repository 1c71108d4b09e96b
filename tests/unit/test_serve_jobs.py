"""Jobs: a fair order, limits, secrets; made once and to their end, however often the process is killed."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("dbos")

from batch_process import assert_two_were_made_once, settings_for
from joyhallo.errors import UserError
from joyhallo.job_folder import folder_of
from joyhallo.serve.batch import folder_beside, read_manifest
from joyhallo.serve.jobs import Asked, Consent, Jobs, UnknownJobError
from joyhallo.serve.records import ConflictError, LimitError, NewJob, Records
from joyhallo.serve.settings import Limits
from joyhallo.serve.storage import Storage, new_id
from joyhallo.serve.worker import write_preview
from serving import PORTRAIT, write_speech, write_weights

SCRIPT = Path(__file__).parents[1] / "batch_process.py"


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture
def records(tmp_path):
    opened = Records(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    yield opened
    opened.close()


def new_job(client: str, duration_s: float = 10.0, **changes) -> NewJob:
    return NewJob(new_id(), client, "0" * 64, {}, {}, duration_s, 1000, **changes)


def add(records: Records, job: NewJob):
    return records.add(job, jobs_per_client=100, jobs_waiting=1000)[0]


def test_a_client_with_one_job_does_not_wait_for_the_pile_of_another(records):
    pile = [add(records, new_job("many")) for _ in range(5)]
    records.change(pile[0].id, ("queued",), "status = 'running', started_s = 1.0")
    late = add(records, new_job("late"))
    order = [job.id for job in records.of_status("queued")]
    assert order.index(late.id) <= 1
    assert records.num_before(late) <= 2
    assert [job.id for job in records.of_status("queued") if job.client == "many"] == [job.id for job in pile[1:]]


def test_the_order_is_fair_in_seconds_of_speech(records):
    for _ in range(3):
        add(records, new_job("long", 100.0))
    for _ in range(6):
        add(records, new_job("short", 20.0))
    first_seven = [job.client for job in records.of_status("queued")][:7]
    assert first_seven.count("short") >= 5


def test_a_client_has_a_limit_and_the_service_another(records):
    for _ in range(3):
        records.add(new_job("a"), jobs_per_client=3, jobs_waiting=5)
    with pytest.raises(LimitError, match="3 of your jobs are unfinished, 3 are allowed"):
        records.add(new_job("a"), jobs_per_client=3, jobs_waiting=5)
    for _ in range(2):
        records.add(new_job("b"), jobs_per_client=3, jobs_waiting=5)
    with pytest.raises(LimitError, match="5 jobs are waiting"):
        records.add(new_job("c"), jobs_per_client=3, jobs_waiting=5)


def test_an_idempotency_key_gives_the_same_job_or_a_conflict(records):
    first = add(records, new_job("a", idempotency_key="k"))
    assert add(records, new_job("a", idempotency_key="k")).id == first.id
    assert add(records, new_job("b", idempotency_key="k")).id != first.id
    with pytest.raises(ConflictError):
        add(records, dataclasses.replace(new_job("a", idempotency_key="k"), asked_sha256="1" * 64))


def test_a_finished_job_is_finished_once(records):
    job = add(records, new_job("a"))
    assert records.change(job.id, ("queued",), "status = 'running'")
    assert records.change(job.id, ("running",), "status = 'done', finishes = finishes + 1")
    assert not records.change(job.id, ("running",), "status = 'done', finishes = finishes + 1")
    assert records.get(job.id).finishes == 1


def test_a_database_of_a_newer_version_is_refused(records, tmp_path):
    with records.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO joyhallo_schema VALUES (99)")
    with pytest.raises(UserError, match="version 99"):
        Records(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    with pytest.raises(UserError, match="the database cannot be opened"):
        Records("nonsense://here")


def test_a_database_of_an_older_version_is_brought_up_to_date_and_keeps_its_jobs(records, tmp_path, monkeypatch):
    from joyhallo.serve import records as table

    job, url = add(records, new_job("a")), f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    later = ("ALTER TABLE joyhallo_jobs ADD COLUMN rank INTEGER NOT NULL DEFAULT 5",)
    monkeypatch.setattr(table, "_MIGRATIONS", (*table._MIGRATIONS, later))
    for _ in range(2):  # the second start has nothing to do
        opened = Records(url)
        with opened.engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT id, rank FROM joyhallo_jobs").all() == [(job.id, 5)]
            assert connection.exec_driver_sql("SELECT MAX(version) FROM joyhallo_schema").scalar() == len(table._MIGRATIONS)
        opened.close()
    broken = ("ALTER TABLE joyhallo_jobs ADD COLUMN half INTEGER", "nonsense")
    monkeypatch.setattr(table, "_MIGRATIONS", (*table._MIGRATIONS, broken))
    with pytest.raises(UserError, match="the database cannot be opened"):
        Records(url)
    monkeypatch.undo()
    with records.engine.connect() as connection:  # whole or not at all
        names = [row[1] for row in connection.exec_driver_sql("PRAGMA table_info(joyhallo_jobs)")]
    assert "rank" in names
    assert "half" not in names


def test_a_secret_opens_its_job_alone_and_survives_a_restart(tmp_path):
    first, second = new_id(), new_id()
    storage = Storage(tmp_path)
    assert storage.opens(first, storage.secret(first))
    assert not storage.opens(second, storage.secret(first))
    assert not storage.opens("../../etc/passwd", storage.secret(first))
    assert Storage(tmp_path).secret(first) == storage.secret(first)
    assert (tmp_path / "service.key").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("{", "line 1 .* is no JSON"),
        ('{"portrait": "a.png"}', "needs"),
        ('{"portrait": "p.png", "speech": "s.wav", "output": "o.mp4", "stepz": 3}', "stepz: Extra inputs.*known are steps"),
        (
            '{"portrait": "p.png", "speech": "s.wav", "output": "o.mp4", "crf": 60}',
            "crf: Input should be less than or equal to 51",
        ),
        ('{"portrait": "p.png", "speech": "s.wav", "output": "o.mp4", "size": [8, 8]}', "size"),
        ('{"portrait": "none.png", "speech": "s.wav", "output": "o.mp4"}', "portrait of line 1 .* does not exist"),
        ('{"portrait": "p.png", "speech": "s.wav", "output": "o.mp4"}\n' * 2, "lines 1 and 2 .* same output"),
    ],
)
def test_a_list_that_cannot_be_used_is_one_line(tmp_path, text, message):
    for name in ("p.png", "s.wav"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "list.jsonl").write_text(text)
    with pytest.raises(UserError, match=message):
        read_manifest(tmp_path / "list.jsonl")


def test_the_preview_of_a_running_job_is_marked(tmp_path):
    from PIL import Image

    write_preview(np.full((1024, 1024, 3), 90, np.uint8), tmp_path / "preview.jpg")
    shown = np.asarray(Image.open(tmp_path / "preview.jpg")).astype(int)
    assert shown.shape == (512, 512, 3)
    assert np.abs(shown[:40, :90] - 90).max() > 100  # the mark
    assert np.abs(shown[128:] - 90).max() < 4


def start_batch(manifest: Path, weights: Path) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(manifest), str(weights)], stdout=subprocess.PIPE, text=True, env=environment
    )


def wait_for(condition, what: str, timeout_s: float = 600.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"no {what} in {timeout_s} s"
        time.sleep(0.005)


def test_a_killed_service_goes_on_after_its_last_clip_and_ends_every_job_once(weights, tmp_path):
    manifest = tmp_path / "list.jsonl"
    write_speech(tmp_path / "speech.wav", 1.0)
    lines = [{"portrait": str(PORTRAIT), "speech": "speech.wav", "output": f"{i}.mp4", "seed": i} for i in range(2)]
    manifest.write_text("\n".join(map(json.dumps, lines)))
    process = start_batch(manifest, weights)
    clips = folder_beside(manifest)
    wait_for(lambda: list(clips.glob("jobs/*/.result.mp4.joyhallo/past_*")), "finished clip")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("?.mp4"))
    said, _ = start_batch(manifest, weights).communicate(timeout=600)
    assert said.count("done") == 2
    assert "went on after clip" in said
    assert_two_were_made_once(manifest)
    made = (tmp_path / "0.mp4").read_bytes()
    said, _ = start_batch(manifest, weights).communicate(timeout=600)
    assert said.count("kept") == 2
    assert (tmp_path / "0.mp4").read_bytes() == made


@pytest.fixture
def asked_for(tmp_path):
    speech = write_speech(tmp_path / "speech.wav", 1.0)

    def make(**changes) -> Asked:
        return Asked(
            **{"portrait": PORTRAIT, "speech": speech, "duration_s": 1.0, "client": "a", "consent": Consent(True), **changes}
        )

    return make


def test_jobs_in_one_process(weights, tmp_path, asked_for):
    """Consent, a refusal that is final, a cancelled and a deleted job, the quota: one service, since starting it takes long."""
    from PIL import Image

    folder = tmp_path / "service"
    Image.fromarray(np.full((128, 128, 3), 127, np.uint8)).save(tmp_path / "grey.png")
    with Jobs(settings_for(folder, weights, limits=Limits(kept_bytes=3_000_000))) as jobs:
        with pytest.raises(UserError, match="consent"):
            jobs.submit(asked_for(consent=Consent(False)))
        with pytest.raises(UserError, match="in use by another service"):
            Jobs(settings_for(folder, weights)).__enter__()
        faceless = jobs.submit(asked_for(portrait=tmp_path / "grey.png"))
        running, deleted, last = (jobs.submit(asked_for(settings={"seed": seed})) for seed in range(3))
        with pytest.raises(UnknownJobError):
            jobs.get(running.id, last.secret)
        wait_for(lambda: jobs.get(faceless.id, faceless.secret).status == "failed", "refusal")
        refused = jobs.get(faceless.id, faceless.secret)
        assert "no face was found" in refused.note
        assert (refused.starts, refused.finishes) == (1, 1)
        wait_for(lambda: jobs.get(running.id, running.secret).progress.get("clips_done"), "clip")
        assert jobs.cancel(running.id, running.secret).status == "cancelled"
        jobs.delete(deleted.id, deleted.secret)
        with pytest.raises(UnknownJobError):
            jobs.get(deleted.id, deleted.secret)
        wait_for(lambda: jobs.get(last.id, last.secret).status == "done", "video")
        path = jobs.result(last.id, last.secret)
        assert [each.name for each in sorted(path.parent.iterdir())] == ["result.mp4", "result.mp4.json"]
        assert not folder_of(path).exists()
        assert not jobs.storage.of(running.id).exists()
        assert json.loads(json.dumps(dict(jobs.get(last.id, last.secret).consent)))["is_given"] is True
        assert jobs.make_room(2_999_000)  # the oldest result leaves
        assert jobs.get(last.id, last.secret).status == "expired"
        assert not path.exists()
        jobs.forget()
        assert jobs.get(last.id, last.secret).status == "expired"
        jobs.records.change(last.id, ("expired",), "finished_s = 1.0")
        jobs.forget()
        with pytest.raises(UnknownJobError):
            jobs.get(last.id, last.secret)
        jobs.settings = dataclasses.replace(jobs.settings, limits=Limits(kept_bytes=10))
        with pytest.raises(LimitError, match="disk space"):
            jobs.submit(asked_for())
