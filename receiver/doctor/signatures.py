"""Requests in quarantine, tried with every secret of every source: whose key has signed them?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from receiver.config.models import SourceConfig
from receiver.doctor.finding import Finding
from receiver.domain.counting import counted
from receiver.domain.signature import verify
from receiver.ingest.quarantine import Quarantine, QuarantinedRequest
from receiver.status.problem import ago

# What is tried: requests, seconds since they came, and bytes of their bodies.
MOST: Final = 200
RECENT: Final = 7 * 86_400.0
MOST_BYTES: Final = 64 << 20


def examine(data: Path, sources: Mapping[str, SourceConfig], now: float) -> Iterator[Finding]:
    """Yield, for each source to which requests with a wrong signature came, whose secret fits them."""
    store = Quarantine(data / "quarantine", 0, 0)
    recent = [each for each in reversed(store.list()) if now - each.at < RECENT][:MOST]
    fits: Counter[tuple[str, str]] = Counter()
    newest: dict[str, float] = {}
    left = MOST_BYTES
    for refused in recent:
        left -= refused.size
        if left < 0:
            break
        with suppress(OSError):  # it was dropped meanwhile
            fits[refused.source, _signer(refused, store.body(refused), sources)] += 1
            newest.setdefault(refused.source, refused.at)
    for (source, signer), count in sorted(fits.items()):
        yield _finding(source, signer, count, now - newest[source], known=source in sources)
    if not fits:
        yield Finding("signatures", "the quarantine holds no request of the last 7 days")


def _signer(refused: QuarantinedRequest, body: bytes, sources: Mapping[str, SourceConfig]) -> str:
    """Return the source one of whose secrets has signed the request, its own first; "" for none."""
    for name in sorted(sources, key=lambda name: name != refused.source):
        if verify(body, refused.signature, sources[name].signing_secrets):
            return name
    return ""


def _finding(source: str, signer: str, count: int, age: float, *, known: bool) -> Finding:
    requests = counted(count, "request", "requests")
    what = f"{requests} to /webhooks/{source} failed the signature check, the newest {ago(age)} ago"
    if not signer:
        return Finding(
            "signatures",
            f"{what}, and no secret of any source has signed them",
            f"add the API key that submitted these runs to sources.{source}.secrets; Skyvern signs with the key of the "
            "call, or with the organization's newest. Then `runhook quarantine verify`; strangers' are dropped with "
            "`runhook quarantine drop`",
        )
    if signer == source:
        return Finding(
            "signatures", f"{what}, and today's secrets fit them", "`runhook quarantine verify` lets them in"
        )
    return Finding(
        "signatures",
        f"{what}, and a secret of the source {signer} has signed them",
        f"send them to /webhooks/{signer} (the callback URL in Skyvern)"
        + (f", or add that secret to sources.{source}.secrets, then `runhook quarantine verify`" if known else ""),
    )
