"""The page without a browser: its words in two languages, what it says and hides, what it refuses, the times it names."""

import json
import re
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("dbos")

from batch_process import settings_for
from joyhallo.serve.jobs import Asked, Consent, Jobs
from joyhallo.serve.page import Page, alert
from joyhallo.serve.refusals import on_page
from joyhallo.serve.settings import Limits
from joyhallo.serve.speed import Speed
from joyhallo.serve.texts import LANGUAGES, language_of, lasting
from joyhallo.serve.uploads import Look, Uploads
from serving import PORTRAIT, write_speech, write_weights

ENGLISH, CHINESE = LANGUAGES["en"], LANGUAGES["zh"]
COST = {  # half a second of video
    "parts_s": {"once": 0.6, "more": 0.4}, "step_s": 0.6, "first_step_s": 0.5, "plain_step_s": 0.4, "guidance_end": 0.5,
    "frames": 8, "fps": 16,
}  # fmt: skip
MEASURED = {"models": [COST]}


def test_both_languages_say_the_same_things():
    assert ENGLISH.keys() == CHINESE.keys()
    for name in ENGLISH.keys() - {"language", "reason"}:
        assert ENGLISH[name].count("{}") == CHINESE[name].count("{}"), name
        assert re.search(r"[\u4e00-\u9fff]", CHINESE[name]), name
    assert language_of("zh-CN,zh;q=0.9") is CHINESE
    assert language_of("de,zh;q=0.5") is language_of("") is ENGLISH


def test_nothing_from_outside_becomes_markup():
    assert alert("<script>alert(1)</script>\n") == "<p class='jh-alert' role='alert'>&lt;script&gt;alert(1)&lt;/script&gt;</p>"


