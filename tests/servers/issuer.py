"""An OpenID Connect issuer on loopback, which lets everybody in at once and checks what a real one would.

issuer   .url, .claims (of the next sign-in), .faults (what it does wrong), .tokens (requests to its token endpoint)
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

CLIENT, SECRET = "runhook", "a secret: of the client"


class Issuer:
    """See the module. `redirects`: the addresses that its client may be sent back to."""

    def __init__(self) -> None:
        self.claims: dict[str, Any] = {"sub": "u1", "preferred_username": "ana@corp", "groups": ["people", "ops"]}
        self.faults: set[str] = set()
        self.tokens: list[dict[str, str]] = []
        self.redirects: set[str] = set()
        self._codes: dict[str, dict[str, str]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.roll()
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def roll(self) -> None:
        """Sign with a new key from now on, and forget the old one."""
        self.kid = secrets.token_hex(4)
        self._key = ec.generate_private_key(ec.SECP256R1())

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def discovery(self) -> dict[str, Any]:
        named = self.url + ("/other" if "issuer" in self.faults else "")
        ends = {name: f"{self.url}/{name}" for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")}
        return {"issuer": named, **ends, "id_token_signing_alg_values_supported": ["ES256", "HS256", "none"]}

    def keys(self) -> dict[str, Any]:
        shown = ec.generate_private_key(ec.SECP256R1()) if "withdrawn" in self.faults else self._key
        jwk = json.loads(ECAlgorithm.to_jwk(shown.public_key()))
        return {"keys": [{**jwk, "kid": self.kid, "use": "sig", "alg": "ES256"}]}

    def authorize(self, asked: dict[str, str]) -> str:
        """Where the browser is sent back to, with a code."""
        assert asked["response_type"] == "code"
        assert asked["client_id"] == CLIENT
        assert asked["code_challenge_method"] == "S256"
        assert "openid" in asked["scope"].split()
        assert asked["redirect_uri"] in self.redirects
        code = secrets.token_urlsafe(8)
        self._codes[code] = asked
        answer = {"state": asked["state"], "code": code}
        if "denied" in self.faults:
            answer = {"state": asked["state"], "error": "access_denied", "error_description": "<b>no</b>"}
        return f"{asked['redirect_uri']}?{urlencode(answer)}"

    def exchange(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        """The answer of the token endpoint."""
        self.tokens.append(form)
        pair = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        if (unquote(pair[0]), unquote(pair[2])) != (CLIENT, SECRET) or "client" in self.faults:
            return 401, {"error": "invalid_client"}
        asked = self._codes.pop(form.get("code", ""), None)  # a code is good once
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).decode()
        if asked is None or asked["code_challenge"] != challenge.rstrip("=") or "grant" in self.faults:
            return 400, {"error": "invalid_grant"}
        assert form["redirect_uri"] == asked["redirect_uri"]
        return 200, {"access_token": "x", "token_type": "Bearer", "id_token": self.token(asked["nonce"])}

    def token(self, nonce: str) -> str:
        """An ID token, with one thing wrong if a fault says so."""
        now = time.time()
        claims = {"iss": self.url, "aud": CLIENT, "iat": now, "exp": now + 300, "nonce": nonce, **self.claims}
        wrong: dict[str, dict[str, Any]] = {
            "nonce": {"nonce": "another"},
            "expired": {"exp": now - 3600, "iat": now - 7200},
            "audience": {"aud": "another"},
            "audiences": {"aud": [CLIENT, "another"]},
            "party": {"aud": "another", "azp": CLIENT},
            "azp": {"azp": "another"},
            "iss": {"iss": "https://another.example"},
        }
        for fault in self.faults & wrong.keys():
            claims |= wrong[fault]
        if "none" in self.faults:
            return jwt.encode(claims, "", algorithm="none")
        if "hmac" in self.faults:  # signed with what everybody knows
            return jwt.encode(claims, SECRET.ljust(32), algorithm="HS256", headers={"kid": self.kid})
        key = ec.generate_private_key(ec.SECP256R1()) if "signature" in self.faults else self._key
        return jwt.encode(claims, key, algorithm="ES256", headers={"kid": self.kid})

    def _handler(issuer) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - the class below has a self of its own
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                if parts.path == "/authorization_endpoint":
                    asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
                    self._answer(303, {}, {"location": issuer.authorize(asked)})
                elif parts.path == "/.well-known/openid-configuration" and "down" not in issuer.faults:
                    self._answer(200, issuer.discovery())
                elif parts.path == "/jwks_uri":
                    self._answer(200, issuer.keys())
                else:
                    self._answer(500, {})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                form = {name: values[0] for name, values in parse_qs(body).items()}
                self._answer(*issuer.exchange(form, self.headers.get("authorization", "")))

            def _answer(self, status: int, value: dict[str, Any], headers: dict[str, str] | None = None) -> None:
                content = json.dumps(value).encode()
                self.send_response(status)
                for name, text in {"content-length": str(len(content)), **(headers or {})}.items():
                    self.send_header(name, text)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        return Handler


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    it = Issuer()
    yield it
    it.close()
