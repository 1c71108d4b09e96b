"""From what a client sends, or says where to find, to a job."""

import tempfile
from dataclasses import dataclass
from typing import BinaryIO

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from joyhallo.errors import UserError
from joyhallo.serve.fetching import Fetcher
from joyhallo.serve.jobs import Asked, Consent, Jobs
from joyhallo.serve.metrics import Metrics
from joyhallo.serve.records import LimitError
from joyhallo.serve.schemas import TicketView, VideoSettings
from joyhallo.serve.uploads import Uploads

_LOOKING = 2  # one is looked at, the next is being copied
_FETCHING = 8


class NotAllowedError(UserError):
    """The one who runs the service has not switched this on."""


@dataclass(frozen=True)
class Wish:
    """What comes beside the two files."""

    client: str
    settings: VideoSettings
    consent: bool
    idempotency_key: str | None


class HandingIn:
    """Makes jobs of uploads. Who waits for the process that looks at them holds no thread: those are for all others."""

    def __init__(self, jobs: Jobs, uploads: Uploads, metrics: Metrics, fetcher: Fetcher | None = None) -> None:
        self._jobs, self._uploads, self._metrics, self._fetcher = jobs, uploads, metrics, fetcher
        self._looking, self._fetching = CapacityLimiter(_LOOKING), CapacityLimiter(_FETCHING)

    async def files(self, portrait: BinaryIO, speech: BinaryIO, wish: Wish) -> TicketView:
        """A job of two files that came with the request.

        Raises:
            UserError: they cannot be used, or no more jobs are taken.
        """
        _require_consent(wish)
        return await run_sync(self._take, portrait, speech, wish, limiter=self._looking)

    async def urls(self, portrait: str, speech: str, wish: Wish) -> TicketView:
        """A job of two files that are fetched first.

        Raises:
            NotAllowedError: nothing is fetched here.
            FetchError: one cannot be fetched.
            UserError: as `files`.
        """
        fetcher = self._fetcher
        if fetcher is None:
            raise NotAllowedError("files are not fetched from addresses here: send them with POST /v1/jobs")
        _require_consent(wish)
        limits = self._uploads.limits

        def fetch(into_portrait: BinaryIO, into_speech: BinaryIO) -> None:
            fetcher.fetch(portrait, into_portrait, "portrait", limits.portrait_bytes)
            fetcher.fetch(speech, into_speech, "speech", limits.speech_bytes)

        folder = self._uploads.folder
        with tempfile.TemporaryFile(dir=folder) as own_portrait, tempfile.TemporaryFile(dir=folder) as own_speech:
            await run_sync(fetch, own_portrait, own_speech, limiter=self._fetching)
            return await self.files(own_portrait, own_speech, wish)

    def _take(self, portrait: BinaryIO, speech: BinaryIO, wish: Wish) -> TicketView:
        try:
            with self._uploads.taken(portrait, speech, wish.settings.face_index) as taken:
                asked = Asked(
                    taken.portrait,
                    taken.speech,
                    taken.duration_s,
                    wish.client,
                    Consent(is_given=True),
                    wish.settings.asked(),
                    wish.idempotency_key,
                )
                ticket = self._jobs.submit(asked)
        except LimitError:
            raise
        except UserError:
            self._metrics.refused.inc()
            raise
        return TicketView(id=ticket.id, secret=ticket.secret, is_new=ticket.is_new, speech_s=taken.duration_s)


def _require_consent(wish: Wish) -> None:
    if not wish.consent:
        raise UserError("the consent of the person shown is missing: ask them, and send consent=true")
