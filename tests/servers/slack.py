"""A fake Slack on loopback: it validates messages as Slack does, stores them, and fails when a test wants it to.

A workspace has one channel, one webhook and one bot token. Every request is kept in `calls`.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from slack_sdk.errors import SlackObjectFormationError
from slack_sdk.models.blocks import Block

TOKEN = "xoxb-1-secret"
HOOK = "/services/T00000000/B00000000/secretsecretsecret"


@dataclass
class Fault:
    """The reply to the next `times` requests whose path contains `where`."""

    where: str
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    after: bool = False  # do the work first, then fail: the answer is lost
    times: int = 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


class FakeSlack:
    """The workspace. `messages`: what is shown, oldest first; `calls`: (path, arguments) of every request."""

    channel = "C0123456789"
    token = TOKEN

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.faults: list[Fault] = []
        self.files: dict[str, dict[str, Any]] = {}
        self.pages: dict[str, bytes] = {}  # what GET of a path gives: the world outside Slack
        self.scopes = {"chat:write", "channels:history", "files:write"}
        self.page = 100
        self.gates: dict[str, threading.Event] = {}  # what a method waits for, by its name
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def webhook_url(self) -> str:
        return self.url + HOOK

    @property
    def api_url(self) -> str:
        return self.url + "/api/"

    def fail(self, where: str, status: int = 200, body: bytes = b"", **more: Any) -> None:
        """Let the next request (or `times`) to a path with `where` in it fail."""
        self.faults.append(Fault(where, status, body, **more))

    def called(self, method: str) -> list[dict[str, Any]]:
        """The arguments of every call whose path ends in `method`."""
        return [arguments for path, arguments in self.calls if path.endswith(method)]

    @property
    def top(self) -> list[dict[str, Any]]:
        """Messages that are no replies."""
        return [message for message in self.messages if message.get("thread_ts") in (None, message["ts"])]

    def replies(self, ts: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message.get("thread_ts") == ts and message["ts"] != ts]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    # what Slack does

    def webhook(self, body: dict[str, Any]) -> tuple[int, bytes]:
        problem = _problem(body)
        if problem:
            return 400, problem.encode()
        self._keep(body)
        return 200, b"ok"

    def api(self, method: str, arguments: dict[str, Any], token: str) -> dict[str, Any]:
        if token != f"Bearer {self.token}":
            return {"ok": False, "error": "invalid_auth"}
        answer = getattr(self, "api_" + method.replace(".", "_"), None)
        return answer(arguments) if answer else {"ok": False, "error": "unknown_method"}

    def api_auth_test(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        return {"ok": True, "user": "runhook", "team": "Acme", "user_id": "U1", "team_id": "T1"}

    def api_chat_postMessage(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if arguments["channel"] not in (self.channel, "#ops"):
            return {"ok": False, "error": "channel_not_found"}
        problem = _problem(arguments)
        if problem:
            return {"ok": False, "error": problem}
        message = self._keep(arguments)
        return {"ok": True, "ts": message["ts"], "channel": self.channel, "message": message}

    def api_chat_update(self, arguments: dict[str, Any]) -> dict[str, Any]:
        problem = _problem(arguments)
        if problem:
            return {"ok": False, "error": problem}
        for message in self.messages:
            if message["ts"] == arguments["ts"]:
                message.update({key: arguments[key] for key in ("text", "blocks", "metadata") if key in arguments})
                return {"ok": True, "ts": message["ts"], "channel": self.channel}
        return {"ok": False, "error": "message_not_found"}

    def api_conversations_history(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return self._list(list(reversed(self.top)), arguments)

    def api_conversations_replies(self, arguments: dict[str, Any]) -> dict[str, Any]:
        found = [message for message in self.messages if message["ts"] == arguments["ts"]]
        if not found:
            return {"ok": False, "error": "thread_not_found"}
        return self._list(found + self.replies(arguments["ts"]), arguments)

    def _list(self, messages: list[dict[str, Any]], arguments: dict[str, Any]) -> dict[str, Any]:
        if "channels:history" not in self.scopes:
            return {"ok": False, "error": "missing_scope", "needed": "channels:history"}
        if arguments["channel"] != self.channel:
            return {"ok": False, "error": "channel_not_found"}
        oldest = float(arguments.get("oldest") or 0)
        messages = [message for message in messages if float(message["ts"]) >= oldest]
        if arguments.get("include_all_metadata") not in ("1", "true", True):
            messages = [{key: message[key] for key in message if key != "metadata"} for message in messages]
        start, size = int(arguments.get("cursor") or 0), min(int(arguments.get("limit") or 100), self.page)
        rest = len(messages) > start + size
        return {
            "ok": True,
            "messages": messages[start : start + size],
            "has_more": rest,
            "response_metadata": {"next_cursor": str(start + size) if rest else ""},
        }

    def api_files_getUploadURLExternal(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if "files:write" not in self.scopes:
            return {"ok": False, "error": "missing_scope", "needed": "files:write"}
        number = f"F{len(self.files) + 1:08}"
        self.files[number] = {"name": arguments["filename"], "length": int(arguments["length"])}
        return {"ok": True, "file_id": number, "upload_url": f"{self.url}/upload/{number}"}

    def api_files_completeUploadExternal(self, arguments: dict[str, Any]) -> dict[str, Any]:
        files = json.loads(arguments["files"]) if isinstance(arguments["files"], str) else arguments["files"]
        for item in files:
            kept = self.files[item["id"]]
            assert len(kept["body"]) == kept["length"]
            kept.update(title=item.get("title"), channel=arguments.get("channel_id"), thread=arguments.get("thread_ts"))
        return {"ok": True, "files": files}

    def _keep(self, body: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            newest = float(self.messages[-1]["ts"]) if self.messages else 0.0
            message = {"type": "message", **body, "ts": f"{max(time.time(), newest + 0.000001):.6f}"}
            self.messages.append(message)
        return message

    def _handler(fake) -> type[BaseHTTPRequestHandler]:  # noqa: C901, N805 - a handler class closes over its server
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # one packet an answer

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                arguments = self._arguments(raw)
                path = urlsplit(self.path).path
                fault = fake._fault(path, arguments)
                if fault and not fault.after:
                    return self._fail(fault)
                status, body = self._work(path, raw, arguments)
                return self._fail(fault) if fault else self._answer(status, body, {})

            def _arguments(self, raw: bytes) -> dict[str, Any]:
                kind = self.headers.get("Content-Type", "")
                arguments: dict[str, Any] = {
                    key: value[0] for key, value in parse_qs(urlsplit(self.path).query).items()
                }
                if kind.startswith("application/json"):
                    arguments |= json.loads(raw)
                elif kind.startswith("application/x-www-form-urlencoded"):
                    arguments |= {key: value[0] for key, value in parse_qs(raw.decode()).items()}
                return arguments

            def _work(self, path: str, raw: bytes, arguments: dict[str, Any]) -> tuple[int, bytes]:
                if path in fake.pages:
                    return 200, fake.pages[path]
                if path == HOOK:
                    return fake.webhook(arguments)
                if path.startswith("/upload/"):
                    fake.files[path.rsplit("/", 1)[1]]["body"] = raw
                    return 200, b"OK - " + str(len(raw)).encode()
                if path.startswith("/api/"):
                    token = self.headers.get("Authorization", "")
                    if gate := fake.gates.get(path.removeprefix("/api/")):
                        gate.wait(120)
                    return 200, json.dumps(fake.api(path.removeprefix("/api/"), arguments, token)).encode()
                return 404, b"no_service"

            def _fail(self, fault: Fault) -> None:
                deadline = time.monotonic() + fault.delay
                while time.monotonic() < deadline and fake._thread.is_alive():
                    time.sleep(0.01)
                self._answer(fault.status, fault.body, fault.headers)

            def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                try:
                    self.send_response(status)
                    for name, value in {"Content-Length": str(len(body)), "Connection": "close", **headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    self.close_connection = True  # the caller has gone

            do_GET = do_POST  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    def _fault(self, path: str, arguments: dict[str, Any]) -> Fault | None:
        with self._lock:
            self.calls.append((path, arguments))
            for fault in self.faults:
                if fault.where in path and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None


def _problem(message: dict[str, Any]) -> str:
    """Return Slack's error code for `message`, or ""."""
    if not message.get("text"):
        return "no_text"
    blocks = message.get("blocks") or []
    if len(blocks) > 50:
        return "too_many_blocks"
    return "" if all(map(fits, blocks)) else "invalid_blocks"


def fits(block: dict[str, Any]) -> bool:
    """Whether slack_sdk knows `block` and finds its lengths and counts right."""
    try:
        parsed = Block.parse(json.loads(json.dumps(block)))
        assert parsed is not None
        made = parsed.to_dict()
    except (SlackObjectFormationError, AssertionError):
        return False
    texts = [made["text"], *made.get("fields", [])] if "text" in made else made.get("fields", made.get("elements", []))
    return bool(made) and all(len(text.get("text", "")) <= 3000 for text in texts if isinstance(text, dict))
