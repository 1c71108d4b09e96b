"""`joyhallo animate`: one portrait and one recording become one mp4."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from joyhallo.errors import UserError
from joyhallo.presets import MOST_MOVEMENT

if TYPE_CHECKING:
    from joyhallo.render import RenderRequest, RenderResult

_SAMPLING, _PICTURE = Group("Motion", sort_key=1), Group("Picture", sort_key=2)
_LABELS, _RUN = Group("Labels of AI content", sort_key=3), Group("Running", sort_key=4)

_HIGHEST_CRF = 51  # of H.264
_LARGEST_SCALE = 10.0


@Parameter(name="*", group=_SAMPLING)
@dataclass(frozen=True)
class Motion:
    """How the face moves."""

    model: Annotated[str, Parameter(name=["--model", "-m"])] = "mini"
    "mini, a folder of weights, or a repository of the hub."
    lora: Path | None = None
    "A LoRA file to add to the weights, as `joyhallo train --lora` writes it."
    lora_strength: float = 1.0
    "How much of it is added; 1 is as trained."
    steps: int | None = None
    "Denoising steps of each clip; what the weights were made for by default."
    guidance: float | None = None
    "Guidance scale; what the weights were made for by default, 1 or less for none (twice as fast)."
    lip: float = 1.0
    "How strongly the speech drives the lips; 1 is as trained."
    expression: float = 1.0
    "How strongly the speech drives the expression."
    pose: float = 1.0
    "How strongly the speech drives the head."
    movement: float = 1.0
    "How much the head sways, for weights that hold it still; 0 to 2, 0 keeps the eyes open too."
    seed: int = 42
    "Same seed, same frames."


@Parameter(name="*", group=_PICTURE)
@dataclass(frozen=True)
class Picture:
    """What the picture is."""

    size: str | None = None
    "Size of the animated face, HEIGHTxWIDTH in pixels; what the weights were made for by default."
    face: int | None = None
    "Which face, counted from 0, the largest first; by default the largest if it clearly is."
    paste_back: Annotated[bool, Parameter(name="--paste-back", negative="--crop")] = True
    "Put the animated face back into the full picture, or keep the crop alone."
    longest_side: int | None = None
    "Reduce a larger picture to this many pixels on its longer side; by default the video is as large as the picture."
    crf: int = 18
    "H.264 quality: 0 is lossless, 18 looks like the source, 51 is worst."


@Parameter(name="*", group=_LABELS)
@dataclass(frozen=True)
class Labels:
    """How the video says that it is made by AI."""

    label: Literal["start", "persistent", "off"] = "start"
    "Visible mark: at the start, throughout, or none. The embedded label is always written."
    label_reason: str | None = None
    "Why there is no visible mark; needed with --label off, and written into the log of the run."
    label_text: str | None = None
    "Other text for the visible mark; it must still say that AI made the video."
    provider: str = "JoyHallo-OSS-local"
    "Who made the video, for the embedded label: your provider code or name (ASCII without spaces)."
    c2pa_cert: Path | None = None
    "Certificate chain (PEM) to sign the video with C2PA; needs --c2pa-key."
    c2pa_key: Path | None = None
    "Private key (PEM) of that certificate."


@Parameter(name="*", group=_RUN)
@dataclass(frozen=True)
class Run:
    """Where and how it runs."""

    device: str = "auto"
    "auto, cpu, cuda, cuda:1 or mps."
    dtype: str = "auto"
    "auto, fp32, bf16 or fp16."
    vocals: Annotated[bool, Parameter(negative="--no-vocals")] = False
    "Take the voice out of music first (needs the extra joyhallo[vocals] and `joyhallo models pull vocals`)."
    fresh: Annotated[bool, Parameter(negative="")] = False
    "Start anew instead of going on from an interrupted run."
    overwrite: Annotated[bool, Parameter(negative="")] = False
    "Replace the output if it exists."
    json: Annotated[bool, Parameter(negative="")] = False
    "Print one JSON object on standard output instead of text."


def animate(
    portrait: Path,
    speech: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    motion: Motion = Motion(),
    picture: Picture = Picture(),
    labels: Labels = Labels(),
    run: Run = Run(),
) -> int:
    """Make the portrait speak: one picture, one recording, one mp4.

    An interrupted run goes on from its last finished clip when the same command is given again.

    Parameters
    ----------
    portrait
        A photo with a face: jpeg, png, webp and others.
    speech
        A recording, or a video whose sound is taken: wav, mp3, m4a, flac, ogg, mp4 and others.
    output
        The video to write (.mp4).
    """
    check_paths(portrait, speech, output, overwrite=run.overwrite)
    check_numbers(motion, picture)
    check_labels(labels)
    from joyhallo.cli.progress import progress_shown
    from joyhallo.cli.startup import leave_out_unused

    leave_out_unused()
    from joyhallo.render import render

    request = build_request((portrait, speech, output), motion, picture, labels, run)
    with progress_shown() as show:
        result = render(request, show)
    _report(request, result, as_json=run.json)
    return 0


def build_request(paths: tuple[Path, Path, Path], motion: Motion, picture: Picture, labels: Labels, run: Run) -> RenderRequest:
    """The request that those options ask for; `paths` are portrait, speech and output."""
    from joyhallo.models.conditions import RegionScale
    from joyhallo.render import RenderRequest

    portrait, speech, output = paths
    return RenderRequest(
        portrait=portrait,
        speech=speech,
        output=output,
        model=motion.model,
        lora=motion.lora,
        lora_strength=motion.lora_strength,
        steps=motion.steps,
        guidance=motion.guidance,
        region_scale=RegionScale(motion.lip, motion.expression, motion.pose),
        seed=motion.seed,
        size=read_size(picture.size),
        device=run.device,
        dtype=run.dtype,
        paste_back=picture.paste_back,
        movement=motion.movement,
        longest_side=picture.longest_side,
        face_index=picture.face,
        crf=picture.crf,
        mark=labels.label,
        mark_text=labels.label_text,
        mark_reason=labels.label_reason,
        provider=labels.provider,
        c2pa_cert=labels.c2pa_cert,
        c2pa_key=labels.c2pa_key,
        separate_vocals=run.vocals,
        fresh=run.fresh,
    )


def check_paths(portrait: Path, speech: Path, output: Path, *, overwrite: bool) -> None:
    """Refuse at once what would fail late. Raises UserError."""
    from joyhallo.media.files import require_file, require_output

    require_file(portrait, "portrait", UserError)
    require_file(speech, "speech", UserError)
    if output.suffix.lower() != ".mp4":
        raise UserError(f"the output '{output}' is no .mp4: end its name in .mp4")
    require_output(output, "output", UserError)
    if any(output.exists() and output.samefile(given) for given in (portrait, speech)):
        raise UserError(f"the output '{output}' is one of the inputs: give another name")
    if output.exists() and not overwrite:
        raise UserError(f"the output '{output}' exists already: add --overwrite, or give another name")


def check_numbers(motion: Motion, picture: Picture) -> None:
    """Refuse numbers that no run can use. Raises UserError."""
    if motion.steps is not None and not 1 <= motion.steps <= 1000:
        raise UserError(f"--steps is {motion.steps}: give 1 to 1000 (40 is what the published weights use)")
    if motion.guidance is not None and not 0 <= motion.guidance <= 100:
        raise UserError(f"--guidance is {motion.guidance}: give 0 to 100 (3.5 is what the published weights use, 1 is off)")
    if motion.lora is None and motion.lora_strength != 1:
        raise UserError("--lora-strength has no place without --lora: give the file of adapters too")
    if motion.lora is not None:
        from joyhallo.media.files import require_file

        require_file(motion.lora, "LoRA file", UserError)
    for name in ("lip", "expression", "pose"):
        scale = getattr(motion, name)
        if not (math.isfinite(scale) and 0 <= scale <= _LARGEST_SCALE):
            raise UserError(f"--{name} is {scale}: give 0 to {_LARGEST_SCALE:g} (1 is as trained)")
    if not 0 <= motion.movement <= MOST_MOVEMENT:
        raise UserError(f"--movement is {motion.movement}: give 0 (nothing moves by itself) to {MOST_MOVEMENT:g}; 1 is usual")
    if not 0 <= motion.seed < 2**63:
        raise UserError(f"--seed is {motion.seed}: give a whole number from 0 to 2^63 - 1")
    if not 0 <= picture.crf <= _HIGHEST_CRF:
        raise UserError(f"--crf is {picture.crf}: give 0 (lossless) to {_HIGHEST_CRF} (worst); 18 looks like the source")
    if picture.face is not None and picture.face < 0:
        raise UserError(f"--face is {picture.face}: faces are counted from 0, the largest first")
    if picture.longest_side is not None and not 64 <= picture.longest_side <= 16384:
        raise UserError(f"--longest-side is {picture.longest_side}: give 64 to 16384 pixels")
    read_size(picture.size)


def check_labels(labels: Labels) -> None:
    """Refuse label options that contradict each other. Raises UserError."""
    if labels.label == "off" and not (labels.label_reason or "").strip():
        raise UserError("--label off needs a reason: say with --label-reason TEXT why this video carries no visible mark")
    if labels.label == "off" and labels.label_text is not None:
        raise UserError("--label-text has no place with --label off: leave out one of them")
    if (labels.c2pa_cert is None) != (labels.c2pa_key is None):
        lacking = "--c2pa-key" if labels.c2pa_key is None else "--c2pa-cert"
        raise UserError(f"{lacking} is missing: signing with C2PA needs both the certificate and its key")
    from joyhallo.media.files import require_file

    for path, what in ((labels.c2pa_cert, "certificate file"), (labels.c2pa_key, "private key")):
        if path is not None:
            require_file(path, what, UserError)


def read_size(text: str | None) -> tuple[int, int] | None:
    """(height, width) of "512x384", or of "512" for a square. Raises UserError."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})(?:[x×](\d{1,5}))?", text.strip().lower())
    height, width = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not (16 <= height <= 4096 and 16 <= width <= 4096):
        raise UserError(f"--size is {text!r}: give HEIGHTxWIDTH in pixels, each from 16 to 4096, like 512x512")
    return height, width


def _report(request: RenderRequest, result: RenderResult, *, as_json: bool) -> None:
    if as_json:
        found = {
            "output": str(result.output),
            "num_frames": result.num_frames,
            "duration_s": result.duration_s,
            "seconds": dict(result.seconds),
            "notes": list(result.notes),
            "model": request.model,
            "seed": request.seed,
        }
        print(json.dumps(found, ensure_ascii=False))
        return
    for note in result.notes:
        print(note, file=sys.stderr)
    spent_s = sum(result.seconds.values())
    print(f"{result.num_frames} frames, {result.duration_s:.2f} s of video, made in {spent_s:.1f} s", file=sys.stderr)
    print(result.output)
