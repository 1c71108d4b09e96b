"""The files of the jobs: a folder for each, named by us, and the key from which their secrets come."""

import hashlib
import hmac
import os
import re
import secrets
import shutil
import time
from pathlib import Path

from joyhallo.errors import UserError
from joyhallo.media.files import written_whole

_ID = re.compile(r"[0-9a-f]{32}")
_ABANDONED_S = 3600.0  # a folder without a job that is older than this


def new_id() -> str:
    return secrets.token_hex(16)


class Storage:
    """Folders of jobs below `folder`/jobs.

    Raises:
        UserError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder / "jobs"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)  # faces and voices are in it
        except OSError as error:
            raise UserError(f"the folder '{folder}' of the service cannot be used ({error.strerror}): give another") from error
        self._key = _service_key(folder / "service.key")

    def of(self, job_id: str) -> Path:
        """The folder of a job; `job_id` is one of ours, checked again."""
        assert _ID.fullmatch(job_id), "no id of ours"
        return self.root / job_id

    def portrait(self, job_id: str) -> Path:
        return self.of(job_id) / "portrait.png"

    def speech(self, job_id: str) -> Path:
        return self.of(job_id) / "speech.wav"

    def result(self, job_id: str) -> Path:
        return self.of(job_id) / "result.mp4"

    def preview(self, job_id: str) -> Path:
        """The newest finished frame of a job that runs."""
        return self.of(job_id) / "preview.jpg"

    def keep_result(self, job_id: str) -> None:
        """Remove all but the video and its record."""
        result = self.result(job_id)
        for path in self.of(job_id).iterdir():
            if path.is_file() and path not in (result, result.with_name(result.name + ".json")):
                path.unlink(missing_ok=True)

    def remove(self, job_id: str) -> None:
        shutil.rmtree(self.of(job_id), ignore_errors=True)

    def sweep(self, known: set[str]) -> None:
        """Remove folders that belong to no job: an upload that was cut off, a removal that was."""
        for folder in self.root.iterdir():
            if folder.name not in known and _ID.fullmatch(folder.name) and time.time() - _changed_s(folder) > _ABANDONED_S:
                self.remove(folder.name)

    def secret(self, job_id: str) -> str:
        """What opens a job. It comes from the key of the service, so that it is stored nowhere."""
        return hmac.new(self._key, job_id.encode(), hashlib.sha256).hexdigest()[:40]

    def opens(self, job_id: str, secret: str) -> bool:
        return bool(_ID.fullmatch(job_id)) and hmac.compare_digest(self.secret(job_id).encode(), secret.encode())


def _changed_s(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _service_key(path: Path) -> bytes:
    """The key in that file, made on first use; processes that start together take the same."""
    if not path.exists():
        with written_whole(path.with_name(f"{path.name}.{os.getpid()}"), "key of the service", UserError) as temporary:
            temporary.touch(mode=0o600)
            temporary.chmod(0o600)
            temporary.write_bytes(secrets.token_bytes(32))
        made = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            os.link(made, path)  # fails where another was quicker
        except FileExistsError:
            pass
        finally:
            made.unlink()
    return path.read_bytes()
