"""What the page does: looks at a portrait, hands in a job, shows where this browser's jobs stand. All text is escaped."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from joyhallo.errors import UserError
from joyhallo.serve.jobs import Asked, Consent, Jobs, UnknownJobError
from joyhallo.serve.records import ACTIVE, Job
from joyhallo.serve.refusals import is_choice_of_faces, on_page
from joyhallo.serve.speed import Speed
from joyhallo.serve.texts import lasting
from joyhallo.serve.uploads import Uploads
from joyhallo.serve.voice import Voice

Ticket = Mapping[str, str]  # {"id", "secret"} as the browser keeps it
Words = Mapping[str, str]
_SHOWN = 12  # jobs in the gallery
_FOLLOWED = 100  # newest tickets whose jobs are looked at every second
_FACES = 6  # that can be chosen from
_STAGES = ("weights", "looking", "listening", "fetching")


@dataclass(frozen=True)
class Looked:
    """What a portrait shows."""

    html: str
    num_faces: int = 0


@dataclass(frozen=True)
class Gallery:
    """The jobs of a browser."""

    html: str
    may_change: bool = False
    has_ended: bool = False  # any of them


class Page:
    """The handlers of the page, without a word about how it looks."""

    def __init__(self, jobs: Jobs, uploads: Uploads, voices: tuple[Voice, ...] = ()) -> None:
        self.jobs, self.uploads, self.voices = jobs, uploads, voices
        self.speed = Speed(jobs)

    def steps(self) -> dict[str, int]:
        """Steps per clip of each quality; where one step is usual, there is none quicker."""
        usual = self.uploads.look.num_steps
        steps = {"quick": max(1, usual // 2), "usual": usual, "fine": 2 * usual}
        return steps if usual > 1 else {name: steps[name] for name in ("usual", "fine")}

    def qualities(self, speech_s: float, words: Words) -> list[tuple[str, str]]:
        """Each quality in words with its number of steps and, once that is known, the time it takes; and its name."""
        shown = []
        for name, steps in self.steps().items():
            text = words[name].format(steps)
            expected_s = self.speed.expected_s(steps, speech_s or 1.0)
            if expected_s is not None:
                text += " · " + words["per_speech" if speech_s else "per_second"].format(lasting(expected_s, words))
            shown.append((text, name))
        return shown

    def quality_note(self, words: Words) -> str:
        """Where the numbers beside the qualities come from."""
        known = "measured" if self.speed.is_known else "measuring" if self.speed.is_measuring else "not_measured"
        return hint(words[known])

    def look(self, portrait: str | None, words: Words, face_index: int | None = None) -> Looked:
        """The animated part of a portrait with its regions, or why it cannot be used. Of several faces that are about as
        large, the first is shown until one is chosen."""
        if not portrait:
            return Looked(hint(words["no_crop"]))
        try:
            with Path(portrait).open("rb") as file, self.uploads.taken(portrait=file, face_index=face_index) as taken:
                shown = base64.b64encode(taken.shown.read_bytes()).decode()
                num_faces = min(taken.num_faces, _FACES)
        except UserError as error:
            if face_index is None and is_choice_of_faces(str(error)):
                return self.look(portrait, words, 0)
            return Looked(alert(on_page(str(error), words)))
        image = f"<img alt='{words['crop']}' src='data:image/jpeg;base64,{shown}'>"
        return Looked(f"<figure>{image}<figcaption>{words['crop']}</figcaption></figure>", num_faces)

    def hear(self, speech: str | None, words: Words) -> tuple[float, str]:
        """How long a recording is, in seconds (0: it cannot be used), and what to say of it."""
        if not speech:
            return 0.0, hint(words["no_speech"])
        try:
            with Path(speech).open("rb") as file, self.uploads.taken(speech=file) as taken:
                return taken.duration_s, hint(words["speech_taken"].format(lasting(taken.duration_s, words)))
        except UserError as error:
            return 0.0, alert(on_page(str(error), words))

    def speak(self, text: str, voice: str, path: Path, words: Words) -> str:
        """Write typed text as speech; what went wrong, or nothing."""
        try:
            next(each for each in self.voices if each.name == voice).speak(text, path)
        except StopIteration:
            return alert(words["no_voice"])
        except UserError as error:
            return alert(on_page(str(error), words))
        return ""

    def submit(self, given: Mapping[str, Any], client: str, words: Words) -> tuple[Ticket | None, str]:
        """Hand in what the page holds: portrait, face_index, speech, quality, persistent, consent. The ticket, and what to
        say."""
        for name in ("portrait", "speech", "consent"):
            if not given[name]:
                return None, alert(words[f"need_{name}"])
        settings: dict[str, Any] = {"steps": self.steps()[given["quality"]]}
        if given["persistent"]:
            settings["mark"] = "persistent"
        if given["face_index"] is not None:
            settings["face_index"] = given["face_index"]
        consent = Consent(is_given=True, basis=words["consent"])  # the very sentence that was ticked
        try:
            with (
                Path(given["portrait"]).open("rb") as portrait,
                Path(given["speech"]).open("rb") as speech,
                self.uploads.taken(portrait, speech, given["face_index"]) as taken,
            ):
                asked = Asked(taken.portrait, taken.speech, taken.duration_s, client, consent, settings)
                ticket = self.jobs.submit(asked)
        except UserError as error:
            return None, alert(on_page(str(error), words))
        return {"id": ticket.id, "secret": ticket.secret}, f"<p class='jh-good'>{words['taken']}</p>"

    def mine(self, tickets: list[Ticket]) -> list[tuple[Ticket, Job]]:
        """The jobs that this browser's tickets open, the newest first."""
        found = []
        for ticket in tickets:
            try:
                found.append((ticket, self.jobs.get(str(ticket["id"]), str(ticket["secret"]))))
            except (UnknownJobError, KeyError, TypeError):  # deleted, or of another service at this address
                continue
        return found[::-1]

    def cancel(self, tickets: list[Ticket]) -> None:
        """Stop all that waits or runs."""
        for ticket, job in self.mine(tickets):
            if job.status in ACTIVE:
                self.jobs.cancel(ticket["id"], ticket["secret"])

    def clear(self, tickets: list[Ticket]) -> list[Ticket]:
        """Delete all that has ended; what stays."""
        kept = []
        for ticket, job in self.mine(tickets):
            if job.status in ACTIVE:
                kept.append(ticket)
            else:
                self.jobs.delete(ticket["id"], ticket["secret"])
        return kept[::-1]

    def show(self, tickets: list[Ticket], words: Words) -> Gallery:
        """The jobs that this browser's tickets open."""
        mine = self.mine(tickets[-_FOLLOWED:])
        items = [self._item(len(mine) - i, ticket, job, words) for i, (ticket, job) in enumerate(mine[:_SHOWN])]
        html = "".join(f"<article>{item}</article>" for item in items) or hint(words["none"])
        is_active = [job.status in ACTIVE for _, job in mine]
        return Gallery(html, any(is_active), not all(is_active))

    def _item(self, number: int, ticket: Ticket, job: Job, words: Words) -> str:
        place, secret = f"/v1/jobs/{job.id}", f"secret={escape(ticket['secret'], quote=True)}"
        title = f"<h3>{words['video'].format(number)} · {words[job.status].format(self.jobs.records.num_before(job))}</h3>"
        if job.status == "done":
            video, name = f"{place}/video?{secret}", words["video"].format(number)
            seen = f"<video controls playsinline preload='metadata' aria-label='{name}' src='{video}'></video>"
            link = f"<a href='{video}' download='joyhallo-{job.id[:8]}.mp4'>{words['download'].format(number)}</a>"
            return f"{title}{seen}<p>{lasting(job.duration_s, words)} · {link}</p>"
        if job.status == "failed":
            return title + alert(on_page(job.note, words))
        if job.status == "running":
            return title + self._running(job, f"{place}/preview?{secret}", words)
        return title

    def _running(self, job: Job, preview: str, words: Words) -> str:
        progress = job.progress
        done, total = progress.get("clips_done", 0), progress.get("clips_total", 0)
        parts = []
        extent = f"max='{total or 1}' value='{done}'"
        if total:
            parts.append(words["clip"].format(done, total))
        else:
            parts.append(words[next((each for each in _STAGES if each in str(progress.get("stage", ""))), _STAGES[0])])
        if progress.get("left_s") is not None:
            parts.append(words["left"].format(lasting(progress["left_s"], words)))
        seen = self._frame(job, f"{preview}&n={done}", words) if done else ""
        return f"{seen}<progress aria-label='{words['running']}' {extent}></progress><p>{' · '.join(parts)}</p>"

    def _frame(self, job: Job, address: str, words: Words) -> str:
        """The newest finished frame, with its size, so that nothing moves about when it is drawn again."""
        from PIL import Image

        try:
            with Image.open(self.jobs.storage.preview(job.id)) as image:  # made by us; its head alone is read
                width, height = image.size
        except OSError:  # none yet, or gone with the job
            return ""
        return f"<img alt='{words['newest']}' width='{width}' height='{height}' src='{address}'>"


def alert(text: str) -> str:
    """What went wrong, in words."""
    return f"<p class='jh-alert' role='alert'>{escape(' '.join(text.split()))}</p>"


def hint(text: str) -> str:
    """What may be known."""
    return f"<p class='jh-hint'>{escape(text)}</p>"
