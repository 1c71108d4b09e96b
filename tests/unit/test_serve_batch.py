"""A list that was edited, or made with other weights, renders its own jobs alone. Real queue and table, killed; the process
that renders is a stand-in, since rendering is not what is looked at."""

import json
import signal
import subprocess
import sys
import wave
from pathlib import Path

import pytest

pytest.importorskip("dbos")

from joyhallo.serve.batch import client_of_list, folder_beside
from joyhallo.serve.records import NewJob, Records

PORTRAIT = Path(__file__).parents[2] / "examples" / "portrait.png"
SCRIPT = """
import sys, time
from pathlib import Path
from joyhallo.serve.batch import folder_beside, run_batch
from joyhallo.serve.settings import Settings

class Pretended:
    def ask(self, message, *, on_news, is_wanted):
        print("asked", message["settings"]["seed"], message["settings"]["model"], flush=True)
        while sys.argv[2] == "never":
            time.sleep(0.05)
        output = Path(message["output"])
        output.write_text(f"video of {message['settings']['seed']}")
        output.with_name(output.name + ".json").write_text("{}")
        return {"end": "done", "note": ""}

    def kill(self):
        return

manifest = Path(sys.argv[1])
settings = Settings(folder_beside(manifest), polling_s=0.05, render={"model": sys.argv[3]})
for ended in run_batch(manifest, settings, hire=lambda *_: Pretended()):
    print(ended.line.number, ended.status, flush=True)
"""


def start(manifest: Path, how: str, model: str = "mini") -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(manifest), how, model], stdout=subprocess.PIPE, text=True)


def said_by(process: subprocess.Popen[str]) -> list[str]:
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    return said.splitlines()


def killed_at_its_first_job(manifest: Path, model: str = "mini") -> str:
    process = start(manifest, "never", model)
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    return first.strip()


@pytest.fixture
def manifest(tmp_path) -> Path:
    with wave.open(str(tmp_path / "speech.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(16_000))
    return tmp_path / "list.jsonl"


def write(manifest: Path, *seeds: int) -> None:
    lines = [{"portrait": str(PORTRAIT), "speech": "speech.wav", "output": f"{seed}.mp4", "seed": seed} for seed in seeds]
    manifest.write_text("\n".join(map(json.dumps, lines)))


def test_an_edited_list_renders_its_own_jobs_alone(manifest):
    write(manifest, 1, 2, 3)
    assert killed_at_its_first_job(manifest) == "asked 1 mini"
    write(manifest, 3, 4)
    assert sorted(said_by(start(manifest, "quick"))) == ["1 done", "2 done", "asked 3 mini", "asked 4 mini"]
    assert sorted(path.name for path in manifest.parent.glob("*.mp4")) == ["3.mp4", "4.mp4"]
    folder = folder_beside(manifest)
    assert list((folder / "jobs").iterdir()) == []
    records = Records(f"sqlite:///{folder / 'jobs.sqlite'}")
    assert [(job.settings["seed"], job.finishes) for job in reversed(records.of_client(client_of_list(manifest)))] == [
        (3, 1),
        (4, 1),
    ]
    records.close()
    assert said_by(start(manifest, "quick")) == ["1 kept", "2 kept"]


def test_a_list_leaves_the_jobs_of_others_alone(manifest):
    """Those of a service, or of another list, in the same folder."""
    write(manifest, 1, 2)
    other = manifest.with_name("other.jsonl")
    folder = folder_beside(manifest)
    folder.mkdir(exist_ok=True)
    records = Records(f"sqlite:///{folder / 'jobs.sqlite'}")
    for number, client in enumerate(("local", client_of_list(other))):
        (folder / "jobs" / (str(number) * 32)).mkdir(parents=True)
        records.add(NewJob(str(number) * 32, client, "s", {"seed": 9}, {}, 0.5, 1, "another's"), 10, 10)
    records.close()
    assert sorted(said_by(start(manifest, "quick"))) == ["1 done", "2 done", "asked 1 mini", "asked 2 mini"]
    records = Records(f"sqlite:///{folder / 'jobs.sqlite'}")
    assert [records.of_client(client)[0].status for client in ("local", client_of_list(other))] == ["queued", "queued"]
    records.close()


def test_the_same_list_with_other_weights_does_not_render_with_the_earlier_ones_too(manifest):
    write(manifest, 1, 2)
    assert killed_at_its_first_job(manifest, "first") == "asked 1 first"
    said = said_by(start(manifest, "quick", "second"))
    assert sorted(said) == ["1 done", "2 done", "asked 1 second", "asked 2 second"]
