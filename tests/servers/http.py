"""A scripted HTTP server on loopback: it gives the next reply of its script, and records every request.

    with ScriptedServer() as server:
        server.script += [Reply(503, {"retry-after": "7"}), Reply(drop=True)]
        ...
        server.requests[0].headers["webhook-id"]

Without a script, or after its end, it answers 204. Also over TLS, with certificates made here.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.waiting import eventually


@dataclass(frozen=True)
class Reply:
    """What one request gets. `delay`: seconds before the first byte; `drip`: seconds between two bytes of the answer.

    `until`: the answer waits for this event. `raw`: bytes instead of an HTTP answer. `drop`: the connection is closed
    instead. `cut`: closed after the head and half of the body.
    """

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    delay: float = 0.0
    until: threading.Event | None = None
    drip: float = 0.0
    raw: bytes | None = None
    drop: bool = False
    cut: bool = False


@dataclass(frozen=True)
class Request:
    """A request as it came, `at` a time of the monotonic clock. Header names are lower-case. `peer`: the client's port:
    one for each connection."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    peer: int
    certificate: dict[str, Any] | None
    at: float = field(default_factory=time.monotonic)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that leave early."""


class ScriptedServer:
    """See the module. `script`: replies to come, then `default`; `requests`: what has come."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.script: list[Reply] = []
        self.default = Reply()
        self.requests: list[Request] = []
        self.scheme = "https" if tls else "http"
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_port)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def wait_for_requests(self, count: int) -> None:
        """Wait until `count` requests have come."""
        eventually(lambda: len(self.requests) >= count, every=0.005, what=lambda: f"{len(self.requests)} of {count}")

    def _next(self, request: Request) -> Reply:
        with self._lock:
            self.requests.append(request)
            return self.script.pop(0) if self.script else self.default

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: object) -> None:
                pass

            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                certificate = self.connection.getpeercert() if isinstance(self.connection, ssl.SSLSocket) else None
                headers = {name.lower(): value for name, value in self.headers.items()}
                reply = owner._next(
                    Request(self.command, self.path, headers, body, self.client_address[1], certificate)
                )
                owner._stopping.wait(reply.delay)
                while reply.until and not reply.until.wait(0.02) and not owner._stopping.is_set():
                    pass
                if reply.drop:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self._write(reply)

            def _write(self, reply: Reply) -> None:
                sent = _bytes_of(reply, self.command)
                if reply.cut:
                    sent = sent[: len(sent) - len(reply.body) // 2]
                if reply.raw is not None or reply.cut or reply.headers.get("connection") == "close":
                    self.close_connection = True
                if not reply.drip:
                    self.wfile.write(sent)
                    return
                for start in range(len(sent)):
                    self.wfile.write(sent[start : start + 1])
                    if owner._stopping.wait(reply.drip):
                        return

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _any  # noqa: N815

        return Handler


def _bytes_of(reply: Reply, method: str) -> bytes:
    if reply.raw is not None:
        return reply.raw
    length = {} if reply.status == 204 else {"content-length": str(len(reply.body))}
    lines = [f"{name}: {value}" for name, value in {**length, **reply.headers}.items()]
    head = "\r\n".join([f"HTTP/1.1 {reply.status} Said", *lines, "", ""]).encode("latin-1")
    return head if method == "HEAD" else head + reply.body


class Authority:
    """A certificate authority of one test. Files are PEM."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.path = folder / f"{name}.pem"
        self._write(self.path, self._certificate(self._name, self._key, None))

    def issue(self, name: str, password: str = "") -> tuple[Path, Path]:
        """The certificate and the key of `name`, good for 127.0.0.1 and localhost; the key under `password`."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate, key_path = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        self._write(certificate, self._certificate(subject, key, ipaddress.ip_address("127.0.0.1")))
        locked: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if password:
            locked = serialization.BestAvailableEncryption(password.encode())
        key_path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked))
        return certificate, key_path

    def server_context(self, *, ask_for_client: bool = False) -> ssl.SSLContext:
        """For a ScriptedServer; with `ask_for_client` only those with a certificate of this authority get in."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue("server"))
        if ask_for_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.path)
        return context

    def _certificate(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, address: Any) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=address is None, path_length=None), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if address is None:
            usage = x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            )
            builder = builder.add_extension(usage, critical=True)
        else:
            names = x509.SubjectAlternativeName([x509.IPAddress(address), x509.DNSName("localhost")])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256())

    @staticmethod
    def _write(path: Path, certificate: x509.Certificate) -> None:
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
