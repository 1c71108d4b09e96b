"""Colours, sizes and what the page says to screen readers where Gradio leaves that out."""

import json
from typing import Any

from joyhallo.serve.texts import LANGUAGES

CSS = """
.gradio-container {max-width: 1120px !important; margin: 0 auto !important}
.gradio-container h2 {font-size: 1.15rem; margin: 10px 0 0} .gradio-container h3 {font-size: 1rem; margin: 0 0 8px}
.gradio-container :is(a, button, input, textarea, video, audio, [tabindex]):focus-visible,
.gradio-container :is(video, audio):focus-within,
.gradio-container label:has(input:focus-visible) {outline: 3px solid #1d4ed8 !important; outline-offset: 2px}
.dark .gradio-container :is(a, button, input, textarea, video, audio, [tabindex]):focus-visible,
.dark .gradio-container :is(video, audio):focus-within,
.dark .gradio-container label:has(input:focus-visible) {outline-color: #93c5fd !important}
.gradio-container label:has(input:focus-visible) input {outline: none !important}
.jh, .jh > div, #jh-consent, #jh-persistent, #jh-text, #jh-voice, #jh-face {padding: 0 !important}
#jh-portrait, #jh-speech {border: 1px dashed var(--neutral-500) !important; background: var(--block-background-fill)}
#jh-portrait .file-preview-holder {padding-right: 52px}
#jh-speech, #jh-speech .audio-container, #jh-speech button .wrap {min-height: 0 !important; height: auto}
#jh-speech .controls button, #jh-speech time {color: var(--body-text-color-subdued) !important}
#jh-quality .wrap {flex-direction: column; align-items: stretch}
#jh-consent label {font-weight: 600} #jh-consent, #jh-persistent {margin: 4px 0}
#jh-consent input, #jh-persistent input {width: 22px; height: 22px; flex: none}
.gradio-container .or {color: var(--body-text-color-subdued) !important}
#jh-portrait button, #jh-speech .source-selection button {min-height: 44px; min-width: 44px}
#jh-speech .source-selection button svg {width: 22px}
#jh-speech button[aria-dropeffect] {height: 130px; min-height: 130px}
.jh img, .jh video {max-width: 100%; max-height: 60vh; height: auto; width: auto; border-radius: 8px; display: block}
.jh article {border: 1px solid var(--border-color-primary); background: var(--block-background-fill); border-radius: 8px;
  padding: 12px; margin-bottom: 12px}
.jh p {margin: 8px 0 0} .jh > p:first-child, .jh .prose > p:first-child {margin: 0}
.jh progress {width: 100%; height: 12px; margin-top: 8px; accent-color: #4f46e5}
.jh figure {margin: 0} .jh figure img {max-height: 320px}
.jh figcaption, .jh-hint {color: var(--body-text-color-subdued); font-size: .95em}
.jh-alert {color: #b00020; font-weight: 600; border-left: 4px solid; padding-left: 10px} .dark .jh-alert {color: #ff8a80}
.jh-good {color: #14663a; font-weight: 600} .dark .jh-good {color: #7ee2a8}
.jh a {text-decoration: underline; color: #4338ca} .dark .jh a {color: #a5b4fc}
@media (max-width: 600px) {.gradio-container main {padding: 12px !important}}
"""
# What Gradio's own parts are called in Chinese, where it has English alone.
_GRADIO = {
    "Upload file": "上传文件",
    "Record audio": "录音",
    "Adjust volume": "调节音量",
    "Adjust playback speed": "调节播放速度",
    "Skip backwards": "后退",
    "Skip forward": "前进",
    "Reset audio": "恢复原录音",
    "Select recording device": "选择麦克风",
}
_SCRIPT = """
const words = LANGUAGES[navigator.language.toLowerCase().startsWith('zh') ? 'zh' : 'en'];
window.jhWords = words;
const say = (found, name, value) => {
  if (found && value && found.getAttribute(name) !== value) found.setAttribute(name, value);
};
const label = () => {
  for (const [id, name] of [['jh-portrait', 'portrait_drop'], ['jh-speech', 'speech_drop']])
    say(document.querySelector(`#${id} button[aria-dropeffect]`), 'aria-label', words[name]);
  for (const id of ['jh-quality', 'jh-face']) {
    const group = document.querySelector(`#${id} .wrap[role], #${id} .wrap:has(input)`);
    say(group, 'role', 'radiogroup');
    say(group, 'aria-label', words[id.slice(3)]);
  }
  for (const id of ['jh-message', 'jh-gallery', 'jh-heard', 'jh-crop']) say(document.getElementById(id), 'aria-live', 'polite');
  say(document.getElementById('jh-gallery'), 'role', 'region');
  say(document.getElementById('jh-gallery'), 'aria-label', words.gallery);
  if (words.language === 'zh')
    for (const [english, chinese] of Object.entries(GRADIO))
      for (const found of document.querySelectorAll(`[aria-label^="${english}"]`)) say(found, 'aria-label', chinese);
};
let waits = false;
const soon = () => { if (!waits) { waits = true; requestAnimationFrame(() => { waits = false; label(); }); } };
const start = () => { label(); new MutationObserver(soon).observe(document.body,
  {childList: true, subtree: true, attributes: true, attributeFilter: ['aria-label', 'aria-live', 'role']}); };
if (document.readyState == 'loading') addEventListener('DOMContentLoaded', start); else start();
"""


def head() -> str:
    """What goes into the head of the document."""
    script = _SCRIPT.replace("LANGUAGES", json.dumps(LANGUAGES)).replace("GRADIO", json.dumps(_GRADIO))
    return f"<script>(() => {{{script}}})();</script>"


def theme() -> Any:  # noqa: ANN401 (a gradio theme, whose import is slow)
    """Gradio's soft theme without fonts from elsewhere, and with edges that can be seen (3 to 1 against what is beside)."""
    import gradio as gr

    edge = {"input_border_color": "*neutral_500", "checkbox_border_color": "*neutral_500", "input_border_width": "1px"}
    edge |= {"checkbox_label_border_color": "*neutral_400", "checkbox_label_border_width": "1px"}
    plain = {"block_title_background_fill": "none", "block_title_text_color": "*body_text_color", "block_title_padding": "0"}
    dark = {"block_title_background_fill_dark": "none", "block_title_text_color_dark": "*body_text_color"}
    chosen = {"checkbox_label_background_fill_selected": "*primary_600", "checkbox_background_color_selected": "*primary_700"}
    buttons = {"button_primary_background_fill": "*primary_600", "button_primary_background_fill_hover": "*primary_700"}
    second = {"button_secondary_border_color": "*neutral_400", "button_border_width": "1px"}
    subdued = {"body_text_color_subdued": "*neutral_600", "body_text_color_subdued_dark": "*neutral_300"}
    soft = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    light = {**edge, **chosen, **buttons, **second}
    dark |= {f"{name}_dark": value.replace("neutral_500", "neutral_400") for name, value in light.items()}
    return soft.set(**light, **plain, **subdued, **dark)
