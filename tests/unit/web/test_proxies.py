"""Whose address a request has that came through a proxy: only a trusted one may say another."""

import httpx2
import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from receiver.web.app import Application
from receiver.web.protocol import Listening, options


async def who(request: Request) -> JSONResponse:
    assert request.client
    return JSONResponse([request.client.host, request.url.scheme])


@pytest.mark.parametrize(
    ("proxy", "seen"), [("10.0.0.1", ["203.0.113.9", "https"]), ("10.0.0.2", ["10.0.0.2", "http"])]
)
async def test_only_a_trusted_proxy_says_where_a_request_comes_from(proxy: str, seen: list[str]) -> None:
    app = Application(routes=[Route("/who", who)])
    config = uvicorn.Config(app, **options(Listening(1), forwarded_allow_ips="10.0.0.1"))
    config.load()
    transport = httpx2.ASGITransport(config.loaded_app, client=(proxy, 1))
    async with httpx2.AsyncClient(transport=transport, base_url="http://us") as client:
        answer = await client.get("/who", headers={"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https"})
    assert answer.json() == seen
