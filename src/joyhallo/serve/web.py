"""How the page looks: Gradio mounted on the application, Chinese and English by the browser's language."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr  # at the top: it looks at the types of our handlers; only a service with a page imports this module
from fastapi import FastAPI

from joyhallo.errors import UserError
from joyhallo.serve.jobs import Jobs
from joyhallo.serve.keys import client_of
from joyhallo.serve.page import Page, Ticket, Words, alert
from joyhallo.serve.texts import LANGUAGES, language_of
from joyhallo.serve.uploads import Uploads
from joyhallo.serve.voice import MAX_CHARACTERS, has_voice

_PICTURES = [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"]  # for the file dialogue; content decides
_FORGET_S = 3600  # what was uploaded and not handed in
_LOOK_S = 1.0
_CSS = """
.jh img, .jh video {max-width: 100%; max-height: 60vh; border-radius: 8px; display: block}
.jh article {border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 12px; margin-bottom: 12px}
.jh progress {width: 100%; height: 10px; margin-top: 8px}
.jh figure {margin: 0} .jh figure img {max-height: 40vh}
.jh figcaption, .jh-hint {opacity: .75; font-size: .9em}
.jh-alert {color: #b00020; font-weight: 600} .dark .jh-alert {color: #ff8a80}
.jh a {text-decoration: underline}
"""


def add_page(app: FastAPI, jobs: Jobs, uploads: Uploads, keys: Mapping[str, str] | None = None) -> FastAPI:
    """Mount the page on the application, at its root. With keys, a client's name and key are asked for first."""
    folder = uploads.page_folder
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)  # read when files come in; faces belong into the service's folder
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    blocks = _Layout(Page(jobs, uploads), folder, jobs.storage.secret("0" * 32)).build()
    return gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        auth=None if keys is None else lambda name, key: client_of(keys, key) == name,
        max_file_size=max(uploads.limits.portrait_bytes, uploads.limits.speech_bytes),
        theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["monospace"]),  # no fonts from elsewhere
        css=_CSS,
        footer_links=[],
        enable_monitoring=False,
        show_error=False,
        ssr_mode=False,
        i18n=gr.I18n(en=dict(LANGUAGES["en"]), zh=dict(LANGUAGES["zh"]), **{"zh-CN": dict(LANGUAGES["zh"])}),
    )


class _Layout:
    """The parts of the page and what they call."""

    def __init__(self, page: Page, folder: Path, secret: str) -> None:
        self.page, self.folder, self.secret = page, folder, secret

    def build(self) -> gr.Blocks:
        word = gr.I18n(en=dict(LANGUAGES["en"]), zh=dict(LANGUAGES["zh"]))
        with gr.Blocks(title="JoyHallo", analytics_enabled=False, delete_cache=(_FORGET_S, _FORGET_S)) as blocks:
            self.tickets = gr.BrowserState([], storage_key="joyhallo-jobs", secret=self.secret)
            self.said = gr.State("")
            gr.Markdown("# JoyHallo")
            gr.Markdown(word("lead"))
            with gr.Row():
                with gr.Column(min_width=300):
                    self._inputs(word)
                with gr.Column(min_width=300):
                    gr.Markdown(word("gallery"))
                    self.gallery = gr.HTML(elem_classes="jh")
                    self.clear = gr.Button(word("clear"), size="sm")
                    gr.Markdown(word("label_note"))
            self.timer = gr.Timer(_LOOK_S, active=False)
            self._connect(blocks)
        return blocks

    def _inputs(self, word: gr.I18n) -> None:
        self.portrait = gr.File(label=word("portrait"), file_types=_PICTURES, type="filepath", height=130)
        self.crop = gr.HTML(elem_classes="jh")
        self.speech = gr.Audio(label=word("speech"), sources=["upload", "microphone"], type="filepath", buttons=[])
        with gr.Row(visible=has_voice()):
            self.text = gr.Textbox(label=word("text"), max_length=MAX_CHARACTERS, lines=2, scale=4)
            self.speak = gr.Button(word("speak"), scale=1, min_width=90)
        steps = self.page.steps()
        self.quality = gr.Radio(
            [(f"{LANGUAGES['zh'][name].format(n)} / {LANGUAGES['en'][name].format(n)}", name) for name, n in steps.items()],
            value="usual",
            label=word("quality"),
        )
        self.persistent = gr.Checkbox(label=word("persistent"))
        self.consent = gr.Checkbox(label=word("consent"))
        self.message = gr.HTML(elem_classes="jh")
        with gr.Row():
            self.make = gr.Button(word("make"), variant="primary")
            self.cancel = gr.Button(word("cancel"))

    def _connect(self, blocks: gr.Blocks) -> None:
        shown = [self.gallery, self.said, self.timer]
        hidden: Any = {"api_visibility": "private", "show_progress": "hidden"}
        self.portrait.change(self._look, self.portrait, self.crop, api_visibility="private")
        self.speak.click(self._speak, self.text, [self.speech, self.message], api_visibility="private")
        given = [self.portrait, self.speech, self.quality, self.persistent, self.consent, self.tickets]
        made = self.make.click(self._submit, given, [self.tickets, self.message], api_visibility="private")
        made.then(self._show, [self.tickets, self.said], shown, **hidden)
        stopped = self.cancel.click(self._cancel, self.tickets, None, **hidden)
        stopped.then(self._show, [self.tickets, self.said], shown, **hidden)
        cleared = self.clear.click(self._clear, self.tickets, self.tickets, **hidden)
        cleared.then(self._show, [self.tickets, self.said], shown, **hidden)
        self.timer.tick(self._show, [self.tickets, self.said], shown, **hidden)
        blocks.load(self._show, [self.tickets, self.said], shown, **hidden)
        blocks.load(self._look, self.portrait, self.crop, **hidden)

    def _look(self, portrait: str | None, request: gr.Request) -> str:
        return self.page.look(portrait, _words(request))

    def _speak(self, text: str) -> tuple[str | None, str]:
        path = self.folder / f"{secrets.token_hex(8)}.wav"
        try:
            self.page.speak(text, path)
        except UserError as error:
            return None, alert(str(error))
        return str(path), ""

    def _submit(
        self,
        portrait: str | None,
        speech: str | None,
        quality: str,
        persistent: bool,
        consent: bool,
        tickets: list[Ticket],
        request: gr.Request,
    ) -> tuple[list[Any], str]:
        given = {"portrait": portrait, "speech": speech, "quality": quality, "persistent": persistent, "consent": consent}
        client = f"key:{request.username}" if request.username else "local"
        ticket, says = self.page.submit(given, client, _words(request))
        return [*(tickets or []), ticket] if ticket else tickets or [], says

    def _show(self, tickets: list[Ticket], said: str, request: gr.Request) -> tuple[Any, str, Any]:
        html, may_change = self.page.show(tickets or [], _words(request))
        same = html == said  # drawn again, a playing video would start over
        return gr.skip() if same else html, html, gr.Timer(active=may_change)

    def _cancel(self, tickets: list[Ticket]) -> None:
        self.page.cancel(tickets or [])

    def _clear(self, tickets: list[Ticket]) -> list[Any]:
        return self.page.clear(tickets or [])


def _words(request: gr.Request) -> Words:
    return language_of(request.headers.get("accept-language", ""))
