"""The options of a simulated Skyvern: its keys, its pace, its faults. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from simulator.faults import Fault, chance


@dataclass(slots=True)
class Options:
    """Times are seconds before they are divided by `speed`.

    `api_keys`: all of them are accepted; the last one is the newest, which signs the webhooks of task_v2.
    `public_url`: where others reach this server; "" means the address that each request came to.
    `gap_seconds`: between a run's final status and its webhook, about; in it the recording is written out, uploads end
    and downloads are saved. `long_gap_seconds`: the same under the fault `gap`. `half_seconds`: how long after the
    uploads a recording stays half under the fault `half`. `paused_seconds`, `queued_seconds`: of the faults `pause`
    and `queue`. `ratios`: may be changed while it runs. `local_storage`: artifact URLs are null or file://, as on a
    self-hosted server without object storage.
    `schedules_stopped`: no schedule fires.
    """

    api_keys: tuple[str, ...] = ("simulated-key",)
    seed: int = 0
    speed: float = 1.0
    run_seconds: float = 2.0
    gap_seconds: float = 0.8
    long_gap_seconds: float = 8.0
    half_seconds: float = 5.0
    paused_seconds: float = 20.0
    queued_seconds: float = 20.0
    late_seconds: float = 20.0
    slow_seconds: float = 3.0
    retry_after: float = 1.0
    url_seconds: float = 12 * 3600
    screenshot_url_seconds: float = 3600
    webhook_timeout: float = 30.0
    public_url: str = ""
    ratios: dict[Fault, float] = field(default_factory=dict)
    local_storage: bool = False
    schedules_stopped: bool = False

    def pause(self, seconds: float) -> float:
        """Return `seconds` at this simulation's speed."""
        return seconds / self.speed

    def spread(self, what: str, number: int, seconds: float) -> float:
        """Return 0.5 to 1.5 times `seconds`, at this simulation's speed: always the same for the same run."""
        return self.pause(seconds * (0.5 + chance(self.seed, what, number)))

    def change(self, ratios: Mapping[Fault, float]) -> None:
        """Replace the ratios of these faults; the others keep theirs."""
        self.ratios = {**self.ratios, **ratios}
