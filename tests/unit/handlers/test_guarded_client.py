"""The guarded client reaches what it may, pins what it checked, and ends when its time is over."""

import contextlib
import ipaddress
import os
import resource
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from handlers.contract import Refused, Unavailable
from handlers.support.address_policy import AllowedAddresses, resolve
from handlers.support.deadline import Deadline
from handlers.support.guarded_client import GuardedClient, parse_url
from tests.servers.artifacts import ArtifactServer
from tests.support.waiting import Stopwatch

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Names:
    """A resolver of the test's own: gives the next answer each time, and remembers what was asked."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str, port: int, seconds: float) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def full() -> Iterator[int]:
    """The port of a listener whose queue is full, so that the kernel drops each further SYN."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, contextlib.ExitStack() as held:
        for _ in range(3):
            one = held.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.mark.parametrize("addresses", [1, 200])
def test_server_that_drops_packets_is_given_up_in_time(full: int, addresses: int) -> None:
    names = Names(["127.0.0.1"] * addresses)
    client = GuardedClient(["127.0.0.1"], timeout=60, connect_timeout=0.3, resolver=names)
    watch = Stopwatch()

    with pytest.raises(Unavailable, match="did not respond in time"):
        client.request("POST", f"http://many.example:{full}/", content=b"", deadline=Deadline(60))

    assert watch.seconds < 30
    client.close()


@pytest.fixture
def server() -> Iterator[ArtifactServer]:
    with ArtifactServer() as running:
        yield running


def fetch(client: GuardedClient, url: str, seconds: float = 10, **headers: str) -> tuple[int, bytes]:
    try:
        with client.get_stream(url, headers=headers, deadline=Deadline(seconds)) as download:
            return download.status, b"".join(download.chunks())
    finally:
        client.close()


@pytest.mark.parametrize(
    ("entries", "host", "address", "passes"),
    [
        (["minio.internal"], "minio.internal", "10.0.0.1", True),
        (["MinIO.internal."], "minio.internal", "10.0.0.1", True),
        (["minio.internal"], "evil.internal", "10.0.0.1", False),
        (["minio.internal"], "sub.minio.internal", "10.0.0.1", False),
        (["10.1.0.0/16"], "x", "10.1.2.3", True),
        (["10.1.0.0/16"], "x", "10.2.0.1", False),
        (["10.1.0.0/16"], "x", "::ffff:10.1.2.3", False),
        (["127.0.0.1"], "x", "127.0.0.1", True),
        (["[fd00::1]"], "x", "fd00::1", True),
        ([], "x", "8.8.8.8", True),
        (["minio.internal:9000"], "minio.internal", "10.0.0.1", True),
        (["minio.internal:9001"], "minio.internal", "10.0.0.1", False),
        (["10.1.2.3:9000"], "x", "10.1.2.3", True),
        (["10.1.2.3:9001"], "x", "10.1.2.3", False),
        (["[fd00::1]:9000"], "x", "fd00::1", True),
        (["[fd00::1]:9001"], "x", "fd00::1", False),
        (["fd00::/8"], "x", "fd00::1", True),
    ],
)
def test_the_operator_lists_hosts_and_networks(entries: list[str], host: str, address: str, passes: bool) -> None:
    assert (AllowedAddresses(entries).check(host, ipaddress.ip_address(address), 9000) == "") is passes


@pytest.mark.parametrize(
    "entry", ["http://x", "a b", "", "10.0.0.0/99", "*.internal", "host:0", "host:99999", "host:x", "[x"]
)
def test_a_listing_that_means_nothing_is_an_error(entry: str) -> None:
    with pytest.raises(ValueError, match="is not a host name, address or network"):
        AllowedAddresses([entry])


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "ftp://example.com/", "gopher://example.com/", "//example.com/x", "example.com", "",
        "http:///x",
        "http://user:pw@example.com/",
        "http://example.com@127.0.0.1/", "http://127.0.0.1%2f@example.com/",
        "http://a\nb/",
        "http://example.com:99999/", "http://example.com:0/", "http://[::1/", "javascript:alert(1)",
        "data:text/plain,x",
        "http://" + "a" * 300 + "/", "http://example.com/" + "a" * 9000, "http://\ud800/", "http://①②⑦.⓪.⓪.①/",
    ],
)  # fmt: skip
def test_what_is_no_plain_web_address_is_refused(url: str) -> None:
    with pytest.raises(Refused):
        parse_url(url)


