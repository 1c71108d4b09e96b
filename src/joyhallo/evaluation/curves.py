"""Curves as SVG text that a page can hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 560, 110, 44, 18, 8
_MAX_POINTS = 700  # more cannot be seen at this width


@dataclass(frozen=True, eq=False)
class Line:
    """One line of a drawing."""

    title: str
    values: np.ndarray  # [N] over the film's frames; NaN leaves a gap
    style: str = "a"  # of the page: "a", "b" or "c"


def draw(lines: Sequence[Line], duration_s: float, title: str) -> str:
    """An SVG element with all `lines` on one scale, seconds below; empty when nothing is known."""
    known = np.concatenate([line.values[np.isfinite(line.values)] for line in lines]) if lines else np.zeros(0)
    if not len(known):
        return ""
    low, high = float(known.min()), float(known.max())
    low = 0.0 if low > 0 and low < 0.5 * high else low
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    right, bottom = _WIDTH - 6, _HEIGHT - _BOTTOM
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">',
        f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>',
        f'<text x="{_LEFT - 4}" y="{_TOP + 8}" text-anchor="end">{_number(high)}</text>',
        f'<text x="{_LEFT - 4}" y="{bottom}" text-anchor="end">{_number(low)}</text>',
        f'<text x="{_LEFT}" y="{_HEIGHT - 4}">0 s</text>',
        f'<text x="{right}" y="{_HEIGHT - 4}" text-anchor="end">{duration_s:.1f} s</text>',
    ]
    for line in lines:
        heights = bottom - (line.values - low) / (high - low) * (bottom - _TOP)
        parts.append(
            f'<path class="line {line.style}" d="{_path(heights, right - _LEFT)}"><title>{escape(line.title)}</title></path>'
        )
    return "".join(parts) + "</svg>"


def _path(heights: np.ndarray, width: int) -> str:
    """Path commands through `heights` [N]; each run of known values is a line, a lone one a dot."""
    if len(heights) > _MAX_POINTS:
        chosen = np.linspace(0, len(heights) - 1, _MAX_POINTS).round().astype(int)
    else:
        chosen = np.arange(len(heights))
    known = np.flatnonzero(np.isfinite(heights[chosen]))
    sparse = len(known) < 0.5 * len(chosen)  # sampled now and then: joined up
    commands, last = [], None
    for place in known:
        x = _LEFT + width * (chosen[place] + 0.5) / len(heights)
        is_next = last is not None and (sparse or place == last + 1)
        commands.append(f"{'L' if is_next else 'M'}{x:.1f} {heights[chosen[place]]:.1f}")
        last = place
    return "".join(commands)


def _number(value: float) -> str:
    return f"{value:.3g}"