@pytest.mark.parametrize(
    ("seconds", "says"), [(0, "0.1 s"), (2.34, "2.3 s"), (59.6, "60 s"), (125, "2 min"), (5400, "90 min"), (9000, "2.5 h")]
)
def test_times_are_no_finer_than_known(seconds, says):
    assert lasting(seconds, ENGLISH) == says
    assert re.fullmatch(r"[\d.]+ (秒|分钟|小时)", lasting(seconds, CHINESE))


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="module")
def page(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "service"
    jobs = Jobs(settings_for(folder, weights, limits=Limits(speech_s=3.0, portrait_pixels=2_000_000, portrait_bytes=4_000_000)))
    uploads = Uploads(folder, jobs.settings.limits, Look((32, 32), num_steps=5))
    yield Page(jobs, uploads)
    uploads.close()
    jobs.records.close()


def test_what_is_missing_is_said(page):
    given = {"portrait": None, "face_index": None, "speech": None, "quality": "usual", "persistent": False, "consent": False}
    for name in ("portrait", "speech", "consent"):
        ticket, says = page.submit(given, "a", ENGLISH)
        assert (ticket, ENGLISH[f"need_{name}"] in says) == (None, True)
        given[name] = str(PORTRAIT)
    assert page.jobs.records.counts() == {}
    assert page.steps() == {"quick": 2, "usual": 5, "fine": 10}
    assert "data:image/jpeg;base64" in page.look(str(PORTRAIT), ENGLISH).html
    assert page.look(None, CHINESE).html.count(CHINESE["no_crop"]) == 1
    assert list(page.uploads.folder.iterdir()) == []


@pytest.mark.parametrize(("usual", "steps"), [(1, {"usual": 1, "fine": 2}), (2, {"quick": 1, "usual": 2, "fine": 4})])
def test_no_quality_is_offered_twice(page, monkeypatch, usual, steps):
    monkeypatch.setattr(page.uploads, "look", Look((32, 32), num_steps=usual))
    assert page.steps() == steps
    assert len({text for text, _ in page.qualities(2.0, ENGLISH)}) == len(steps)


def test_of_two_faces_one_is_shown_and_the_other_can_be_chosen(page, tmp_path):
    one = Image.open(PORTRAIT).convert("RGB")
    both = Image.new("RGB", (one.width * 2, one.height))
    both.paste(one, (0, 0))
    both.paste(one.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (one.width, 0))
    both.save(tmp_path / "both.png")
    first = page.look(str(tmp_path / "both.png"), CHINESE)
    assert first.num_faces == 2
    second = page.look(str(tmp_path / "both.png"), CHINESE, 1)
    assert "data:image/jpeg" in second.html
    assert first.html != second.html
    assert page.look(str(PORTRAIT), CHINESE).num_faces == 1
    assert "请另选一张" in page.look(str(tmp_path / "both.png"), CHINESE, 5).html


def _write_wav(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())


def _refused_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Portraits and recordings that cannot be used."""
    ramp = (np.indices((400, 500)).sum(0) % 256).astype(np.uint8)
    Image.fromarray(ramp).save(folder / "faceless.png")
    Image.fromarray(ramp[:8, :8]).save(folder / "tiny.png")
    Image.fromarray(np.zeros((1500, 1500), np.uint8)).save(folder / "large.png")
    Image.open(PORTRAIT).resize((60, 60)).save(folder / "small-face.png")
    (folder / "text.png").write_text("no picture")
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    (folder / "film.png").write_bytes(b"\0\0\0\x18ftypisom" + bytes(100))
    (folder / "cut.png").write_bytes(PORTRAIT.read_bytes()[:20_000])
    (folder / "heavy.png").write_bytes(bytes(4_000_001))
    _write_wav(folder / "silent.wav", np.zeros(16_000))
    _write_wav(folder / "long.wav", np.full(64_000, 9000))
    _write_wav(folder / "empty.wav", np.zeros(0))
    (folder / "text.wav").write_text("no sound")
    pictures = ("faceless", "tiny", "large", "small-face", "text", "film", "cut", "heavy")
    return [folder / f"{name}.png" for name in pictures] + [folder / "phone.heic"], sorted(folder.glob("*.wav"))


def test_every_refusal_has_chinese_words_and_none_names_commands_or_places(page, tmp_path):
    pictures, sounds = _refused_files(tmp_path)
    for path in pictures + sounds:
        given = str(path)
        english, chinese = (
            page.hear(given, words)[1] if path in sounds else page.look(given, words).html for words in (ENGLISH, CHINESE)
        )
        assert "jh-alert" in english, path.name
        assert not re.search(r" --\w|/tmp|uploads", english), english
        assert CHINESE["reason"] not in chinese, chinese
        assert re.search(r"[\u4e00-\u9fff]{4}", chinese), chinese
        assert "请" in chinese, chinese  # what to do
    assert page.hear(str(write_speech(tmp_path / "good.wav", 0.8)), CHINESE)[0] == pytest.approx(0.8)


def test_a_refusal_that_is_not_known_keeps_its_words():
    assert on_page("a new\nreason", CHINESE) == CHINESE["reason"] + "a new reason"
    assert on_page("a new\nreason", ENGLISH) == "a new reason"
    memory = "cuda has too little memory for 512x512 px: give a smaller --size, --dtype bf16, or another --device"
    assert "--" not in on_page(memory, ENGLISH)


def test_tickets_of_others_and_nonsense_show_nothing(page):
    tickets = [{"id": "0" * 32, "secret": "x"}, {"id": "../..", "secret": "x"}, {}, {"id": None, "secret": None}]
    shown = page.show(tickets, CHINESE)
    assert (shown.html.count("<article"), CHINESE["none"] in shown.html) == (0, True)
    assert (shown.may_change, shown.has_ended) == (False, False)
    assert page.clear(tickets) == []


def test_expected_times_come_from_a_measurement_and_finished_videos_correct_them(page, tmp_path):
    jobs = page.jobs
    assert [text for text, _ in page.qualities(0.0, ENGLISH)] == [ENGLISH[n].format(k) for n, k in page.steps().items()]
    page.speed.keep(MEASURED)
    assert page.speed.expected_s(4, 10.0) == pytest.approx((1.0 + 0.5 + 0.6 + 2 * 0.4) * 10.0 / 0.5)
    assert page.speed.expected_s(1, 10.0) == pytest.approx((1.0 + 0.5) * 10.0 / 0.5)
    assert next(text for text, _ in page.qualities(2.0, ENGLISH)) == "Quick: 2 steps per clip · about 7.6 s for this speech"
    assert ENGLISH["measured"] in page.quality_note(ENGLISH)
    speech = write_speech(tmp_path / "speech.wav", 2.0)
    ticket = None
    for took_s, settings in ((60.0, {"steps": 4}), (1e6, {"steps": 4, "guidance": 1.0}), (1e6, {})):
        ticket = _finished(jobs, Asked(PORTRAIT, speech, 2.0, "a", Consent(is_given=True), settings), took_s)
    assert Speed(jobs).expected_s(4, 10.0) == pytest.approx(60.0 * 10 / 2)  # for 2 s of video 11.6 s were foreseen, 60 s taken
    other = json.loads((jobs.settings.folder / "speed.json").read_text())
    other["made_by"]["model"] = "another"
    (jobs.settings.folder / "speed.json").write_text(json.dumps(other))
    assert not Speed(jobs).is_known
    assert page.show([{"id": ticket, "secret": jobs.storage.secret(ticket)}], ENGLISH).has_ended


def _finished(jobs: Jobs, asked: Asked, took_s: float) -> str:
    """A job as a runner leaves it after that time."""
    from joyhallo.serve.records import NewJob
    from joyhallo.serve.storage import new_id

    new = NewJob(new_id(), asked.client, asked.fingerprint(), asked.settings, {}, asked.duration_s, 1)
    jobs.records.add(new, 10, 10)
    begun = 4e9  # after every measurement
    values = "status = 'done', started_s = :begun, finished_s = :ended"
    assert jobs.records.change(new.id, ("queued",), values, begun=begun, ended=begun + took_s)
    return new.id


def test_a_service_measures_its_machine_by_itself(weights, tmp_path):
    with Jobs(settings_for(tmp_path / "service", weights)) as jobs:
        speed = Speed(jobs)
        assert speed.expected_s(2, 1.0) is None
        speed.measure_soon()
        assert speed.is_measuring
        speed._thread.join(120)
        assert speed.is_known
        assert 0.0 < speed.expected_s(1, 1.0) < speed.expected_s(20, 1.0) < 1000
