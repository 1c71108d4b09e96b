"""One video file from one request: whole or absent, and a cut run goes on where it was."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from joyhallo._version import __version__
from joyhallo.animator import Animator
from joyhallo.conditioning.portrait import Portrait
from joyhallo.conditioning.speech import SpeechFeatures
from joyhallo.device import choose_device, choose_dtype, dtype_name, usual_linear_kernel
from joyhallo.errors import UserError
from joyhallo.job_folder import JobFolder, recorded
from joyhallo.media.files import require_file, require_output, written_whole
from joyhallo.models.allocation import keep_freed_memory
from joyhallo.models.conditions import AS_TRAINED, RegionScale
from joyhallo.models.kernels import choose_linear_kernel, linear_kernel
from joyhallo.output import PROVIDER, Output, TalkingWriter, portrait_notes
from joyhallo.sampling.options import Options
from joyhallo.weights.hub import FetchProgress, fetch, file_sha256, own_face_models
from joyhallo.weights.pipeline_folder import find_folder, weights_stamp
from joyhallo.weights.registry import IDENTITY_FILES, VOCALS_FILE


@dataclass(frozen=True)
class RenderRequest:
    """What is asked for. None takes the checkpoint's own value."""

    portrait: Path
    speech: Path
    output: Path
    model: str = "mini"
    lora: Path | None = None
    lora_strength: float = 1.0
    steps: int | None = None
    guidance: float | None = None
    region_scale: RegionScale = AS_TRAINED
    seed: int = 42
    size: tuple[int, int] | None = None  # (height, width) of the animated face in pixels
    device: str = "auto"
    dtype: str = "auto"
    paste_back: bool = True
    movement: float = 1.0  # of head and eyes, for weights that hold them still; 0: none
    longest_side: int | None = None  # pixels; a larger picture is reduced to it before frames are pasted back
    face_index: int | None = None  # counted from 0, the largest face first
    crf: int = 18
    mark: str = "start"
    mark_text: str | None = None
    mark_reason: str | None = None
    provider: str = PROVIDER
    c2pa_cert: Path | None = None
    c2pa_key: Path | None = None
    separate_vocals: bool = False
    fresh: bool = False  # forget the clips of a cut run

    def options(self) -> Options:
        return Options(self.steps, self.guidance, self.region_scale, self.seed)

    def file(self, fps: int) -> Output:
        return Output(
            paste_back=self.paste_back,
            movement=self.movement,
            longest_side_px=self.longest_side,
            fps=fps,
            crf=self.crf,
            mark=self.mark,
            mark_text=self.mark_text,
            mark_reason=self.mark_reason,
            provider=self.provider,
            c2pa_cert=self.c2pa_cert,
            c2pa_key=self.c2pa_key,
            title=self.output.name,  # the file is signed before it has its name
        )


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    stage: str
    clips_done: int = 0
    clips_total: int = 0
    frames_done: int = 0
    frames_total: int = 0
    elapsed_s: float = 0.0
    left_s: float | None = None
    picture: np.ndarray | None = None  # the last finished one, [H, W, 3] uint8, without its mark


@dataclass(frozen=True)
class RenderResult:
    """A finished file."""

    output: Path
    num_frames: int
    duration_s: float
    seconds: Mapping[str, float]  # computing time per stage
    notes: tuple[str, ...]  # what was chosen, and why


@dataclass
class _Clock:
    """Seconds per stage, and the notes collected on the way."""

    show: Callable[[Progress], None]
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    last: float = field(default_factory=time.monotonic)

    def lap(self, stage: str) -> None:
        now = time.monotonic()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.last
        self.last = now


def _ignore(_: Progress) -> None:
    pass


def load_weights(request: RenderRequest, device: torch.device, dtype: torch.dtype) -> Animator:
    """The pipeline of a request, on its device. Raises UserError: no such weights, or a LoRA that is not for them."""
    pipe = Animator.from_pretrained(request.model, torch_dtype=dtype).to(device)
    if request.lora is not None:
        pipe.load_lora(request.lora, request.lora_strength)
    return pipe


Load = Callable[[RenderRequest, torch.device, torch.dtype], Animator]


def render(
    request: RenderRequest, on_progress: Callable[[Progress], None] = _ignore, load: Load = load_weights
) -> RenderResult:
    """Make the video. Kill it at any time and call it again: the frames are those of an uninterrupted run.

    `load` gives the pipeline: who makes many videos may keep it.

    Raises:
        UserError: anything of the request that cannot be used, in one line. Nothing is written then.
    """
    require_file(request.portrait, "portrait", UserError)
    require_file(request.speech, "speech", UserError)
    require_output(request.output, "output", UserError)
    was_there = request.output.exists()
    clock = _Clock(on_progress)
    on_progress(Progress("loading the weights"))
    pipe = load_pipeline(request, clock, load)
    bring_models(request, pipe, on_progress)
    on_progress(Progress("looking at the portrait"))
    portrait = pipe.portrait(request.portrait, request.size, request.face_index)
    clock.notes += portrait_notes(portrait, request.paste_back, request.longest_side)
    if pipe.sampling.latent_form == "residual" and pipe.lip_reader is None:
        clock.notes.append("these weights have no lip reader: frames are shown as they were drawn, soft where a mouth opens")
    clock.lap("portrait")
    on_progress(Progress("listening to the speech"))
    speech = pipe.speech(request.speech, request.separate_vocals)
    if speech.is_silent:
        raise UserError(
            f"the speech {request.speech} is nearly silent ({speech.level_dbfs:.0f} dBFS): give a recording with speech in it"
        )
    clock.lap("speech")
    asked = describe(request, pipe)
    job = JobFolder(request.output, asked, fresh=request.fresh)
    if job.is_other:
        clock.notes.append("an earlier cut run asked for something else: its clips were dropped")
    finished = False
    try:
        if request.output.exists() and not was_there:
            raise UserError(f"{request.output} was just made by another process: run again to replace it")
        _make(request, pipe, portrait, speech, job, clock)
        write_record(request, asked, job)
        job.video.replace(request.output)
        finished = True
    except (torch.OutOfMemoryError, MemoryError) as error:
        height, width = portrait.pixels.shape[1:]
        raise UserError(
            f"{pipe.device.type} has too little memory for {height}x{width} px: "
            "give a smaller --size, --dtype bf16, or another --device"
        ) from error
    finally:
        job.close(finished=finished)
    duration_s = speech.num_frames / pipe.sampling.fps
    return RenderResult(request.output, speech.num_frames, duration_s, clock.seconds, tuple(clock.notes))