def test_an_error_never_shows_a_signature() -> None:
    with pytest.raises(Refused) as caught:
        parse_url("ftp://user:pw@example.com/x?sig=hush-hush")
    assert "hush" not in str(caught.value)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    "spelling",
    ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "localhost", "[::1]", "[::ffff:127.0.0.1]", "127。0。0。1", "0"],
)
def test_no_spelling_of_this_machine_is_reached(server: ArtifactServer, spelling: str) -> None:
    server.add("/", b"secret")
    with pytest.raises(Refused, match="allowed_addresses"):
        fetch(GuardedClient(), f"http://{spelling}:{server.port}/")
    assert server.seen == []


def test_public_name_with_a_private_address_is_refused(server: ArtifactServer) -> None:
    names = Names(["127.0.0.1"])
    with pytest.raises(Refused, match=r"files\.example is a loopback address"):
        fetch(GuardedClient(resolver=names), f"http://files.example:{server.port}/")
    assert server.seen == []


def test_a_listed_host_is_reached_by_its_name_and_resolved_once(server: ArtifactServer) -> None:
    names = Names(["127.0.0.1"], ["10.255.255.1"])
    server.add("/a", b"whole")
    assert fetch(GuardedClient(["files.internal"], resolver=names), f"http://files.internal:{server.port}/a") == (
        200,
        b"whole",
    )
    assert names.asked == ["files.internal"]
    assert server.seen[0].headers["host"] == f"files.internal:{server.port}"


def test_connection_goes_to_the_checked_address(server: ArtifactServer) -> None:
    """DNS rebinding: good at the check, private at the connect. There is no second look-up that could differ."""
    with socket.create_server(("127.0.0.2", 0)) as private:
        names = Names(["127.0.0.1"], ["127.0.0.2"])
        client = GuardedClient(["127.0.0.1"], resolver=names)
        server.add("/", b"pinned")
        assert fetch(client, f"http://rebind.example:{server.port}/") == (200, b"pinned")
        # And where the second look-up is of a new connection, it is checked anew.
        with pytest.raises(Refused, match="loopback"):
            fetch(client, f"http://rebind.example:{private.getsockname()[1]}/")


def test_private_addresses_among_the_answers_are_left_out(server: ArtifactServer) -> None:
    names = Names(["10.255.255.1", "127.0.0.1"])
    server.add("/", b"ok")
    assert fetch(GuardedClient(["127.0.0.1"], resolver=names), f"http://two.example:{server.port}/") == (200, b"ok")


def test_each_redirect_is_checked_again(server: ArtifactServer) -> None:
    server.add("/in", status=302, headers={"location": f"http://127.0.0.2:{server.port}/secret"})
    with pytest.raises(Refused, match=r"127\.0\.0\.2 is a loopback address"):
        fetch(GuardedClient(["127.0.0.1"]), server.url + "/in")
    assert server.paths() == ["/in"]


@pytest.mark.parametrize("location", ["file:///etc/passwd", "http://u:p@127.0.0.1/", "gopher://x/"])
def test_a_redirect_to_what_is_no_web_address_is_refused(server: ArtifactServer, location: str) -> None:
    server.add("/in", status=307, headers={"location": location})
    with pytest.raises(Refused):
        fetch(GuardedClient(["127.0.0.1"]), server.url + "/in")


def test_redirects_end(server: ArtifactServer) -> None:
    server.add("/loop", status=301, headers={"location": "/loop"})
    with pytest.raises(Refused, match="more than 5 times"):
        fetch(GuardedClient(["127.0.0.1"]), server.url + "/loop")
    assert len(server.seen) == 6


def test_the_key_stays_at_its_origin(server: ArtifactServer) -> None:
    with ArtifactServer() as other:
        server.add("/a", status=302, headers={"location": "/b"})
        server.add("/b", status=302, headers={"location": other.url + "/c"})
        other.add("/c", b"there")
        client = GuardedClient(["127.0.0.1"])
        assert fetch(client, server.url + "/a", **{"x-api-key": "hush"}) == (200, b"there")
        assert [seen.headers.get("x-api-key") for seen in (*server.seen, *other.seen)] == ["hush", "hush", None]


