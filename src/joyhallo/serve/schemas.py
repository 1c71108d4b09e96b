"""What the API takes and gives, with its limits."""

from typing import Annotated, Any, Literal

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from joyhallo.presets import MOST_MOVEMENT
from joyhallo.serve.records import Job


class VideoSettings(BaseModel):
    """How the video is to be; what is left out is as the weights were made for."""

    model_config = ConfigDict(extra="forbid")

    steps: int | None = Field(None, ge=1, le=100, description="Denoising steps of each clip: fewer are quicker")
    guidance: float | None = Field(None, ge=0, le=20, description="Guidance scale; 1 or less for none (twice as fast)")
    lip: float = Field(1.0, ge=0, le=3, description="How strongly the speech drives the lips; 1 is as trained")
    expression: float = Field(1.0, ge=0, le=3)
    pose: float = Field(1.0, ge=0, le=3)
    movement: float = Field(
        1.0, ge=0, le=MOST_MOVEMENT, description="How much a head sways that the weights hold still; 0: nor blinks"
    )
    seed: int = Field(42, ge=0, lt=2**53, description="Same seed, same frames")
    face_index: int | None = Field(None, ge=0, le=50, description="Which face, counted from 0, the largest first")
    paste_back: bool = Field(True, description="Put the face back into the picture, or give the crop alone")
    longest_side: int | None = Field(None, ge=64, le=4096, description="Reduce a larger picture to this many pixels")
    mark: Literal["start", "persistent"] = Field(
        "start", description="The visible mark of AI content: at the start, or throughout"
    )

    def asked(self) -> dict[str, Any]:
        """What differs from the defaults, as plain values."""
        return self.model_dump(mode="json", exclude_defaults=True)


class FilesByUrl(BaseModel):
    """A job whose files the service fetches itself, from hosts that it was allowed to."""

    model_config = ConfigDict(extra="forbid")

    portrait_url: str = Field(max_length=2000, examples=["https://files.example.org/portrait.png"])
    speech_url: str = Field(max_length=2000, examples=["https://files.example.org/speech.wav"])
    consent: bool = Field(description="The person shown agreed to this video", examples=[True])
    settings: VideoSettings = VideoSettings()  # type: ignore[call-arg]


class LineSettings(VideoSettings):
    """What a line of a list may ask for: more than a client may, since whoever writes it runs the command."""

    steps: int | None = Field(None, ge=1, le=1000)
    guidance: float | None = Field(None, ge=0, le=100)
    size: tuple[Annotated[int, Field(ge=16, le=4096)], Annotated[int, Field(ge=16, le=4096)]] | None = None  # height, width
    crf: int = Field(18, ge=0, le=51)
    mark: Literal["start", "persistent", "off"] = "start"  # type: ignore[assignment]
    mark_text: str | None = None
    mark_reason: str | None = None
    separate_vocals: bool = False


def in_words(error: ValidationError | RequestValidationError) -> str:
    """The first thing that does not fit, in one line."""
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


class TicketView(BaseModel):
    """A job was taken. Keep the secret: it alone opens the job."""

    id: str = Field(examples=["5f0c8a3e9b1d4c7fa2e6b8d0c4f1a793"])
    secret: str = Field(examples=["9d1c…40 characters"])
    is_new: bool = Field(description="False: this idempotency key came before, and this is its job")
    speech_s: float = Field(examples=[12.4])


class ProgressView(BaseModel):
    """Where a run stands."""

    stage: str = Field("", examples=["animating"])
    clips_done: int = 0
    clips_total: int = 0
    frames_done: int = 0
    frames_total: int = 0
    left_s: float | None = None


class JobView(BaseModel):
    """A job as its owner sees it."""

    id: str
    status: Literal["queued", "running", "done", "failed", "cancelled", "expired"]
    num_before: int = Field(description="Jobs that come before it, while it waits")
    progress: ProgressView
    note: str = Field(description="Why it failed, or what was chosen")
    speech_s: float
    created_s: float = Field(description="Seconds since 1970")
    started_s: float | None
    finished_s: float | None


class ErrorView(BaseModel):
    """One line: what was given, what is needed, what to do."""

    error: str = Field(examples=["no face was found in the picture (640x480 px): give one where the whole face is seen"])


def view_of(job: Job, num_before: int) -> JobView:
    """What of a row its owner may see."""
    known = ProgressView.model_fields
    return JobView(
        id=job.id,
        status=job.status,  # type: ignore[arg-type]
        num_before=num_before,
        progress=ProgressView(**{name: value for name, value in job.progress.items() if name in known}),
        note=job.note,
        speech_s=job.duration_s,
        created_s=job.created_s,
        started_s=job.started_s,
        finished_s=job.finished_s,
    )
