"""The daily digest: runs by status, and failures by workflow and reason."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Final

from handlers.contract import Notification
from handlers.support.wording import visible_text, without_particulars
from receiver.domain.counting import counted
from receiver.ledger import Ledger, totals
from receiver.ledger.lists.filters import Filter

# Maximum groups of failures that are shown.
_SHOWN: Final = 10
# Seconds that the ledger has to answer.
_WITHIN: Final = 30.0


def read(ledger: Ledger, since: datetime, until: datetime, link: str) -> Notification:
    """Return the digest of the runs that changed last from `since` until before `until`. Raises LedgerUnavailable."""
    span = totals.Span(since.timestamp(), until.timestamp())
    by = ("status", "title", "workflow", "reason")
    found = ledger.read(lambda connection: totals.count_runs(connection, Filter(), span, by), _WITHIN)
    statuses, failures = Counter[str](), Counter[tuple[str, str, str]]()
    for group in found.groups:
        status, title, workflow, reason = group.key
        statuses[status] += group.count
        if group.ended > group.good:
            name = visible_text(title or workflow or "without a workflow", 100)
            failures[name, status, visible_text(without_particulars(reason), 200)] += group.count
    day, runs = f"{since:%Y-%m-%d}", counted(found.all.count, "run", "runs")
    lines = [", ".join(f"{count} {status}" for status, count in statuses.most_common())] if statuses else ["no runs"]
    lines += [
        f"• {count} × {name}: {status}{f': {reason}' if reason else ''}"
        for (name, status, reason), count in failures.most_common(_SHOWN)
    ]
    if (more := len(failures) - _SHOWN) > 0:
        lines.append(f"and {more} more: `runhook incidents --since {since:%Y-%m-%d}`")
    rows = [
        {"workflow": name, "status": status, "reason": reason, "count": count}
        for (name, status, reason), count in failures.most_common(100)
    ]
    data = {"date": day, "runs": found.all.count, "statuses": dict(statuses), "failures": rows}
    return Notification(f"digest_{day}", "digest", f"Runhook: {runs} on {day}", lines, link, data=data)
