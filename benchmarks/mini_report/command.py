"""The command line: make what is missing, measure, write."""

import argparse
import json
import logging
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import torch

from joyhallo.conditioning.lip_sync import LipSync
from joyhallo.conditioning.portrait import PortraitError
from joyhallo.errors import UserError
from joyhallo.media.files import require_output, written_whole
from mini_report.clips import Job, Maker, Sources, fingerprint, open_tools, plan
from mini_report.effort import example_frames, measure_effort, size_mb
from mini_report.page import write_page, write_sheets
from mini_report.people import chosen, groups_of, held_out_stills
from mini_report.sayings import english
from mini_report.scores import amplitude, score_clip
from mini_report.table import Findings, Shown, in_words, report_text, rows_of, write_between_marks

logger = logging.getLogger(__name__)


def main() -> None:
    """Command line."""
    arguments = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        _run(arguments)
    except UserError as problem:
        sys.exit(f"mini_report: {problem}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mini_report", description=__doc__)
    parser.add_argument("--portraits", type=Path, required=True, help="the folders of portraits that mini is trained on")
    parser.add_argument("--videos", type=Path, required=True, help="talking clips, with align/NAME.align")
    parser.add_argument("--syllables", type=Path, required=True, help="recordings like niu4.opus")
    parser.add_argument("--sentences", type=Path, required=True, help="recorded Mandarin sentences")
    parser.add_argument("--model", default="mini", help="a folder of weights; the embedded ones by default")
    parser.add_argument("--only", type=int, help="so many portraits; 6 are a quick look without styles and without timing")
    parser.add_argument("--work", type=Path, default=Path("outputs/mini_report"), help="where finished clips are kept")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the document that the tables are written into")
    return parser.parse_args()


def _run(arguments: argparse.Namespace) -> None:
    require_output(arguments.output, "report", UserError)
    if arguments.only is not None and arguments.only < 1:
        raise UserError(f"--only {arguments.only}: give 1 or more")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    begun = time.process_time()
    sources = Sources(arguments.portraits, arguments.videos, arguments.syllables, arguments.sentences, arguments.work)
    tools = open_tools()
    stills = chosen(held_out_stills(sources.portraits), arguments.only)
    jobs = plan(sources, stills, tools[0])
    maker = Maker(arguments.model, sources, tools)
    groups = {still.name: groups_of(still, tools[0]) for still in stills}
    findings = _findings(jobs, groups, maker, arguments)
    made_on = _made_on(jobs, arguments)
    text = report_text(findings, made_on, _embedded(arguments.model, sources.work, len(stills)))
    write_between_marks(arguments.output, text)
    _write_json(maker.folder / f"report-{len(stills)}.json", findings)
    videos = [maker.folder / "videos" / f"{clip.scores.name}.mp4" for clip in findings.shown]
    write_page(maker.folder / f"page-{len(stills)}.html", videos, findings.shown, text)
    write_sheets(maker.folder, videos)
    logger.info("%s; %.0f s of processor time\n%s", maker.folder, time.process_time() - begun, text)


def _findings(jobs: list[Job], groups: dict[str, tuple[str, ...]], maker: Maker, arguments: argparse.Namespace) -> Findings:
    model = LipSync.load()
    films = english(maker.sources.videos, maker.sources.work, maker.tools[0])
    filmed = {film.name: score_clip(film.name, film, maker.filmed(film), model) for film in films}
    shown, num_lost, num_refused = [], 0, 0
    for number, job in enumerate(jobs, 1):
        try:
            scores = score_clip(job.name, job.saying, maker.made(job), model)
        except PortraitError as problem:
            logger.info("%d of %d clips refused: %s: %s", number, len(jobs), job.name, problem)
            num_refused += 1
            continue
        logger.info("%d of %d clips: %s", number, len(jobs), job.name)
        if scores is None:
            num_lost += 1
            continue
        name, engine_amplitude = job.saying.name, None
        if job.saying.film is not None:
            engine_amplitude = amplitude(maker.engine(job), job.saying)
        own = (job.style,) if job.style else groups[job.still.name]
        shown.append(Shown(scores, own, bool(job.style), filmed.get(name), engine_amplitude))
    effort = None
    if arguments.only is None:
        effort = measure_effort(arguments.model, maker.folder / "effort.json", example_frames())
    known = tuple(scores for scores in filmed.values() if scores is not None)
    return Findings(tuple(shown), known, num_lost, num_refused, size_mb(arguments.model), effort)


def _made_on(jobs: list[Job], arguments: argparse.Namespace) -> str:
    people = len({job.still.person for job in jobs})
    portraits = len({job.still.name for job in jobs})
    whose = "the embedded weights" if arguments.model == "mini" else f"the weights of '{Path(arguments.model).name}'"
    look = "" if arguments.only is None else "A quick look, not the whole report. "
    return f"{look}Of {whose}: {len(jobs)} clips of 2.6 s, {portraits} portraits of {people} held-out people."


def _embedded(model: str, work: Path, num_portraits: int) -> dict[str, str] | None:
    """The numbers of the embedded weights by the titles of the rows, when others are measured and theirs are in `work`."""
    path = work / fingerprint("mini") / f"report-{num_portraits}.json"
    if model == "mini" or not path.is_file():
        return None
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {row["title"]: in_words(row["value"], row["decimals"], row["unit"]) for row in rows}


def _write_json(path: Path, findings: Findings) -> None:
    content: dict[str, Any] = {
        "rows": [asdict(row) for row in rows_of(findings)],
        "clips": [asdict(clip) for clip in findings.shown],
        "filmed": [asdict(scores) for scores in findings.filmed],
    }
    with written_whole(path, "report", UserError) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
