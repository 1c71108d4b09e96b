"""Files by address: from allowed hosts alone, never from what only this machine reaches, within size and time."""

import datetime
import io
import ipaddress
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from joyhallo.errors import UserError
from joyhallo.serve.fetching import Fetcher, FetchError, is_public, read_allowed
from joyhallo.serve.settings import Limits

LIMITS = Limits(fetch_s=1.5)


class Files(BaseHTTPRequestHandler):
    """Answers by what the path says."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[tuple[str, dict[str, str]]]] = []

    def do_GET(self):
        self.asked.append((self.path, dict(self.headers)))
        kind = self.path[1:].split("?")[0]
        if kind.startswith("to-"):
            self.send_response(302)
            port = self.server.server_address[1]
            there = {"to-same": "/ok", "to-other": f"http://localhost:{port}/ok", "to-itself": "/to-itself"}[kind]
            self.send_header("Location", there)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(404 if kind == "missing" else 200)
        if kind == "endless":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", {"ok": "5", "large": "5000", "cut": "50"}.get(kind, "9"))
        self.end_headers()
        if kind == "endless":
            self.pour()
        elif kind == "slow":
            for _ in range(9):
                time.sleep(0.4)
                self.wfile.write(b"x")
        else:
            self.wfile.write(b"whole" if kind != "large" else b"x" * 5000)
        self.close_connection = True

    def pour(self):
        for _ in range(1000):
            self.wfile.write(b"64\r\n" + b"x" * 100 + b"\r\n")

    def handle(self):
        try:
            super().handle()
        except (ConnectionError, ssl.SSLError):
            return  # the client has had enough

    def log_message(self, *_):
        return


@pytest.fixture
def server():
    Files.asked.clear()
    served = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    served.daemon_threads = True
    threading.Thread(target=served.serve_forever, args=(0.05,), daemon=True).start()
    yield served
    served.shutdown()
    served.server_close()


@pytest.fixture
def port(server) -> int:
    return server.server_address[1]


def fetched(url: str, *allowed: str, most_bytes: int = 1000) -> bytes:
    file = io.BytesIO()
    Fetcher(read_allowed(allowed), LIMITS).fetch(url, file, "portrait", most_bytes)
    assert file.tell() == 0
    return file.read()


def test_a_file_of_an_allowed_host_comes_whole(port):
    here = f"127.0.0.1:{port}"
    assert fetched(f"http://{here}/ok?a=b c&d=é", here) == b"whole"
    path, headers = Files.asked[-1]
    assert path == "/ok?a=b%20c&d=%C3%A9"
    assert headers["Host"] == here
    assert fetched(f"http://{here}/to-same", here) == b"whole"
    assert fetched(f"http://localhost:{port}/ok", f"localhost:{port}", here) == b"whole"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("large", "more than 0.001 MB"),
        ("endless", "more than 0.001 MB"),
        ("missing", "answered 404"),
        ("cut", "broke off|IncompleteRead"),
        ("slow", "more than 1.5 s"),
        ("to-other", "sends on to another host|not fetched here"),
        ("to-itself", "more than 3 times"),
    ],
)
def test_what_is_too_much_too_slow_or_elsewhere_is_one_line(port, path, message):
    began = time.monotonic()
    with pytest.raises(FetchError, match=message):
        fetched(f"http://127.0.0.1:{port}/{path}", f"127.0.0.1:{port}", f"localhost:{port}")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://127.0.0.1:{}/ok", ()),
        ("http://127.0.0.1:{}/ok", ("*",)),
        ("http://127.0.0.1:{}/ok", ("127.0.0.1",)),  # its usual ports alone
        ("http://127.0.0.1:{}/ok", ("10.0.0.0/8",)),
        ("http://localhost:{0}/ok", ("localhost:{0}",)),  # by name, but its address is not public
        ("http://2130706433:{0}/ok", ("*:{0}",)),
        ("http://0x7f.1:{0}/ok", ("*:{0}",)),
        ("http://[::ffff:127.0.0.1]:{0}/ok", ("*:{0}",)),
        ("http://someone@127.0.0.1:{0}/ok", ("127.0.0.1:{0}",)),
        ("file:///etc/passwd", ("*",)),
        ("gopher://127.0.0.1:{0}/ok", ("127.0.0.1:{0}",)),
        ("http:///ok", ("*",)),
        ("http://[", ("*",)),
        ("http://127.0.0.1:99999/", ("*",)),
        ("", ("*",)),
    ],
)
def test_nothing_is_asked_of_what_is_not_allowed(port, url, allowed):
    with pytest.raises(FetchError):
        fetched(url.format(port), *(entry.format(port) for entry in allowed))
    assert Files.asked == []


def test_a_name_is_looked_up_once_and_every_address_of_it_counts(port, monkeypatch):
    looked_up = socket.getaddrinfo
    told = [["8.8.8.8", "127.0.0.1"]]
    asked = []

    def look_up(host, *given, **named):
        if host != "files.example.org":
            return looked_up(host, *given, **named)
        asked.append(host)
        return [found for address in told[0] for found in looked_up(address, *given, **named)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    url = f"http://files.example.org:{port}/ok"
    with pytest.raises(FetchError, match="not on the public internet"):
        fetched(url, f"files.example.org:{port}")
    assert Files.asked == []
    told[0], asked[:] = ["127.0.0.1"], []
    assert fetched(url, f"*.example.org:{port}", f"127.0.0.1:{port}") == b"whole"
    assert asked == ["files.example.org"]
    assert Files.asked[-1][1]["Host"] == f"files.example.org:{port}"
    with pytest.raises(FetchError):
        fetched(url, f"example.org:{port}", f"127.0.0.1:{port}")


def test_a_certificate_must_be_right(server, port, tmp_path, monkeypatch):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(write_certificate(tmp_path))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url, here = f"https://127.0.0.1:{port}/ok", f"127.0.0.1:{port}"
    with pytest.raises(FetchError, match="cannot be fetched from"):
        fetched(url, here)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    assert fetched(url, here) == b"whole"


def write_certificate(folder):
    """A key and a certificate that nobody signed, for 127.0.0.1."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "here")])
    now = datetime.datetime.now(datetime.UTC)
    built = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    built = built.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = built.add_extension(names, critical=False).sign(key, hashes.SHA256())
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "certificate.pem"
    path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("2002:7f00:1::", False),  # 6to4 of 127.0.0.1
        ("64:ff9b:1::a00:1", False),  # a local translator's, of 10.0.0.1
        ("::ffff:0:127.0.0.1", False),  # a stateless translator's
        ("::10.0.0.1", False),
        ("fec0::1", False),
        ("64:ff9b::a9fe:a9fe", False),  # a translator's, of 169.254.169.254
    ],
)
def test_which_addresses_are_of_the_internet(address, expected):
    assert is_public(ipaddress.ip_address(address)) is expected


@pytest.mark.parametrize("word", ["", "http://host", "a host", "host/path", "host:port", "user@host", "10.0.0.0/99"])
def test_an_entry_that_is_no_host_is_refused(word):
    with pytest.raises(UserError, match="--allow-urls"):
        read_allowed([word])