def bring_models(request: RenderRequest, pipe: Animator, on_progress: Callable[[Progress], None]) -> None:
    """Fetch the models of the portrait and the speech that are not here yet, and show how far that is."""

    def show(fetched: FetchProgress) -> None:
        share = f" {10 * round(10 * fetched.done_bytes / fetched.total_bytes)} %" if fetched.total_bytes else ""
        on_progress(Progress(f"fetching {fetched.name}{share}"))

    names = (IDENTITY_FILES if pipe.identity is None else ()) + ((VOCALS_FILE,) if request.separate_vocals else ())
    for name in names:
        fetch(name, progress=show)
    if own_face_models() is None:
        fetch("face-models", progress=show)


def load_pipeline(request: RenderRequest, clock: _Clock, load: Load) -> Animator:
    device = choose_device(request.device)
    earlier = {} if request.fresh else recorded(request.output)
    wanted = request.dtype
    if wanted == "auto" and earlier.get("device") == device.type:
        wanted = earlier["dtype"]  # a measurement may fall the other way, and the frames must be those of the cut run
    dtype = choose_dtype(wanted, device)
    reason = dtype.reason if wanted == request.dtype else "as in the run that was cut"
    clock.notes.append(f"{device.type} in {dtype_name(dtype.value)}: {reason}")
    if device.type == "cpu":
        keep_freed_memory()
        torch.set_num_threads(earlier.get("threads", torch.get_num_threads()))  # sums are split among threads
        choose_linear_kernel(earlier.get("linear_kernel", usual_linear_kernel()))
    pipe = load(request, device, dtype.value)
    clock.lap("loading")
    return pipe


def _make(
    request: RenderRequest, pipe: Animator, portrait: Portrait, speech: SpeechFeatures, job: JobFolder, clock: _Clock
) -> None:
    """Write the finished clips, then the missing ones, into the job's video."""
    last, total, rate = job.last(), pipe.num_clips(speech), pipe.sampling.fps
    done = 0 if last is None else last.index + 1
    if done:
        clock.notes.append(f"went on after clip {done} of {total}, finished in an earlier run")

    def show(index: int, fresh: int) -> None:
        elapsed = time.monotonic() - clock.started
        left = (time.monotonic() - begun) / fresh * (total - index) if fresh else None
        frames = min(index * pipe.sampling.clip_length, speech.num_frames)
        clock.show(Progress("animating", index, total, frames, speech.num_frames, elapsed, left, writer.last))

    idle = pipe.idle_motion(speech, request.seed)
    with TalkingWriter(job.video, portrait, request.speech, request.file(rate), pipe.rest(portrait, speech), idle) as writer:
        for index in range(done):
            writer.write(job.frames(index))
        clock.lap("writing")
        begun = time.monotonic()
        show(done, 0)
        for clip in pipe.stream(portrait, speech, request.options(), last):
            clock.lap("animating")
            job.keep(clip)
            writer.write(clip.frames)
            clock.lap("writing")
            show(clip.index + 1, clip.index + 1 - done)
    clock.lap("writing")


def describe(request: RenderRequest, pipe: Animator) -> dict[str, Any]:
    """All that decides the frames: two runs of the same description make the same frames on the same machine."""
    like = next(pipe.denoising_network.parameters())
    return {
        "version": __version__,
        "torch": torch.__version__,
        "portrait_sha256": file_sha256(request.portrait),
        "speech_sha256": file_sha256(request.speech),
        "weights": weights_stamp(find_folder(request.model)),
        "lora": None if request.lora is None else [file_sha256(request.lora), request.lora_strength],
        "device": like.device.type,
        "dtype": dtype_name(like.dtype),
        "linear_kernel": linear_kernel().name,
        "threads": torch.get_num_threads(),
        "size": request.size,
        "face_index": request.face_index,
        "separate_vocals": request.separate_vocals,
        **asdict(request.options()),
    }


def write_record(request: RenderRequest, asked: Mapping[str, Any], job: JobFolder) -> None:
    """A record beside the video: what it was made from and how it is labelled."""
    from joyhallo.media.labels import read_label

    label = read_label(job.video)
    record = {
        "output_sha256": file_sha256(job.video),
        "label": None if label is None else json.loads(label.to_json()),
        "visible_mark": request.mark,
        "visible_mark_reason": request.mark_reason,
        "made_from": asked,
    }
    with written_whole(request.output.with_name(request.output.name + ".json"), "record", UserError) as temporary:
        temporary.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
