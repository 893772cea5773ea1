"""Release what a dead worker process held: claims in the ledger, entries of the inbox, and its traces in RQ's lists.

Called by whoever learns of the death: the supervisor that saw its child die, a worker that starts, the clock. Each step
may be repeated, and run by several processes at once. What can't be released now lapses later.
"""

from __future__ import annotations

import logging

from redis.exceptions import RedisError

from receiver.config.settings import Settings
from receiver.inbox.recovery import hand_back
from receiver.ledger import Ledger, LedgerUnavailable
from receiver.ledger.deliveries.recovery import release_claims
from receiver.runtime import liveness
from receiver.runtime.redis_client import connect
from receiver.wakeups import DISPATCH
from receiver.wakeups.cleanup import clear_dead

log = logging.getLogger("runhook.worker")


def release(settings: Settings, queue: str, name: str) -> bool:
    """Release the claims or inbox entries of the dead worker process `name` of `queue`.

    Returns False when Redis or the ledger was away, so that some may be left.
    """
    return _release_entries(settings, name) if queue == DISPATCH else _release_claims(settings, name)


def clear(settings: Settings, queue: str, name: str) -> bool:
    """Remove what it left in RQ's lists, and wake its queue if that lost a wake-up. Returns False while Redis is
    away."""
    client = connect(settings.redis_url, timeout=1.0, connect_timeout=2.0, retries=0)
    try:
        clear_dead(client, queue, name)
    except RedisError as error:
        log.warning("worker.not_cleared owner=%s redis=%s", name, type(error).__name__)
        return False
    finally:
        client.close()
    return True


def reap(settings: Settings, queue: str, name: str) -> bool:
    """Release what the dead worker process `name` of `queue` held, and clear its traces. False when some are left."""
    return release(settings, queue, name) and clear(settings, queue, name)


def reap_all(settings: Settings) -> int:
    """Reap all workers that died on this machine with this data directory. Returns how many there were."""
    return liveness.reap(settings.data, lambda queue, name: reap(settings, queue, name))


def _release_entries(settings: Settings, name: str) -> bool:
    client = connect(settings.redis_url, timeout=1.0, connect_timeout=2.0, retries=0)
    try:
        entries = hand_back(client, name)
    except RedisError as error:
        log.warning("worker.not_released owner=%s redis=%s", name, type(error).__name__)
        return False
    finally:
        client.close()
    if entries:
        log.info("worker.released entries=%d owner=%s", entries, name)
    return True


def _release_claims(settings: Settings, name: str) -> bool:
    ledger = Ledger(settings.database_url)
    claims = 0
    try:
        started = liveness.started_items(settings.data, name)
        while some := ledger.write(lambda connection: release_claims(connection, name, ledger.now(), started)):
            claims += some
    except LedgerUnavailable as error:
        log.warning("worker.not_released owner=%s ledger=%s", name, error)
        return False
    finally:
        ledger.close()
    if claims:
        log.info("worker.released claims=%d owner=%s", claims, name)
    return True
