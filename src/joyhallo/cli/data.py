"""`joyhallo data`: make datasets, look at them, take over published ones."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from joyhallo.cli.progress import Bar, shown

if TYPE_CHECKING:
    from joyhallo.conditioning.face import FaceMesh
    from joyhallo.data.summary import Outcome, Share, Spread, Summary

app = App(name="data", help="Make datasets from videos or portraits, look at them, take over published ones.")
app.command("joyhallo.cli.prepare:prepare", name="prepare", help="Videos become a dataset: tracked, cut, checked, packed.")
app.command("joyhallo.cli.synth:synth", name="synth", help="Still portraits and speech become talking clips, a dataset.")


@app.command
def inspect(
    dataset: Path,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    samples: int = 12,
    verify: Annotated[bool, Parameter(negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Say what a dataset holds and what was rejected and why; draw samples of it with their masks.

    Parameters
    ----------
    dataset
        A folder made by `joyhallo data prepare`, `synth` or `import`.
    output
        The contact sheet to write, a PNG.
    samples
        How many clips the sheet shows.
    verify
        Read every tar and compare its hash with the index.
    as_json
        Print one JSON object on standard output instead of text.
    """
    from joyhallo.data.contact_sheet import write_contact_sheet
    from joyhallo.data.dataset import Dataset
    from joyhallo.data.summary import check_hashes, summarise
    from joyhallo.errors import UserError

    if samples < 1:
        raise UserError(f"--samples {samples}: a contact sheet shows 1 clip at least")
    if output is not None and output.suffix.lower() != ".png":
        raise UserError(f"the contact sheet '{output}' must be a PNG: give a name that ends in .png")
    summary = summarise(dataset)
    if verify:
        check_hashes(dataset)
    num_shown = 0 if output is None else write_contact_sheet(Dataset(dataset), output, samples)
    if as_json:
        sheet = None if output is None else {"path": str(output), "num_clips": num_shown}
        print(json.dumps({**asdict(summary), "contact_sheet": sheet, "is_verified": verify}, ensure_ascii=False))
        return 0
    print("\n".join(_described(summary)))
    if verify:
        print("every tar has the content that the index names")
    if output is not None:
        print(f"{output}: {num_shown} clips; red lip, green expression, blue pose, white the face's rectangle")
    return 0


@app.command(name="import")
def import_published(
    root: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    meta: Path | None = None,
    size_px: Annotated[int, Parameter(name="--size")] = 512,
    speech_encoder: str = "chinese-wav2vec2-base",
    held_out_share: float = 0.02,
) -> int:
    """Take over a dataset made by the published scripts; what is missing or broken is skipped and said in the report.

    Parameters
    ----------
    root
        The folder with videos or images, face_mask, sep_pose_mask, sep_face_mask, sep_lip_mask, face_emb, audio_emb, audios.
    output
        The dataset to write, or to go on with.
    meta
        A metadata file such as jdh-hallo_stage2.json: take only the clips that it names.
    size_px
        Side of the square frames.
    speech_encoder
        What made audio_emb: chinese-wav2vec2-base (JoyHallo) or wav2vec2-base-960h (Hallo).
    held_out_share
        Share of the videos that are never trained on, chosen by the hash of what is stored for them.
    """
    from joyhallo.data.importing import ImportSettings, import_dataset
    from joyhallo.data.summary import summarise

    mesh = _available_mesh()
    if mesh is None:
        print(
            "joyhallo: no face models on this machine, landmarks stay unknown (`joyhallo models pull face-models`)",
            file=sys.stderr,
        )
    settings = ImportSettings(size_px=size_px, speech_encoder=speech_encoder, held_out_share=held_out_share)
    with shown(_bar, lambda _: None) as show:
        import_dataset(root, output, settings, meta=meta, mesh=mesh, progress=lambda *clips: show(clips))
    print("\n".join(_described(summarise(output))))
    return 0


def _bar(clips: tuple[int, ...]) -> Bar:
    done, total = clips
    return Bar("clips", done, total, f"{done}/{total}")


def _available_mesh() -> FaceMesh | None:
    """What is there already; nothing is fetched for this."""
    from joyhallo.conditioning.face import FaceMesh
    from joyhallo.weights import hub
    from joyhallo.weights.registry import FACE_MODEL_FILES

    place = hub.own_face_models()
    if place is None:
        found = [hub.find(f"face_models/{name}") for name in FACE_MODEL_FILES]
        place = found[0].parent if found[0] is not None and None not in found else None
    return None if place is None else FaceMesh.from_path(place)


def _described(summary: Summary) -> list[str]:
    lines = [
        f"{summary.folder}: {_count(summary.num_clips, 'clip')} of {summary.size_px} px, {_duration(summary.hours)}, "
        f"{_count(summary.num_speakers, 'speaker')}, from {_count(summary.num_sources, 'file')}, preset {summary.preset}",
        f"  held out    {_part(summary.held_out, summary)}, never trained on",
        f"  synthetic   {_part(summary.synthetic, summary)}",
        f"  tars        {summary.num_shards}, {summary.bytes / 1e9:.3f} GB",
        f"  encoders    identity: {_counts(summary.identity_encoders)}; speech: {_counts(summary.speech_encoders)}",
        *_spread_line("clip length", summary.length_s, "s"),
        *_spread_line("face share", summary.face_share, "of the frame"),
        *_spread_line("lips lag", summary.sync_offset_frames, "frames"),
    ]
    for name, outcome in (("sources", summary.sources), ("parts", summary.parts)):
        lines += _outcome_lines(name, outcome)
    return lines


def _part(share: Share, summary: Summary) -> str:
    percent = 100 * share.hours / summary.hours if summary.hours else 0.0
    return f"{_count(share.num_clips, 'clip')}, {_duration(share.hours)} ({percent:.1f} %)"


def _outcome_lines(name: str, outcome: Outcome) -> list[str]:
    if not outcome.num_kept + outcome.num_rejected:
        return []
    lines = [f"  {name:<11} {outcome.num_kept} used, {outcome.num_rejected} rejected"]
    return lines + [f"    {count:>8}  {reason}" for reason, count in outcome.reasons.items()]


def _spread_line(name: str, spread: Spread | None, unit: str) -> list[str]:
    if spread is None:
        return []
    return [f"  {name:<11} {spread.low:g} to {spread.high:g} {unit}, median {spread.median:g}"]


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.items()) or "none"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _duration(hours: float) -> str:
    return f"{hours:.2f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes"
