"""C2PA content credentials: a signed statement inside the file that a trained algorithm made it (extra `labels`)."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from joyhallo.errors import UserError
from joyhallo.media.files import require_file, written_whole
from joyhallo.media.writer import VideoWriter

CredentialState = Literal["trusted", "valid", "invalid", "absent", "unknown"]

_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_OFFLINE = {"verify": {"remote_manifest_fetch": False}}
_EXTRA = "install joyhallo[labels]"


class CredentialError(UserError):
    """Credentials that cannot be written or read; the message says why and what to do."""


@dataclass(frozen=True)
class Credentials:
    """What a file's C2PA manifest says.

    "trusted": whole, and signed by a certificate on a trust list; "valid": whole, signed by another one; "invalid": the file
    or the manifest was changed after signing; "absent": no manifest; "unknown": the extra is not installed.
    """

    state: CredentialState
    note: str
    is_ai_generated: bool = False  # its manifest declares trainedAlgorithmicMedia


def sign_c2pa(
    path: str | Path,
    certificates: str | Path,
    private_key: str | Path,
    *,
    title: str | None = None,
    generator: str = "joyhallo",
    timestamp_url: str | None = None,
) -> None:
    """Sign a finished video in place: created by a trained algorithm. Nothing may change the file afterwards.

    Parameters
    ----------
    path : an mp4 or mov; replaced whole, or left as it is.
    certificates : PEM chain, the signing certificate first. private_key : its PEM key (P-256, for ES256).
    title : how the manifest calls the file; its name by default.
    generator : the program named in the manifest, as "name" or "name/version".
    timestamp_url : a time-stamping authority; None signs offline, without a time that others vouch for.

    Raises
    ------
    CredentialError : the extra is missing, a file cannot be read, the key does not fit, or the signature does not verify.
    """
    try:
        import c2pa
    except ImportError as problem:
        raise CredentialError(f"signing with C2PA needs the package c2pa-python: {_EXTRA}") from problem

    path = require_file(path, "video", CredentialError)
    chain = require_file(certificates, "certificate file", CredentialError).read_bytes()
    key = require_file(private_key, "private key", CredentialError).read_bytes()
    if path.suffix.lower() not in (".mp4", ".mov"):
        raise CredentialError(f"'{path}' cannot carry C2PA credentials: use .mp4 or .mov")
    called = title or f"'{path}'"
    name, _, version = generator.partition("/")
    manifest = {"claim_generator_info": [{"name": name, "version": version or "0"}], "title": title or path.name}
    try:
        info = c2pa.C2paSignerInfo(c2pa.C2paSigningAlg.ES256, chain, key, timestamp_url)
        with (
            written_whole(path, "signed video", CredentialError) as temporary,
            c2pa.Signer.from_info(info) as signer,
            c2pa.Builder(json.dumps(manifest)) as builder,
        ):
            builder.set_intent(c2pa.C2paBuilderIntent.CREATE, c2pa.C2paDigitalSourceType.TRAINED_ALGORITHMIC_MEDIA)
            builder.sign_file(path, temporary, signer)
            signed = read_credentials(temporary)
            if signed.state not in ("trusted", "valid") or not signed.is_ai_generated:
                raise CredentialError(f"the signature of {called} does not verify ({signed.note}): check certificate and key")
    except c2pa.C2paError as problem:
        raise CredentialError(
            f"{called} cannot be signed with '{certificates}' ({_one_line(problem)}): give a certificate chain and its own key"
        ) from problem


def check_signing(certificates: str | Path, private_key: str | Path) -> None:
    """Sign one black frame, to find out before a long run and not after it.

    Raises
    ------
    CredentialError : as `sign_c2pa`.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.mp4"
        with VideoWriter(path, size=(64, 64), speech=None, metadata={}) as writer:
            writer.write(np.zeros((64, 64, 3), np.uint8))
        sign_c2pa(path, certificates, private_key, title="the video")


def read_credentials(path: str | Path) -> Credentials:
    """Read and verify the C2PA manifest of a file.

    Raises
    ------
    CredentialError : the file is missing or cannot be read.
    """
    path = require_file(path, "file", CredentialError)
    try:
        import c2pa
    except ImportError:
        return Credentials("unknown", f"C2PA was not checked: {_EXTRA}")
    try:
        # A manifest may name an address to fetch a remote one from; a file under examination must not make us call it.
        with c2pa.Context.from_dict(_OFFLINE) as context, c2pa.Reader(path, context=context) as reader:
            report: dict[str, Any] = json.loads(reader.json())
            state = str(reader.get_validation_state() or "")
    except c2pa.C2paError as problem:
        if "ManifestNotFound" in type(problem).__name__:
            return Credentials("absent", "no C2PA manifest")
        if "NotSupported" in type(problem).__name__:
            return Credentials("absent", f"files of type '{path.suffix}' carry no C2PA manifest")
        return Credentials("invalid", f"the C2PA manifest cannot be read: {_one_line(problem)}")
    active = report.get("manifests", {}).get(report.get("active_manifest"), {})
    is_ai_generated = _declares_ai(active)
    failures = sorted({str(entry.get("code")) for entry in _failures(report)})
    issuer = (active.get("signature_info") or {}).get("issuer") or "an unnamed issuer"
    if state == "Trusted":
        return Credentials("trusted", f"signed by {issuer}", is_ai_generated)
    # A certificate that is on no trust list says nothing against the file.
    serious = [code for code in failures if code != "signingCredential.untrusted"]
    if serious or state not in ("Valid", "Invalid"):
        return Credentials("invalid", ", ".join(serious) or f"state {state!r}", is_ai_generated)
    return Credentials("valid", f"signed by {issuer}, whose certificate is on no trust list", is_ai_generated)


def _declares_ai(manifest: dict[str, Any]) -> bool:
    actions = [
        action
        for assertion in manifest.get("assertions", [])
        if str(assertion.get("label", "")).startswith("c2pa.actions")
        for action in (assertion.get("data") or {}).get("actions", [])
    ]
    return any(action.get("digitalSourceType") == _SOURCE_TYPE for action in actions)


def _failures(report: dict[str, Any]) -> list[dict[str, Any]]:
    results = report.get("validation_results") or {}
    return [*((results.get("activeManifest") or {}).get("failure") or []), *(report.get("validation_status") or [])]


def _one_line(problem: BaseException) -> str:
    return " ".join(str(problem).split())[:160]
