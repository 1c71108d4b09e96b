"""Which clips the report is made of, and how they are made: once for the same weights and code."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import joyhallo
from joyhallo.conditioning.face import FaceMesh
from joyhallo.conditioning.portrait import Portrait
from joyhallo.data.framing import FaceCrop
from joyhallo.data.synthesis.canonical import CanonicalMesh, read_canonical_mesh
from joyhallo.data.synthesis.stills import Still
from joyhallo.device import choose_device, choose_dtype, dtype_name, usual_linear_kernel
from joyhallo.errors import UserError
from joyhallo.media.files import written_whole
from joyhallo.media.image import read_image
from joyhallo.media.paste import Crop
from joyhallo.models.kernels import choose_linear_kernel
from joyhallo.output import Finish, Output, TalkingWriter, paster_of
from joyhallo.pipeline import JoyHalloPipeline
from joyhallo.sampling.options import Options
from joyhallo.weights.hub import file_sha256, own_face_models
from joyhallo.weights.pipeline_folder import find_folder
from mini_report.people import STYLES, TURNED, in_style
from mini_report.sayings import Saying, english, in_another_voice, sentences, syllables_in_a_row, tracked_file
from mini_report.traces import Trace, engine_points, film_trace, trace
from mini_report.turning import turned

VERSION = 5  # of what the real films and the engine are measured for: what an older one has kept is made anew
_MOST_STYLED, _FEWEST_FOR_STYLES = 6, 12  # portraits
_PLAYED = Output(paste_back=False, crf=20)


@dataclass(frozen=True)
class Sources:
    """Where everything comes from."""

    portraits: Path
    videos: Path
    syllables: Path
    sentences: Path
    work: Path


@dataclass(frozen=True)
class Job:
    """One clip to make."""

    still: Still
    saying: Saying
    style: str = ""  # one of STYLES, or TURNED

    @property
    def name(self) -> str:
        """Of its files: another sound under the same name is another clip."""
        sound = hashlib.sha256(self.saying.speech.tobytes()).hexdigest()[:6]
        return "-".join(part for part in (self.still.name, self.saying.name, self.style, sound) if part)


def plan(sources: Sources, stills: Sequence[Still], mesh: FaceMesh) -> list[Job]:
    """Everybody speaks English, two of three Mandarin too: syllables and sentences by turns, syllables in another voice too.

    A few speak in other styles, or turned.
    """
    films = english(sources.videos, sources.work, mesh)
    count = (len(stills) + 2) // 3
    rows = syllables_in_a_row(sources.syllables, count)
    spoken = [saying for pair in zip(rows, _sentences(sources, count), strict=True) for saying in pair]
    listeners = [still for number, still in enumerate(stills) if number % 3 != 2]
    jobs = [Job(still, films[number % len(films)]) for number, still in enumerate(stills)]
    jobs += [Job(still, saying) for still, saying in zip(listeners, spoken, strict=False)]
    jobs += [Job(still, in_another_voice(saying)) for still, saying in zip(listeners[::2], rows, strict=False)]
    if len(stills) >= _FEWEST_FOR_STYLES:
        jobs += [
            Job(still, films[number % len(films)], style)
            for style in (*STYLES, TURNED)
            for number, still in enumerate(stills[: min(_MOST_STYLED, len(stills) // 4)])
        ]
    return jobs


def _sentences(sources: Sources, count: int) -> list[Saying]:
    found = sentences(sources.sentences, count)
    return [found[number % len(found)] for number in range(count)]


def open_tools() -> tuple[FaceMesh, CanonicalMesh]:
    """The 478-point face models and the average face.

    Raises UserError when JOYHALLO_WEIGHTS names no folder with the bundle.
    """
    bundle = own_face_models()
    if bundle is None or bundle.suffix != ".task":
        raise UserError(
            "the report needs the 478-point face models: let JOYHALLO_WEIGHTS name a folder with "
            "face_landmarker_v2_with_blendshapes.task"
        )
    return FaceMesh.from_path(bundle), read_canonical_mesh(bundle)


def fingerprint(model: str) -> str:
    """Twelve hexadecimal digits: the same for the same weights and the same code, computed in the same numbers."""
    digest = hashlib.sha256(f"{VERSION} {dtype_name(_dtype())}".encode())
    for folder, endings in ((find_folder(model), (".json", ".safetensors")), (Path(joyhallo.__file__).parent, (".py",))):
        for path in sorted(path for path in folder.rglob("*") if path.suffix in endings):
            digest.update(f"{path.relative_to(folder).as_posix()} {file_sha256(path)}".encode())
    return digest.hexdigest()[:12]


def _dtype() -> torch.dtype:
    return choose_dtype("auto", choose_device("cpu")).value


class Maker:
    """Makes and measures the clips of one set of weights; what is there already is read."""

    def __init__(self, model: str, sources: Sources, tools: tuple[FaceMesh, CanonicalMesh]) -> None:
        self.model, self.sources, self.tools = model, sources, tools
        self.folder = sources.work / fingerprint(model)
        self._pipe: JoyHalloPipeline | None = None

    @property
    def pipe(self) -> JoyHalloPipeline:
        """The weights, loaded when first needed."""
        if self._pipe is None:
            torch.set_num_threads(1)
            choose_linear_kernel(usual_linear_kernel())
            self._pipe = JoyHalloPipeline.from_pretrained(self.model, torch_dtype=_dtype())
            self._pipe.face_mesh = self.tools[0]
        return self._pipe

    @property
    def size_px(self) -> int:
        return self.pipe.sampling.height

    def video_of(self, job: Job) -> Path:
        """Where the clip is, to look at."""
        return self.folder / "videos" / f"{job.name}.mp4"

    def made(self, job: Job) -> Trace:
        """The clip of a job, measured."""
        kept = self.folder / "traces" / f"{job.name}.npz"
        if not (kept.is_file() and self.video_of(job).is_file()):
            self._make(job).save(kept)
        return Trace.load(kept)

    def _make(self, job: Job) -> Trace:
        pipe, photograph = self.pipe, self._photograph(job)
        portrait = pipe.portrait(in_style(photograph, job.style) if job.style in STYLES else photograph)
        begun = time.process_time()
        speech = pipe.speech(job.saying.speech)
        clips = [clip.frames for clip in pipe.stream(portrait, speech, Options())]
        spent_s = time.process_time() - begun
        rest, idle = pipe.rest(portrait, speech), pipe.idle_motion(speech)
        video = self.video_of(job)
        video.parent.mkdir(parents=True, exist_ok=True)
        finished: list[np.ndarray] = []
        with TalkingWriter(video, portrait, job.saying.speech, _PLAYED, rest, idle) as writer:
            for frames in clips:
                for shown in writer.finish.apply(frames, len(finished)):
                    finished.append(shown)
                    writer.append(shown)
        if job.style in STYLES:
            portrait = in_place_of(portrait, pipe.portrait(photograph))
            finish = Finish(portrait, _PLAYED, rest, idle)
            finished = [shown for number, frames in enumerate(clips) for shown in finish.apply(frames, number * len(clips[0]))]
        return trace(np.stack(finished), self._as_given(photograph, portrait), self.tools, spent_s)

    def _photograph(self, job: Job) -> np.ndarray:
        """The picture of a job without a style, turned where that is asked for."""
        picture = read_image(job.still.path)
        return turned(picture, self.tools) if job.style == TURNED else picture

    def _as_given(self, picture: np.ndarray, portrait: Portrait) -> np.ndarray:
        """What finished frames show of the picture [H, W, 3] before it moves, [S, S, 3] uint8, its lips as they are in it."""
        crop = portrait.crop or Crop(0, 0, *picture.shape[:2])
        return FaceCrop(crop, self.size_px).cut(picture)

    def filmed(self, saying: Saying) -> Trace:
        """The real clip, measured in the same way."""
        assert saying.film is not None
        kept = self.sources.work / f"real-{VERSION}" / f"{saying.name}.npz"
        if not kept.is_file():
            film_trace(saying, tracked_file(self.sources.work, saying.film), self.tools, self.size_px).save(kept)
        return Trace.load(kept)

    def engine(self, job: Job) -> np.ndarray:
        """Points [F, K, 3] of what the data engine makes of the same portrait and the same film."""
        assert job.saying.film is not None
        kept = self.sources.work / f"engine-{VERSION}" / f"{job.name}.npy"
        if not kept.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            photograph = self._photograph(job)
            shown = self._as_given(photograph, self.pipe.portrait(photograph))
            points = engine_points(shown, job.saying, tracked_file(self.sources.work, job.saying.film), self.tools)
            with written_whole(kept, "points", UserError) as temporary, temporary.open("wb") as file:
                np.save(file, points)
        return np.load(kept)


def in_place_of(drawn: Portrait, photographed: Portrait) -> Portrait:
    """The photograph in the frame of its copy in another style, to show how that one moves where a face tracker sees it."""
    assert drawn.crop is not None
    height, width = drawn.pixels.shape[1:]
    in_picture = paster_of(photographed, None).in_picture(photographed.landmarks, (height, width))
    return replace(photographed, crop=drawn.crop, landmarks=FaceCrop(drawn.crop, height).move(in_picture))
