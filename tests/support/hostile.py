"""Bodies that each break something somewhere: a parser, a template, a path, a database."""

from __future__ import annotations

import itertools
import json
from typing import Any


def hostile_bodies(inside: str, redirect: str) -> list[bytes]:
    """Bodies as no Skyvern sends them."""
    number = itertools.count()

    def run(**more: Any) -> dict[str, Any]:
        base = {"run_id": f"tsk_bad_{next(number)}", "run_type": "task_v1", "status": "failed", "output": None}
        return base | {"failure_reason": "because", "created_at": "2026-11-24T10:00:00"} | more

    def raw(text: str) -> bytes:
        return json.dumps(run(output="@@")).replace('"@@"', text).encode()

    deep = "[" * 300 + "]" * 300
    deeper = '{"a":' * 5000 + "1" + "}" * 5000
    files = [
        {"filename": name, "url": f"http://{inside}/x", "checksum": "0" * 64} for name in ("../../x", "/etc/x", "\0")
    ]
    urls = [
        f"http://{inside}/",
        f"http://user@{inside}/",
        f"http://[::ffff:127.0.0.2]:{inside.rpartition(':')[2]}/",
        f"http://2130706434:{inside.rpartition(':')[2]}/",
        f"http://0x7f.0.0.2:{inside.rpartition(':')[2]}/",
        "http://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        redirect,
    ]
    mention = "<!channel> <@U012345> <#C1> <http://evil.example|click> *b* `c` &lt;!here&gt; @here"
    values = [
        *(run(recording_url=url) for url in urls),
        run(downloaded_files=files),
        run(downloaded_files="x", recording_urls={"a": 1}, screenshot_urls=[None, 1, [], "\ud800"]),
        run(failure_reason=mention, title=mention, workflow_title=mention, output={"a": mention}),
        run(failure_reason="{{ 7*7 }}{% for x in range(10**9) %}x{% endfor %}", title="${jndi:ldap://x}"),
        run(
            extra_http_headers={"authorization": "the-secret-header"},
            output={"extra_http_headers": "the-secret-header"},
        ),
        run(run_id="../../../../etc/passwd"),
        run(run_id="..", run_type=".."),
        run(run_id="a/b\\c:d", run_type="x/../y"),
        run(run_id="\u202egnp.exe"),
        run(run_id="' OR 1=1; DROP TABLE runs; --"),
        run(run_id="x" * 201),
        run(run_id=5),
        run(run_id=None),
        run(status=["failed"]),
        run(status="failed\nforged line", run_type="\x1b[2Jx"),
        run(attempt=10**30, created_at="0000-99-99", modified_at="9999-12-31T23:59:59+14:00", finished_at=1e308),
        run(errors={"a": "b"}, attempts="x", retry_pending="yes"),
        run(output={"x" * 5000: "y", "": {"": ""}, "__class__": {"__init__": 1}, "a.b": 1}),
        run(output={f"k{n}": n for n in range(20_000)}),
        run(output={"total": "x" * 400_000}),
    ]
    return [
        *(json.dumps(each).encode() for each in values),
        raw('"\\u0000"'),
        raw('"\\ud800"'),
        raw("NaN"),
        raw("1e400"),
        raw("9" * 5000),
        raw(deep),
        raw(deeper),
        raw('"\xff"').replace(b"\xc3\xbf", b"\xff"),
        b"",
        b"null",
        b"[]",
        b"{",
        b"\x00\xff\xfe",
        b'{"run_id": "tsk_dup", "status": "failed", "run_id": "tsk_dup2"}',
    ]


def hostile_requests(size: int) -> dict[str, bytes]:
    """Bodies of calls, each of `size` bytes or a little less, that cost the most to read, by what is many in them."""

    def filled(before: bytes, piece: bytes, after: bytes) -> bytes:
        return before + piece * ((size - len(before) - len(after)) // len(piece)) + after

    name = itertools.count()
    names = b",".join(b'"k%d":1' % next(name) for _ in range(size // 14))
    return {
        "equal names": filled(b'{"prompt":"p"', b',"a":1', b"}"),
        "names": b"{" + names + b"}",
        "lists": filled(b'{"prompt":"p","a":[1', b",[]", b"]}"),
        "objects": filled(b'{"prompt":"p","a":[1', b",{}", b"]}"),
        "labels": filled(b'{"prompt":"p","labels":{"a":1', b',"b":1', b"}}"),
        "escapes": filled(b'{"prompt":"', b'\\"', b'"}'),
        "units": filled(b'{"prompt":"', b"\\u0000", b'"}'),
        "commas": filled(b'{"prompt":"', b",", b'"}'),
        "strings": filled(b'{"prompt":"p","a":[""', b',""', b"]}"),
        "quotes": filled(b'{"prompt":', b'"', b"}"),
        "space": filled(b'{"prompt":"p"', b" ", b"}"),
        "depth": filled(b'{"prompt":"p","a":', b"[", b""),
        "address": filled(b'{"prompt":"p","webhook_url":"https://a.example/', b"a", b'"}'),
        "title": filled(b'{"prompt":"p","title":"', b"\xc3\xbc", b'"}'),
        "redacted": filled(b'{"prompt":"p","a":"', b"password ", b'"}'),
    }
