"""`joyhallo data synth`: still portraits and recorded speech become talking clips to train on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from joyhallo.cli.progress import Bar, shown, time_left
from joyhallo.cores import num_cores

if TYPE_CHECKING:
    from joyhallo.data.synthesis.synthesize import SynthesisProgress, SynthesisResult


@Parameter(name="*")
@dataclass(frozen=True)
class Clips:
    """What is made."""

    syllables: Path | None = None
    "A folder of recorded Mandarin syllables (niu4.opus): every other clip is then made of them."
    words: Path | None = None
    "A folder of recorded Mandarin words (苹果.opus), with or without syllables: every other clip is then made of them."
    espeak: float = 0.2
    "Share of the Mandarin clips that espeak-ng speaks, where it is installed."
    clips: int | None = None
    "How many clips in all, spread over the portraits."
    takes: int | None = None
    "Clips of every portrait; 1 by default."
    size: int = 256
    "Side of the square frames in pixels."
    frames: int = 48
    "Frames of a clip at 25 a second; clips of short videos have fewer."
    head: float = 1.0
    "Share of the heads' movement: small networks copy a face best from heads that hardly move."
    opening: float = 1.0
    "How far lips part, against the films: small networks part them less than they are shown."
    num_videos: int = 400
    "Use so many of the videos at most, chosen evenly."
    workers: int | None = None
    "Processes; one for every core by default."
    seed: int = 0
    "Same seed, same clips."


def synth(
    *,
    portraits: Annotated[list[Path], Parameter(consume_multiple=True, negative="")],
    videos: Annotated[list[Path], Parameter(consume_multiple=True, negative="")],
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    clips: Clips = Clips(),
) -> int:
    """Make talking clips from still portraits, with movement and sound of real talking clips.

    Every portrait that qualifies speaks; the others are named with the reason in report.jsonl. People and recordings that
    are held out by their names stay together and are marked. A run that was stopped goes on when the same command is given
    again; more takes later add clips to those that are there.

    Parameters
    ----------
    portraits
        Folders of pictures with one face each, seen from the front.
    videos
        Folders of talking clips, or datasets made by `joyhallo data prepare`.
    output
        The folder of the dataset.
    """
    from joyhallo.data.synthesis.plans import SynthesisRequest
    from joyhallo.data.synthesis.synthesize import synthesise
    from joyhallo.weights.hub import face_models_path

    request = SynthesisRequest(
        portraits=tuple(portraits),
        videos=tuple(videos),
        output=output,
        face_models=face_models_path(),
        syllables=clips.syllables,
        words=clips.words,
        espeak_share=clips.espeak,
        num_takes=clips.takes,
        num_clips=clips.clips,
        size_px=clips.size,
        num_frames=clips.frames,
        head_share=clips.head,
        opening=clips.opening,
        num_videos=clips.num_videos,
        num_workers=clips.workers if clips.workers is not None else num_cores(),
        seed=clips.seed,
    )
    with shown(_bar, _TenthByTenth().line) as show:
        result = synthesise(request, show)
    _say(result, output)
    return 0


def _say(result: SynthesisResult, output: Path) -> None:
    index = result.index
    print(f"{output}: {index.num_samples} clips, {index.hours:.2f} h at {index.size_px} px, {len(index.shards)} tars")
    if result.num_made:
        print(f"made now: {result.num_made} clips in {result.made_s:.0f} s")
    if result.num_refused:
        print(f"not used: {result.num_refused} portraits, videos or words; {output / 'report.jsonl'} says why")


def _bar(progress: SynthesisProgress) -> Bar:
    return Bar(progress.stage, progress.num_done, progress.num_total or 1, _text(progress))


class _TenthByTenth:
    """A line for every tenth of a stage."""

    def __init__(self) -> None:
        self._last: tuple[str, int] | None = None

    def line(self, progress: SynthesisProgress) -> str | None:
        now = (progress.stage, 10 * progress.num_done // max(1, progress.num_total))
        before, self._last = self._last, now
        return f"{progress.stage}: {_text(progress)}" if progress.num_total and now != before else None


def _text(progress: SynthesisProgress) -> str:
    left = time_left(progress.left_s) if progress.num_done < progress.num_total else ""
    return f"{progress.num_done}/{progress.num_total}{left}"
