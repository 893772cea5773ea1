"""The table of commands, and the group that imports a command only when it is called.

`runhook --help` is made from this table alone, so that it stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final, NamedTuple

import typer
from typer.core import TyperGroup

from receiver.cli.options import new_app

RUN: Final = "Run"
LOOK: Final = "Inspect"
ACT: Final = "Act"
SET_UP: Final = "Set up"


class Command(NamedTuple):
    """A command or a group of commands. `panel`: its section in the help; `place`: module and attribute."""

    panel: str
    place: str
    help: str


COMMANDS: Final[dict[str, Command]] = {
    "dev": Command(RUN, "dev:dev", "Run receiver, worker and clock together, with an embedded Valkey."),
    "serve": Command(RUN, "serve:serve", "Run the receiver, which accepts webhooks."),
    "worker": Command(RUN, "worker:worker", "Run the worker, which records events and delivers them to sinks."),
    "clock": Command(RUN, "clock:clock", "Run the clock: retries, expired claims, polling, retention."),
    "reload": Command(RUN, "reload:reload", "Apply a changed config file, without a restart."),
    "simulate": Command(
        RUN, "simulate:simulate", "Run a simulated Skyvern with signed webhooks and faults on request."
    ),
    "listen": Command(RUN, "listen:listen", "Post events to a server on this machine, signed as in production."),
    "status": Command(LOOK, "status:status", "Show problems with their fixes, then processes, servers and sinks."),
    "doctor": Command(LOOK, "status:doctor", "Check all dependencies and suggest fixes."),
    "runs": Command(LOOK, "lists:runs", "List runs, most recently changed first."),
    "run": Command(LOOK, "run:run", "Show a run: timeline, output, files."),
    "events": Command(LOOK, "lists:events", "List events, newest first."),
    "event": Command(LOOK, "run:event", "Show an event and its run, or print its body."),
    "explain": Command(LOOK, "explain:explain", "Explain which routes match an event or a run, and why."),
    "tail": Command(LOOK, "tail:tail", "Print events as they are recorded."),
    "deliveries": Command(LOOK, "lists:deliveries", "List deliveries with their receipts."),
    "dead": Command(LOOK, "lists:dead", "List dead letters with their reasons."),
    "attempts": Command(LOOK, "lists:attempts", "List attempts, newest first."),
    "submissions": Command(LOOK, "lists:submissions", "List submitted runs, newest first."),
    "artifacts": Command(LOOK, "lists:artifacts", "List files of runs, and where sinks stored them."),
    "incidents": Command(LOOK, "lists:incidents", "List failed, terminated and timed-out runs by workflow and reason."),
    "operations": Command(LOOK, "lists:operations", "List replays, moves and bulk cancellations."),
    "stats": Command(LOOK, "lists:stats", "Count runs or deliveries by status, sink and more, over time."),
    "audit": Command(LOOK, "lists:audit", "List actions of users and keys, newest first."),
    "open": Command(LOOK, "submit:open_", "Open a run, an event or a delivery in the console."),
    "submit": Command(ACT, "submit:submit", "Submit a task or an agent run, and wait for its result."),
    "replay": Command(ACT, "actions:replay", "Send deliveries again, with the same idempotency keys."),
    "resubmit": Command(ACT, "actions:resubmit", "Submit failed runs again through a resubmit sink."),
    "reroute": Command(ACT, "reroute:reroute", "Apply the current routes to old events."),
    "cancel": Command(ACT, "actions:cancel", "Cancel pending deliveries or running operations."),
    "erase": Command(ACT, "erase:erase", "Erase the content of runs for good, and report what other systems hold."),
    "sink": Command(ACT, "sinks:app", "List, pause, resume, move and test sinks; add columns to their tables."),
    "reconcile": Command(ACT, "reconcile:reconcile", "Poll overdue submissions and find missing results at Skyvern."),
    "quarantine": Command(ACT, "quarantine:app", "Manage requests that failed the signature check."),
    "inbox": Command(ACT, "inbox:app", "Manage inbox entries that were set aside."),
    "spool": Command(ACT, "inbox:spool_app", "Manage events spooled while Redis was unavailable."),
    "trigger": Command(ACT, "trigger:trigger", "Send signed sample webhooks."),
    "api": Command(ACT, "api:api", "Call the JSON API by name, on this machine or on a remote service."),
    "init": Command(SET_UP, "init:init", "Write a first config: runhook.yaml, .env and a JSON Schema."),
    "check": Command(SET_UP, "check:check", "Check the config file, and show where webhook bodies would go."),
    "config": Command(SET_UP, "check:config_app", "Show the configuration and where each value comes from."),
    "schema": Command(SET_UP, "check:schema", "Print the JSON Schema of the config file."),
    "ledger": Command(SET_UP, "ledger:app", "Copy the ledger to another database, such as PostgreSQL."),
    "connect": Command(SET_UP, "connect:connect", "Send the results of Skyvern's agents to Runhook."),
    "mcp": Command(SET_UP, "mcp:mcp", "Serve Runhook's tools to a language model over MCP."),
    "keys": Command(SET_UP, "keys:app", "Create, list, rotate and revoke API keys."),
    "console": Command(SET_UP, "keys:console_app", "Hash a password for the console."),
}

# What follows each command's name in the examples of its help.
EXAMPLES: Final[dict[str, tuple[str, ...]]] = {
    "dev": ("", "--port 8080 --config my.yaml"),
    "serve": ("--host 0.0.0.0", "--port 8080 --config /etc/runhook.yaml"),
    "worker": ("", "--only results --only ops"),
    "simulate": ("--port 8090", "--fault lose=0.2 --run-seconds 5"),
    "doctor": ("-o json | jq '.[] | select(.ok | not)'",),
    "status": ("--json | jq .problems",),
    "runs": ("--status failed --since 24h", "-o jsonl -n 1000 | jq -r .run_id"),
    "submit": ("'Get the invoices' --page https://a.example --wait", "--agent wpid_123 --param month=5 --json"),
    "run": ("tsk_v2_123 --download files", "wr_123 --json | jq .output"),
    "event": ("evt_0123456789ab --raw > body.json",),
    "artifacts": ("tsk_123", "--since 24h -o jsonl | jq -r .url"),
    "events": ("--run tsk_123", "--since 1h -o csv > events.csv"),
    "explain": ("tsk_v2_123 --sink crm", "evt_0123456789ab"),
    "tail": ("--status failed", "--since 1h -o jsonl | jq -r .run_id"),
    "deliveries": ("--sink results --state waiting", "--run tsk_123"),
    "attempts": ("tsk_123", "dlv_0123456789ab -o json"),
    "dead": ("--sink ops --since 7d", "-o csv > dead.csv"),
    "submissions": ("--state accepted", "--label team=billing --since 24h"),
    "stats": ("--by status,workflow,reason --since 24h", "--by sink --bucket 1h -o csv"),
    "audit": ("--since 24h", "--action replay -o csv"),
    "resubmit": ("tsk_123", "--status failed --since 24h --dry-run"),
    "replay": ("--sink results --since 2h --dry-run", "tsk_123 --force"),
    "reroute": ("--since 7d --dry-run", "--since 30d --sink NAME --ignore-routes"),
    "cancel": ("dlv_0123456789ab", "--sink old-crm --expect 12"),
    "api": ("", "list_missing source=skyvern", "pause_sink sink=ops"),
    "sink move": ("old-crm crm", "old-crm crm --undo"),
    "sink columns": ("results", "results --apply"),
    "reconcile": ("--since 7d", "--since 24h --import"),
    "quarantine verify": ("", "0123456789abcdef"),
    "inbox accept": ("1764064800000-0 1764064800000-1",),
    "spool send": ("--data /mnt/old-host/var --dry-run", "--data /mnt/old-host/var"),
    "trigger": ("failed", "all --url https://hooks.example.com"),
    "init": ("", "--yes --with slack,s3"),
    "check": ("config/runhook.yaml", "--against workflow_run.failed body.json"),
    "schema": ("-o runhook.schema.json",),
    "ledger copy": ("--to postgresql://runhook:…@db.example/runhook",),
    "connect": ("", "--apply --agent wpid_123"),
    "listen": ("3000 --profile production --status failed", "3000/webhooks/skyvern --replay tsk_123"),
    "mcp": ("--profile production", "--http 8900 --allow operate"),
    "keys create": ("billing", "dashboard --scope read --rate 10/s --expires 90d"),
    "keys rotate": ("billing", "0123456789ab --grace 1h"),
    "console hash": ("> password.hash",),
}


class LazyGroup(TyperGroup):
    """The command line. Its commands are placeholders with their help until one is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return name, command and remaining arguments; the command is imported here."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if name in COMMANDS else command, rest

    def format_commands(self, _: Any, formatter: Any) -> None:
        """Write the commands, one section for each panel."""
        for panel in (RUN, LOOK, ACT, SET_UP):
            with formatter.section(panel):
                formatter.write_dl([(name, each.help) for name, each in COMMANDS.items() if each.panel == panel])


def find(name: str) -> Any:
    """Import a command or a group, and return its function or Typer."""
    module, _, attribute = COMMANDS[name].place.partition(":")
    return getattr(import_module(f"receiver.cli.{module}"), attribute)


def load(name: str) -> Any:
    """Import a command or a group, and return it as the parser's, with its examples."""
    found = find(name)
    if isinstance(found, typer.Typer):
        command: Any = typer.main.get_command(found)
        command.help = COMMANDS[name].help
        commands = {f"{name} {sub}": each for sub, each in command.commands.items()}
    else:
        app = new_app()
        app.command(name)(found)
        command = typer.main.get_command(app)
        commands = {name: command}
    for path, each in commands.items():
        lines = [f"  runhook {path} {example}".rstrip() for example in EXAMPLES.get(path, ())]
        each.epilog = "\n".join(["\b", "Examples:", *lines]) if lines else None
    return command
