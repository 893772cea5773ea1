"""Represent what a check finds, and its fix.

A fault needs an operator, and makes `runhook status` and `runhook doctor` exit with 1. A note does not. Each code of
a cheap check has a row in docs/how-to/operations.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_NTP: Final = "run NTP (chrony, systemd-timesyncd) on both hosts: a receiver's clock gives the time of a webhook"
_UPGRADE: Final = "upgrade it to {server} {oldest} or newer"
# The fix for each code, in the order in which problems are shown. Names in braces are filled in.
_PROBLEMS: Final = {
    "redis_lost": "`runhook reconcile --since {hours}h --import --now` fetches their results from Skyvern",
    "config_wrong": "fix it (`runhook check` lists all errors); processes cannot start",
    "public_url": "{fix}",
    "webhooks_refused": "free disk space there, or start Redis. Skyvern soon gives up on a webhook; then Runhook "
    "polls for runs submitted here, and of sources with `watch: true`; `runhook reconcile --since 1d --import --now` "
    "fetches others",
    "config_old": "`runhook reload` on their hosts{effect}. Changed routes apply to earlier events by "
    "`runhook reroute --since TIME`",
    "configs_differ": "copy the right file to each host, and restart the processes there{effect}. "
    "`runhook reroute --since TIME` then applies its routes to earlier events",
    "redis_full": "start the ledger so that the inbox drains, raise maxmemory, or remove other data. Until then "
    "{until}, and sinks with a rate wait",
    "redis_away": "{start}. Until then {until}, deliveries are slower, and sinks with a rate wait",
    "redis_weak": "change the named setting, or set server.accept_weaker_durability; until then {until}",
    "ledger_away": "{start}. Until then {until}nothing is delivered; then work resumes automatically",
    "ledger_weak": "change the database's settings, or set ledger.accept_weaker_durability; processes cannot start",
    "ledger_slow": "check the load of the database, and analyze and vacuum its tables",
    "disk_unreadable": "create it, set its permissions, or set RUNHOOK_DATA",
    "disk_full": "free disk space; while Redis is down or embedded, webhooks get 503",
    "part_missing": "{effect}; start `runhook {command}`{limits}",
    "part_suspended": "`kill -CONT {pid}` there resumes it",
    "part_silent": "it ended unexpectedly, or its host can't reach the ledger: look there",
    "part_stuck": "see its log; kill -9 {pid} there loses nothing, and its supervisor starts it again",
    "worker_split": "find in the worker's log which process still ends, fix that sink or set `worker: own` for it, and "
    "restart the worker",
    "receiver_spooling": "see its log: it can't reach Redis, or the inbox is over its limits",
    "task_failing": "it restarts automatically; if that does not help, see its log, and restart the process",
    "misdirected": "if Skyvern sent them, correct PUBLIC_URL, to which Runhook adds /webhooks/SOURCE, and restart the "
    "receiver; or the callback URL in Skyvern. `runhook reconcile --import --now` fetches their results at once; "
    "`runhook submissions` shows when those of runs submitted here are polled",
    "alert_failed": "`runhook sink test {sink}` tests it; until it works, {sink} gets no alerts",
    "inbox_unreadable": "rename that key (RENAME) and find the program that wrote it; events are in the spools",
    "inbox_set_aside": "`runhook inbox list` shows the reasons; then correct the worker's config and restart it, or "
    "`runhook inbox accept` or `runhook inbox drop`",
    "inbox_late": "the dispatcher is stopped, too slow, or can't reach the ledger: see the worker's log",
    "spool_full": "start Redis, or raise spool.max_bytes; at the limit, webhooks get 503",
    "spool_left": "start a receiver on that data directory; or bring its disk here: "
    "`runhook spool send --data DIR --dry-run` lists its runs, and without --dry-run sends them",
    "spool_damaged": "inspect them: their events were acknowledged",
    "sink_paused": "`runhook sink resume {sink}` resumes delivery",
    "sink_down": "{fix}",
    "sink_refuses": "`runhook attempts --sink {sink}` shows its responses; once fixed, `runhook replay --sink {sink}`",
    "delivery_dead": "`runhook dead` shows the reasons, `runhook replay --sink {which}` sends them again",
    "sink_gone": "`runhook sink move {sink} NEW`, `runhook cancel --sink {sink}`, or restore it in the config",
    "delivery_late": "the worker or the clock is stopped or too slow, or it waits for another sink: "
    "`runhook deliveries --sink {sink}`",
    "clock_was_ahead": "run NTP on the database's host; the corrected rows resume",
    "clock_skew": _NTP,
    "quarantine": "if the API key changed, put the new one into .env or sources.NAME.secrets and restart all "
    "processes; then `runhook quarantine verify` checks them again. `runhook quarantine list` shows them",
    "event_trouble": "`runhook explain {event}` shows it. {fix}",
    "watch_trouble": "check SKYVERN_BASE_URL and the source's api_key; until then results need a webhook",
}
# As _PROBLEMS, for codes that are only notes, the most serious first.
_NOTES: Final = {
    "webhooks_missed": "Skyvern may not send them again: `runhook reconcile --since 1d --import --now` fetches "
    "missing results",
    "part_unknown": "start its database",
    "disk_low": "free disk space soon",
    "files_left_out": "`runhook attempts --sink {sink}` names the option. Raise it, restart the worker, and store "
    "them by `runhook replay RUN --sink {sink} --state delivered --force`",
    "search_behind": "the clock is stopped or too slow: see its log; it catches up automatically",
    "versions_differ": "finish the upgrade",
    "callers_down": "no action needed; `runhook sink list` shows them",
    "config_doubtful": "it is allowed, but probably a mistake",
    "operations": "`runhook operations`",
}
# As _PROBLEMS, for the codes of deep checks.
_DEEP: Final = {
    "redis.permissions": "allow them by ACL SETUSER: all commands of these kinds, on keys rq:* and runhook:*",
    "redis.memory": "raise maxmemory, or remove other data",
    "redis.version": _UPGRADE,
    "redis.clock": _NTP,
    "ledger.version": _UPGRADE,
    "ledger.clock": _NTP,
    "disk.inodes": "remove some files there",
    "disk.mode": "chmod 700 {folder}: it contains bodies and secrets",
}
REMEDIES: Final = {**_PROBLEMS, **_NOTES, **_DEEP}
# The codes that a cheap check can find and an operator must act on.
FAULTS: Final = tuple(_PROBLEMS)


@dataclass(frozen=True, slots=True)
class Finding:
    """A result of a check. `code`: a fixed word. `what`: what was observed. `todo`: the fix, "" if none is needed.

    `note`: it is not urgent. `about`: the sink or command that it is about, or "": several findings of one code that
    are about different things are different problems.
    """

    code: str
    what: str
    todo: str = ""
    note: bool = False
    about: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is to be done."""
        return not self.todo


def fault(code: str, what: str, *, note: bool = False, **names: object) -> Finding:
    """Return a finding with the remedy of its code. `names`: for the words in braces there."""
    about = str(names.get("sink") or names.get("command") or "")
    return Finding(code, what, REMEDIES[code].format(**names), note or code in _NOTES, about)
