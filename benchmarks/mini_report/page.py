"""For people to look at: a page on which all clips play, and sheets of their frames."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np

from joyhallo.errors import UserError
from joyhallo.media.files import written_whole
from joyhallo.media.video import read_frames
from mini_report.table import Shown, in_words

_NUM_FRAMES, _SIDE_PX, _COLUMNS, _ROWS_OF_SHEET = 6, 160, 2, 8
_STYLE = """body{font:14px sans-serif;margin:1rem;background:#fff;color:#111}main{display:flex;flex-wrap:wrap;gap:.7rem}
figure{margin:0;width:256px}video{width:256px;height:256px;display:block;background:#ddd}figcaption{overflow-wrap:anywhere}
.soft{color:#555}pre{overflow:auto}"""


def write_page(path: Path, videos: Sequence[Path], shown: Sequence[Shown], text: str) -> None:
    """An HTML page beside the folder of the videos, which it plays in a loop; the sound is on request."""
    figures = [_figure(video.relative_to(path.parent).as_posix(), clip) for video, clip in zip(videos, shown, strict=True)]
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Held-out portraits</title><style>{_STYLE}</style>'
        f"<h1>Held-out portraits</h1><p>{len(figures)} clips. Click one for its sound.</p><main>{''.join(figures)}</main>"
        f"<pre>{escape(text)}</pre></html>\n"
    )
    with written_whole(path, "page", UserError) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _figure(source: str, clip: Shown) -> str:
    scores = clip.scores
    facts = [f"lip sync {in_words(scores.sync, 2)}", f"identity {in_words(scores.psnr_db, 1, 'dB')}", *clip.groups]
    return (
        f'<figure><video src="{escape(source)}" autoplay loop muted playsinline onclick="this.muted=!this.muted"></video>'
        f'<figcaption>{escape(scores.name)}<br><span class="soft">{escape(", ".join(facts))}</span></figcaption></figure>'
    )


def write_sheets(folder: Path, videos: Sequence[Path]) -> list[Path]:
    """Frames of every clip in a row, two clips side by side, in as many PNG files as it takes."""
    per_sheet, paths = _COLUMNS * _ROWS_OF_SHEET, []
    for number, first in enumerate(range(0, len(videos), per_sheet)):
        strips = [_strip(video) for video in videos[first : first + per_sheet]]
        strips += [np.zeros_like(strips[0])] * (-len(strips) % _COLUMNS)
        lines = [np.concatenate(strips[at : at + _COLUMNS], 1) for at in range(0, len(strips), _COLUMNS)]
        path = folder / f"sheet-{number}.png"
        with written_whole(path, "sheet", UserError) as temporary:
            coded = cv2.imencode(".png", np.concatenate(lines)[..., ::-1])[1]
            temporary.write_bytes(coded.tobytes())
        paths.append(path)
    return paths


def _strip(video: Path) -> np.ndarray:
    frames = list(read_frames(video))
    chosen = np.linspace(0, len(frames) - 1, _NUM_FRAMES).round().astype(int)
    return np.concatenate(
        [cv2.resize(frames[place], (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA) for place in chosen], 1
    )
