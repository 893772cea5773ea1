"""The services for sinks (handlers.contract.Services): fresh artifact URLs, and the key of Skyvern's API.

The API key goes to the source's own API origin and nowhere else.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from urllib.parse import quote

from handlers import Artifact, Delivery, Services, Unavailable
from handlers.support.url import origin
from receiver.config.models import Config
from receiver.skyvern.client import SkyvernReader
from receiver.skyvern.responses import Answered, Patience, artifacts_run_id, listed_artifacts


class SourceServices(Services):
    """The services of one worker process. Opens connections on first use; threads may share it."""

    def __init__(self, config: Config, default_base: str) -> None:
        found = {name: source.api(default_base) for name, source in config.sources.items()}
        self._apis = {name: api for name, api in found.items() if api is not None}
        # Where an operator says Skyvern is, artifacts may come from, also on a private network.
        servers = (origin(base) for base, _ in self._apis.values())
        self._allowed = (
            *config.allowed_addresses,
            *(f"{server.bracketed}:{server.port}" for server in servers if server),
        )
        self._sources = tuple(config.sources)
        self._readers: dict[str, SkyvernReader] = {}
        self._opening = threading.Lock()

    def fresh_artifacts(self, delivery: Delivery, types: Sequence[str] = ()) -> Sequence[Artifact]:
        """Return the run's artifacts with new signed URLs; [] when the source has no API key. Raises Unavailable.

        `types`: Skyvern's artifact types to ask for; all when empty.
        """
        reader = self._reader(delivery.source)
        if reader is None or not delivery.run_id:
            return []
        answer = reader.artifacts(artifacts_run_id(delivery.run_id, delivery.run), types)
        if not isinstance(answer, Answered):
            raise Unavailable(f"Skyvern's API can't be reached for fresh artifact URLs: {answer.reason}")
        found = listed_artifacts(answer)
        if found is None:
            if answer.status in (403, 404):
                return []
            raise Unavailable(
                f"Skyvern's API answered {answer.status} to a request for fresh artifact URLs",
                retry_after=answer.retry_after,
            )
        return [
            each if each.url else replace(each, url=self.artifact_url(delivery, each.artifact_id or ""))
            for each in found
        ]

    def artifact_url(self, delivery: Delivery, artifact_id: str) -> str:
        """Return where the source's own API serves an artifact's bytes; "" when the source has no API key."""
        api = self._apis.get(delivery.source)
        return f"{api[0]}/v1/artifacts/{quote(artifact_id, safe='')}/content" if api else ""

    def artifact_headers(self, delivery: Delivery, url: str) -> Mapping[str, str]:
        """Return the API key for a URL at the source's own API origin; nothing for any other."""
        api = self._apis.get(delivery.source)
        if api is None or origin(url) != origin(api[0]):
            return {}
        return {"x-api-key": api[1]}

    def sources(self) -> Sequence[str]:
        """Return the names of the config's sources, in its order."""
        return self._sources

    def allowed_addresses(self) -> Sequence[str]:
        """Return the hosts and networks that the operator named as safe although they are private."""
        return self._allowed

    def close(self) -> None:
        """Close the connections."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def _reader(self, name: str) -> SkyvernReader | None:
        api = self._apis.get(name)
        if api is None:
            return None
        with self._opening:
            if name not in self._readers:
                self._readers[name] = SkyvernReader(*api, patience=Patience(tries=1))
            return self._readers[name]