def test_the_environment_sets_no_proxy_and_no_password(
    server: ArtifactServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login u password p\n")
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server.add("/", b"direct")
    assert fetch(GuardedClient(["127.0.0.1"]), server.url + "/") == (200, b"direct")
    assert "authorization" not in server.seen[0].headers
    assert server.seen[0].headers["accept-encoding"] == "identity"


def test_one_silent_wait_is_shorter_than_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        watch = Stopwatch()
        with pytest.raises(Unavailable, match="did not respond in time"):
            fetch(GuardedClient(["127.0.0.1"], timeout=0.2), f"http://127.0.0.1:{silent.getsockname()[1]}/", seconds=60)
        watch.at_most(10)


def test_unknown_names_and_hanging_lookups_are_unavailable() -> None:
    def not_there(host: str, port: int, seconds: float) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    def hangs(host: str, port: int, seconds: float) -> Sequence[str]:
        raise TimeoutError

    with pytest.raises(Unavailable, match="was not found"):
        fetch(GuardedClient(resolver=not_there), "http://nowhere.example/")
    with pytest.raises(Unavailable, match="the DNS lookup timed out"):
        fetch(GuardedClient(resolver=hangs), "http://nowhere.example/")


def test_the_systems_resolver_knows_this_machine() -> None:
    assert set(resolve("localhost", 80, 5)) <= {"127.0.0.1", "::1"}


def test_file_limit_of_the_process_is_reported(server: ArtifactServer) -> None:
    client = GuardedClient(["127.0.0.1"])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(Unavailable, match="no more files may be open here: allow more"):
            fetch(client, server.url)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_tls_checks_the_name_and_not_the_pinned_address(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", "/CN=files.example", "-addext", "subjectAltName=DNS:files.example",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(certificate))
    names = Names(["127.0.0.1"])

    def client() -> GuardedClient:
        return GuardedClient(["127.0.0.1"], resolver=names, make_tls=lambda: trusting)

    with ArtifactServer(tls=serving) as server:
        server.add("/", b"sealed")
        assert fetch(client(), f"https://files.example:{server.port}/") == (200, b"sealed")
        with pytest.raises(Unavailable, match="certificate does not hold"):
            fetch(client(), f"https://other.example:{server.port}/")
        server.add("/down", status=302, headers={"location": "http://files.example/"})
        with pytest.raises(Refused, match="from https to http"):
            fetch(client(), f"https://files.example:{server.port}/down")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-a", "1\r\nx-b: 2"),
        ("x-a", "1\nx-b"),
        ("x-a\r\nx-b", "1"),
        ("", "1"),
        ("x a", "1"),
        ("x-a", "\x00"),
        ("x-a", "snow \u2603"),
    ],
)
def test_header_that_http_does_not_allow_is_refused(server: ArtifactServer, name: str, value: str) -> None:
    with pytest.raises(Refused, match="HTTP does not allow"):
        fetch(GuardedClient(["127.0.0.1"]), server.url + "/", **{name: value})

    assert server.seen == []


def test_a_deadline_is_shared_by_everything_that_uses_it(server: ArtifactServer) -> None:
    with pytest.raises(Unavailable, match="not done within"):
        GuardedClient(["127.0.0.1"]).request("POST", server.url + "/", content=b"", deadline=Deadline(0))


@pytest.mark.parametrize(("method", "second", "asked"), [("GET", b"", 3), ("GET", b"HTTP/1.1 2", 2), ("POST", b"", 2)])
def test_a_get_that_met_a_server_which_hung_up_is_sent_once_more(method: str, second: bytes, asked: int) -> None:
    """The server reads the second request of its first connection, and closes it after these bytes. A POST may have
    done what it asks for: each is an attempt of its own."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk() -> None:
            with contextlib.suppress(OSError):  # nobody came again
                for answers in ((ANSWER, second), (ANSWER,)):
                    with listener.accept()[0] as connection:
                        for answer in answers:
                            seen.append(connection.recv(65536))
                            connection.sendall(answer)

        threading.Thread(target=talk, daemon=True).start()
        client, url = GuardedClient(["127.0.0.1"]), f"http://127.0.0.1:{listener.getsockname()[1]}/"
        assert client.request(method, url, deadline=Deadline(5)).status == 200

        with pytest.raises(Unavailable) if asked == 2 else contextlib.nullcontext():
            assert client.request(method, url, deadline=Deadline(5)).status == 200

        assert len(seen) == asked
        client.close()
