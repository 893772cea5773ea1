"""The table of commands: where each one is, and what the help of `runhook` says of it.

The help of `runhook` comes from this table alone, so that it imports none of the commands.
"""

from __future__ import annotations

from typing import Final, NamedTuple

RUN: Final = "Run"
LOOK: Final = "Look"
ACT: Final = "Act"
SET_UP: Final = "Set up"


class Command(NamedTuple):
    """A command, or a group of them. `panel`: where the help lists it; `help`: the first paragraph of its own help."""

    panel: str
    module: str
    attribute: str
    help: str


# In the order of the help. Only the one that is called is imported, so that start-up stays quick.
# The examples of each are in receiver/cli/examples.py.
COMMANDS: Final[dict[str, Command]] = {
    "dev": Command(
        RUN,
        "receiver.cli.dev",
        "dev",
        "Run receiver, worker and clock together, with their own Valkey unless REDIS_URL is set. Ctrl-C stops all.",
    ),
    "serve": Command(RUN, "receiver.cli.serve", "serve", "Run the receiver: take webhooks, keep their events, answer."),
    "worker": Command(
        RUN,
        "receiver.cli.worker",
        "worker",
        "Run the workers: one process takes events from the inbox into the ledger, others deliver to sinks.",
    ),
    "clock": Command(
        RUN,
        "receiver.cli.clock",
        "clock",
        "Run the clock: due retries, lapsed claims, lost wake-ups, old events. Several may run.",
    ),
    "simulate": Command(
        RUN,
        "receiver.cli.simulate",
        "simulate",
        "Simulate Skyvern: its API, runs that take a few seconds, signed webhooks, artifacts, and faults on request.",
    ),
    "status": Command(
        LOOK,
        "receiver.cli.status",
        "status",
        "Show what is wrong and what to do about it, then each part, server and store. Ends with 1 when something is.",
    ),
    "runs": Command(
        LOOK, "receiver.cli.list", "runs", "List the runs that events have reported, the one that changed last first."
    ),
    "submit": Command(
        ACT, "receiver.cli.submit", "submit", "Start a task or an agent through a service, and wait for its result."
    ),
    "open": Command(
        LOOK, "receiver.cli.submit", "open_", "Open a run, an event or a delivery, or the first page, in the console."
    ),
    "run": Command(
        LOOK,
        "receiver.cli.run",
        "run",
        "Tell one run whole: what happened from its submission to each receipt, its output, and its files.",
    ),
    "event": Command(
        LOOK, "receiver.cli.run", "event", "Show one event with the run as sinks get it, or the bytes of its body."
    ),
    "artifacts": Command(
        LOOK, "receiver.cli.run", "artifacts", "List the files of runs, and where sinks have stored them."
    ),
    "events": Command(
        LOOK,
        "receiver.cli.list",
        "events",
        "List the events, the newest first, and what each one was, such as new, repeat, superseded or unreadable.",
    ),
    "tail": Command(
        LOOK,
        "receiver.cli.tail",
        "tail",
        "Print events as they are recorded; with `--since` those since then first. Ctrl-C ends it.",
    ),
    "deliveries": Command(
        LOOK,
        "receiver.cli.list",
        "deliveries",
        "List the deliveries with their receipts, the one that changed last first.",
    ),
    "attempts": Command(
        LOOK,
        "receiver.cli.list",
        "attempts",
        "List the attempts, the newest first; of one delivery the oldest first.",
    ),
    "dead": Command(
        LOOK,
        "receiver.cli.list",
        "dead",
        "List the dead letters, with the reason of each. `runhook replay` sends them again.",
    ),
    "submissions": Command(
        LOOK,
        "receiver.cli.list",
        "submissions",
        "List the runs that were submitted here, the newest first, and when a missing result is polled next.",
    ),
    "operations": Command(
        LOOK, "receiver.cli.replay", "operations", "List replays, backfills and cancels of many, the newest first."
    ),
    "stats": Command(
        LOOK,
        "receiver.cli.stats",
        "stats",
        "Count runs of the last day, or deliveries, by what they have in common: how many, how they ended, how late.",
    ),
    "audit": Command(LOOK, "receiver.cli.audit", "audit", "List who did what, the newest first."),
    "replay": Command(
        ACT,
        "receiver.cli.replay",
        "replay",
        "Send deliveries again, under the same idempotency key. The clock does it step by step, across restarts.",
    ),
    "resubmit": Command(
        ACT,
        "receiver.cli.replay",
        "resubmit",
        "Submit failed runs again, each once, through a sink of type resubmit.",
    ),
    "reroute": Command(
        ACT,
        "receiver.cli.reroute",
        "reroute",
        "Apply today's rules to old events: list what each would reach, and send what is new.",
    ),
    "cancel": Command(
        ACT,
        "receiver.cli.cancel",
        "cancel",
        "Cancel deliveries that wait, or operations that are running; `--undo` brings cancelled deliveries back.",
    ),
    "sink": Command(
        ACT,
        "receiver.cli.sinks",
        "app",
        "List, pause, resume, move and test sinks; add columns to their tables.",
    ),
    "reconcile": Command(
        ACT,
        "receiver.cli.reconcile",
        "reconcile",
        "Poll overdue submissions, then list the final runs of Skyvern's API whose result never came here.",
    ),
    "quarantine": Command(
        ACT,
        "receiver.cli.quarantine",
        "app",
        "Requests that failed the signature check: see them, check them again after a secret was added, drop them.",
    ),
    "inbox": Command(
        ACT,
        "receiver.cli.inbox",
        "app",
        "Entries of the inbox that were set aside: see them, put them back, drop them.",
    ),
    "spool": Command(
        ACT,
        "receiver.cli.spool",
        "app",
        "Events that a receiver acked while Redis was away, and that lie on its disk.",
    ),
    "trigger": Command(
        ACT,
        "receiver.cli.trigger",
        "trigger",
        "Send signed sample webhooks. Ends with 1 when not all were accepted.",
    ),
    "doctor": Command(
        LOOK,
        "receiver.cli.doctor",
        "doctor",
        "Try everything that Runhook needs, and say of each thing that it is well, or what to do. Ends with 1 for a"
        " fault.",
    ),
    "init": Command(
        SET_UP,
        "receiver.cli.init",
        "init",
        "Write a first config: runhook.yaml, .env and a JSON Schema for editors. Existing files are never overwritten.",
    ),
    "check": Command(
        SET_UP,
        "receiver.cli.check",
        "check",
        "Check the config file, and show where bodies would go, each as the first event of its run.",
    ),
    "config": Command(
        SET_UP, "receiver.cli.config", "app", "Show the configuration in force, and where each value comes from."
    ),
    "schema": Command(
        SET_UP,
        "receiver.cli.check",
        "schema",
        "Print the JSON Schema of the config file, so that editors complete it and mark mistakes.",
    ),
    "connect": Command(
        SET_UP,
        "receiver.cli.connect",
        "connect",
        "List agents and schedules with where their results go: here, elsewhere or nowhere; and change that.",
    ),
    "listen": Command(
        RUN,
        "receiver.cli.listen",
        "listen",
        "Post the events of a deployed Runhook to a server on this machine, signed as in production.",
    ),
    "mcp": Command(
        SET_UP,
        "receiver.cli.mcp",
        "mcp",
        "Give a model tools to look at runs, and with --allow to act: a server of the Model Context Protocol.",
    ),
    "keys": Command(
        SET_UP,
        "receiver.cli.keys",
        "app",
        "API keys, of apps that submit and of people and programs that look: create, list, rotate and revoke them.",
    ),
    "completion": Command(
        SET_UP,
        "receiver.cli.completion",
        "completion",
        "Print what makes a shell complete commands, options, sinks, states and the newest runs.",
    ),
    "console": Command(
        SET_UP, "receiver.cli.console", "app", "The console for people: what the config needs to let them in."
    ),
}
