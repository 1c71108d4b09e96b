"""Signed statements: written last, verified, broken by any later change."""

import datetime
import sys

import numpy as np
import pytest

from joyhallo.media.credentials import check_signing
from joyhallo.media.labels import METADATA_KEY, CredentialError, new_label, read_credentials, sign_c2pa, verify_file
from joyhallo.media.video import VideoWriter, probe_video

pytest.importorskip("c2pa")
x509 = pytest.importorskip("cryptography.x509")


def make_chain(folder, name):
    """A root and a signing certificate (ES256), written as PEM; nobody trusts them."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def certificate(subject, public_key, is_root):
        named, issuer = (
            x509.Name(
                [x509.NameAttribute(x509.NameOID.COMMON_NAME, text), x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Test")]
            )
            for text in (subject, "root")
        )
        usage = x509.KeyUsage(not is_root, False, False, False, False, is_root, is_root, False, False)
        builder = x509.CertificateBuilder().subject_name(named).issuer_name(issuer).public_key(public_key)
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + 9 * day)
        builder = builder.add_extension(x509.BasicConstraints(is_root, None), True).add_extension(usage, True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), False)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), False)
        if not is_root:
            builder = builder.add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
        return builder.sign(root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    chain, private = folder / f"{name}.pem", folder / f"{name}.key"
    chain.write_bytes(certificate("leaf", key.public_key(), False) + certificate("root", root_key.public_key(), True))
    secret = serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret))
    return chain, private


@pytest.fixture
def labelled(tmp_path):
    path = tmp_path / "a.mp4"
    with VideoWriter(path, size=(64, 64), speech=None, metadata={METADATA_KEY: new_label("me", "7").to_json()}) as writer:
        for index in range(5):
            writer.write(np.full((64, 64, 3), index * 40, np.uint8))
    return path


def test_signed_verified_and_the_embedded_label_survives(tmp_path, labelled):
    assert verify_file(labelled).c2pa.state == "absent"
    sign_c2pa(labelled, *make_chain(tmp_path, "one"), title="A film", generator="joyhallo/1.2")
    report = verify_file(labelled)
    assert report.c2pa.state == "valid"
    assert report.c2pa.is_ai_generated
    assert "trust list" in report.c2pa.note
    assert report.is_sound
    assert report.aigc == new_label("me", "7")
    assert probe_video(labelled).num_frames == 5


def test_any_later_change_is_noticed(tmp_path, labelled):
    sign_c2pa(labelled, *make_chain(tmp_path, "one"))
    content = bytearray(labelled.read_bytes())
    content[-200] ^= 1
    labelled.write_bytes(content)
    report = verify_file(labelled)
    assert report.c2pa.state == "invalid"
    assert report.is_labelled
    assert not report.is_sound


def test_a_foreign_key_leaves_the_file_as_it_was(tmp_path, labelled):
    chain, key = make_chain(tmp_path, "one")
    _, other_key = make_chain(tmp_path, "two")
    before, names = labelled.read_bytes(), sorted(tmp_path.iterdir())
    for certificates, private in ((chain, other_key), (key, chain), (chain, chain)):
        with pytest.raises(CredentialError, match="cannot be signed with") as caught:
            sign_c2pa(labelled, certificates, private)
        assert "\n" not in str(caught.value)
    with pytest.raises(CredentialError, match="does not exist"):
        sign_c2pa(labelled, chain, tmp_path / "absent.key")
    assert labelled.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == names


def test_without_the_extra_it_says_what_to_install(monkeypatch, labelled):
    monkeypatch.setitem(sys.modules, "c2pa", None)
    assert read_credentials(labelled).state == "unknown"
    assert "joyhallo[labels]" in verify_file(labelled).c2pa.note
    assert verify_file(labelled).is_labelled
    with pytest.raises(CredentialError, match=r"joyhallo\[labels\]"):
        sign_c2pa(labelled, labelled, labelled)


def test_a_certificate_that_cannot_sign_is_found_before_there_is_a_video(tmp_path):
    chain, key = make_chain(tmp_path, "one")
    check_signing(chain, key)
    _, other_key = make_chain(tmp_path, "two")
    with pytest.raises(CredentialError, match="the video cannot be signed with"):
        check_signing(chain, other_key)
