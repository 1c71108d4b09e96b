"""What the page does: looks at a portrait, hands in a job, shows where this browser's jobs stand. All text is escaped."""

import base64
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from joyhallo.errors import UserError
from joyhallo.serve.jobs import Asked, Consent, Jobs, UnknownJobError
from joyhallo.serve.records import ACTIVE, Job
from joyhallo.serve.uploads import Uploads
from joyhallo.serve.voice import speak

Ticket = Mapping[str, str]  # {"id", "secret"} as the browser keeps it
Words = Mapping[str, str]
_SHOWN = 12  # jobs in the gallery


class Page:
    """The handlers of the page, without a word about how it looks."""

    def __init__(self, jobs: Jobs, uploads: Uploads) -> None:
        self.jobs, self.uploads = jobs, uploads

    def steps(self) -> dict[str, int]:
        """Steps per clip of each quality."""
        usual = self.uploads.look.num_steps
        return {"quick": max(1, usual // 2), "usual": usual, "fine": 2 * usual}

    def look(self, portrait: str | None, words: Words) -> str:
        """The animated part of a portrait with its regions, or why it cannot be used."""
        if not portrait:
            return f"<p class='jh-hint'>{words['no_crop']}</p>"
        try:
            with Path(portrait).open("rb") as file, self.uploads.taken(portrait=file) as taken:
                shown = base64.b64encode(taken.shown.read_bytes()).decode()
        except UserError as error:
            return alert(str(error))
        image = f"<img alt='{words['crop']}' src='data:image/jpeg;base64,{shown}'>"
        return f"<figure>{image}<figcaption>{words['crop']}</figcaption></figure>"

    def speak(self, text: str, path: Path) -> None:
        """Write typed text as speech. Raises UserError."""
        speak(text, path)

    def submit(self, given: Mapping[str, Any], client: str, words: Words) -> tuple[Ticket | None, str]:
        """Hand in what the page holds: portrait, speech, quality, persistent, consent. The ticket, and what to say."""
        for name in ("portrait", "speech", "consent"):
            if not given[name]:
                return None, alert(words[f"need_{name}"])
        settings: dict[str, Any] = {"steps": self.steps()[given["quality"]]}
        if given["persistent"]:
            settings["mark"] = "persistent"
        try:
            with (
                Path(given["portrait"]).open("rb") as portrait,
                Path(given["speech"]).open("rb") as speech,
                self.uploads.taken(portrait, speech) as taken,
            ):
                asked = Asked(taken.portrait, taken.speech, taken.duration_s, client, Consent(is_given=True), settings)
                ticket = self.jobs.submit(asked)
        except UserError as error:
            return None, alert(str(error))
        return {"id": ticket.id, "secret": ticket.secret}, f"<p role='status'>{words['taken']}</p>"

    def mine(self, tickets: list[Ticket]) -> list[tuple[Ticket, Job]]:
        """The jobs that this browser's tickets open, the newest first."""
        found = []
        for ticket in tickets[-100:]:
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

    def show(self, tickets: list[Ticket], words: Words) -> tuple[str, bool]:
        """The jobs as HTML, and whether any of them may still change."""
        mine = self.mine(tickets)
        items = [self._item(ticket, job, words) for ticket, job in mine[:_SHOWN]]
        body = "".join(items) or f"<p class='jh-hint'>{words['none']}</p>"
        return f"<section aria-label='{words['gallery']}'>{body}</section>", any(job.status in ACTIVE for _, job in mine)

    def _item(self, ticket: Ticket, job: Job, words: Words) -> str:
        place, secret = f"/v1/jobs/{job.id}", f"secret={escape(ticket['secret'], quote=True)}"
        if job.status == "done":
            video = f"{place}/video?{secret}"
            seen = f"<video controls playsinline preload='metadata' src='{video}'></video>"
            says = f"<a href='{video}' download='joyhallo-{job.id[:8]}.mp4'>{words['download']}</a>"
            return f"<article>{seen}<p>{words['done']} · {job.duration_s:.1f} s · {says}</p></article>"
        if job.status == "failed":
            return f"<article>{alert(words['failed'] + ': ' + job.note)}</article>"
        if job.status == "queued":
            return f"<article><p role='status'>{words['queued'].format(self.jobs.records.num_before(job))}</p></article>"
        if job.status == "running":
            return f"<article>{self._running(job, f'{place}/preview?{secret}', words)}</article>"
        return f"<article><p>{words[job.status]}</p></article>"

    def _running(self, job: Job, preview: str, words: Words) -> str:
        progress = job.progress
        done, total = progress.get("clips_done", 0), progress.get("clips_total", 0)
        parts = [words["running"]]
        bar = f"<progress aria-label='{words['running']}'></progress>"
        if total:
            parts.append(words["clip"].format(done, total))
            bar = f"<progress aria-label='{words['running']}' max='{total}' value='{done}'></progress>"
        elif progress.get("stage"):
            parts.append(escape(str(progress["stage"])))
        if progress.get("left_s") is not None:
            minutes, seconds = divmod(round(progress["left_s"]), 60)
            parts.append(words["left"].format(f"{minutes}:{seconds:02d}"))
        seen = f"<img alt='' src='{preview}&n={done}'>" if done and self.jobs.storage.preview(job.id).exists() else ""
        return f"{seen}{bar}<p role='status'>{' · '.join(parts)}</p>"


def alert(text: str) -> str:
    """What went wrong, in words."""
    return f"<p class='jh-alert' role='alert'>{escape(' '.join(text.split()))}</p>"
