"""How the page is put together: Gradio mounted on the application, Chinese and English by the browser's language."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr  # at the top: it looks at the types of our handlers; only a service with a page imports this module
from fastapi import FastAPI

from joyhallo.serve import looks
from joyhallo.serve.jobs import Jobs
from joyhallo.serve.keys import client_of
from joyhallo.serve.page import Page, Ticket, Words
from joyhallo.serve.texts import LANGUAGES, language_of
from joyhallo.serve.uploads import Uploads
from joyhallo.serve.voice import MAX_CHARACTERS, Voice, find_voices

_PICTURES = [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"]  # for the file dialogue; content decides
_FORGET_S = 3600  # what was uploaded and not handed in
_LOOK_S = 1.0
_HEADINGS = ("portrait", "speech", "quality", "consent_title", "gallery")
_LOCALES = ("en", "zh", "zh-CN", "zh-TW", "zh-HK", "zh-SG")
_SURE = "(tickets, _) => [tickets, confirm(window.jhWords.sure)]"


def add_page(
    app: FastAPI,
    jobs: Jobs,
    uploads: Uploads,
    keys: Mapping[str, str] | None = None,
    voices: tuple[Voice, ...] | None = None,
) -> FastAPI:
    """Mount the page on the application, at its root. With keys, a client's name and key are asked for first. Without
    `voices`, those that are found here speak."""
    folder = uploads.page_folder
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)  # read when files come in; faces belong into the service's folder
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    page = Page(jobs, uploads, find_voices() if voices is None else voices)
    word = gr.I18n(**{locale: _texts(LANGUAGES[locale[:2]]) for locale in _LOCALES})
    blocks = _Layout(page, folder, word).build(jobs.storage.secret("0" * 32))
    return gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        auth=None if keys is None else lambda name, key: client_of(keys, key) == name,
        max_file_size=max(uploads.limits.portrait_bytes, uploads.limits.speech_bytes),
        theme=looks.theme(),
        css=looks.CSS,
        head=looks.head(),
        footer_links=[],
        enable_monitoring=False,
        show_error=False,
        ssr_mode=False,
        i18n=word,
    )


def _texts(words: Words) -> dict[str, str]:
    """The words, and those of the headings as such."""
    return {**words, **{f"heading_{name}": f"## {words[name]}" for name in _HEADINGS}}


class _Layout:
    """The parts of the page and what they call."""

    def __init__(self, page: Page, folder: Path, word: gr.I18n) -> None:
        self.page, self.folder, self.word = page, folder, word

    def build(self, secret: str) -> gr.Blocks:
        with gr.Blocks(title="JoyHallo", analytics_enabled=False, delete_cache=(_FORGET_S, _FORGET_S)) as blocks:
            self.tickets = gr.BrowserState([], storage_key="joyhallo-jobs", secret=secret)
            self.said: gr.State = gr.State({})
            self.speech_s = gr.State(0.0)
            gr.Markdown("# JoyHallo")
            gr.Markdown(self.word("lead"))
            with gr.Row():
                with gr.Column(min_width=300):
                    self._inputs()
                with gr.Column(min_width=300):
                    gr.Markdown(self.word("heading_gallery"))
                    self.gallery = gr.HTML(elem_classes="jh", elem_id="jh-gallery")
                    self.cancel = gr.Button(self.word("cancel"), size="md", visible=False)
                    self.clear = gr.Button(self.word("clear"), size="md", visible=False)
                    self.sure = gr.Checkbox(visible=False)
                    gr.Markdown(self.word("label_note"))
            self.timer = gr.Timer(_LOOK_S, active=False)
            self._connect(blocks)
        return blocks

    def _inputs(self) -> None:
        word = self.word
        gr.Markdown(word("heading_portrait"))
        self.portrait = gr.File(show_label=False, file_types=_PICTURES, type="filepath", height=130, elem_id="jh-portrait")
        self.crop = gr.HTML(elem_classes="jh", elem_id="jh-crop")
        self.face = gr.Radio([], label=word("face"), visible=False, elem_id="jh-face")
        gr.Markdown(word("heading_speech"))
        sources: Any = ["upload", "microphone"]
        self.speech = gr.Audio(
            show_label=False, sources=sources, type="filepath", buttons=[], editable=False, elem_id="jh-speech"
        )
        self.heard = gr.HTML(elem_classes="jh", elem_id="jh-heard")
        self._typing()
        gr.Markdown(word("heading_quality"))
        self.quality = gr.Radio(
            self.page.qualities(0.0, LANGUAGES["en"]),
            value="usual",
            label=word("quality"),
            show_label=False,
            container=False,
            elem_id="jh-quality",
        )
        self.quality_note = gr.HTML(elem_classes="jh")
        gr.Markdown(word("heading_consent_title"))
        self.consent = gr.Checkbox(label=word("consent"), elem_id="jh-consent")
        self.persistent = gr.Checkbox(label=word("persistent"), elem_id="jh-persistent")
        self.make = gr.Button(word("make"), variant="primary", elem_id="jh-make")
        self.message = gr.HTML(elem_classes="jh", elem_id="jh-message")

    def _typing(self) -> None:
        """A field for what is to be said, where something can say it."""
        names = [voice.name for voice in self.page.voices]
        self.text = gr.Textbox(
            label=self.word("text"),
            info=self.word("text_hint"),
            max_length=MAX_CHARACTERS,
            lines=2,
            visible=bool(names),
            elem_id="jh-text",
        )
        first, is_choice = names[0] if names else None, len(names) > 1
        self.voice = gr.Radio(names, value=first, label=self.word("voice"), visible=is_choice, elem_id="jh-voice")
        self.speak = gr.Button(self.word("speak"), visible=bool(names), elem_id="jh-speak")
        if not names:
            gr.Markdown(self.word("no_voice"))

    def _connect(self, blocks: gr.Blocks) -> None:
        shown = [self.gallery, self.said, self.timer, self.quality, self.quality_note, self.cancel, self.clear]
        known = [self.tickets, self.said, self.speech_s]
        private: Any = {"api_visibility": "private"}
        hidden: Any = {"api_visibility": "private", "show_progress": "hidden"}
        self.portrait.change(self._look, self.portrait, [self.crop, self.face], **private)
        for given in (self.portrait.upload, self.speech.change, self.consent.input):  # what was missing is not missing now
            given(lambda: "", None, self.message, **hidden)
        self.face.input(self._look_at, [self.portrait, self.face], self.crop, **private)
        heard = self.speech.change(self._hear, self.speech, [self.speech_s, self.heard], **hidden)
        heard.then(self._show, known, shown, **hidden)
        self.speak.click(self._speak, [self.text, self.voice], [self.speech, self.heard], **private)
        self.speech.clear(lambda: gr.Audio(autoplay=False), None, self.speech, **hidden)
        held = {self.portrait, self.face, self.speech, self.quality, self.persistent, self.consent, self.tickets}
        made = self.make.click(self._submit, held, [self.tickets, self.message], **private)
        stopped = self.cancel.click(self._cancel, self.tickets, None, **hidden)
        cleared = self.clear.click(self._clear, [self.tickets, self.sure], self.tickets, js=_SURE, **hidden)
        for event in (made, stopped, cleared):
            event.then(self._show, known, shown, **hidden)
        self.timer.tick(self._show, known, shown, **hidden)
        blocks.load(self._show, known, shown, **hidden)
        blocks.load(self._look, self.portrait, [self.crop, self.face], **hidden)
        blocks.load(self._hear, self.speech, [self.speech_s, self.heard], **hidden)

    def _look(self, portrait: str | None, request: gr.Request) -> tuple[str, Any]:
        words = _words(request)
        looked = self.page.look(portrait, words)
        faces = [(words["face_one"].format(i + 1), i) for i in range(looked.num_faces)] if looked.num_faces > 1 else []
        return looked.html, gr.Radio(faces, value=0 if faces else None, visible=bool(faces))

    def _look_at(self, portrait: str | None, face_index: int | None, request: gr.Request) -> str:
        return self.page.look(portrait, _words(request), face_index).html

    def _hear(self, speech: str | None, request: gr.Request) -> tuple[float, str]:
        return self.page.hear(speech, _words(request))

    def _speak(self, text: str, voice: str | None, request: gr.Request) -> tuple[Any, Any]:
        path = self.folder / f"{secrets.token_hex(8)}.wav"
        says = self.page.speak(text, voice or "", path, _words(request))
        return (gr.skip(), says) if says else (gr.Audio(str(path), autoplay=True), gr.skip())

    def _submit(self, held: dict[Any, Any], request: gr.Request) -> tuple[list[Any], str]:
        given = {name: held[getattr(self, name)] for name in ("portrait", "speech", "quality", "persistent", "consent")}
        given["face_index"] = held[self.face]
        client = f"key:{request.username}" if request.username else "local"
        tickets = held[self.tickets] or []
        ticket, says = self.page.submit(given, client, _words(request))
        return [*tickets, ticket] if ticket else tickets, says

    def _show(self, tickets: list[Ticket], said: dict[str, Any], speech_s: float, request: gr.Request) -> list[Any]:
        """What has changed since it was last said: a playing video that is drawn again would start over, and a button that
        is would lose the focus."""
        words = _words(request)
        self.page.speed.measure_soon()
        gallery = self.page.show(tickets or [], words)
        is_measuring = self.page.speed.is_measuring
        now = {
            "gallery": gallery.html,
            "timer": gallery.may_change or is_measuring,
            "quality": self.page.qualities(speech_s, words),
            "note": self.page.quality_note(words),
            "cancel": gallery.may_change,
            "clear": gallery.has_ended,
        }
        update: dict[str, Any] = {
            "gallery": now["gallery"],
            "timer": gr.Timer(active=now["timer"]),
            "quality": gr.Radio(choices=now["quality"]),
            "note": now["note"],
            "cancel": gr.Button(visible=now["cancel"]),
            "clear": gr.Button(visible=now["clear"]),
        }
        changed = {name: update[name] if said.get(name) != value else gr.skip() for name, value in now.items()}
        return [changed.pop("gallery"), now, *changed.values()]

    def _cancel(self, tickets: list[Ticket]) -> None:
        self.page.cancel(tickets or [])

    def _clear(self, tickets: list[Ticket], is_sure: bool) -> list[Any]:
        return self.page.clear(tickets or []) if is_sure else tickets or []


def _words(request: gr.Request) -> Words:
    return language_of(request.headers.get("accept-language", ""))
