"""`runhook connect`: where the results of Skyvern's agents and schedules go, and making them go here."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Annotated, Any

import typer

from receiver.cli.ledger_access import open_ledger
from receiver.cli.names import chosen_sources
from receiver.cli.options import ConfigFile, DataDirectory, Json, load_config
from receiver.cli.output import clean, iso, out, print_json, print_table, show_time
from receiver.cli.profiles import here_only
from receiver.cli.progress import ProgressLine
from receiver.domain.agent_url import shown, where
from receiver.errors import ConfigError, UsageError
from receiver.ledger import Ledger
from receiver.reconcile import connect as connecting
from receiver.reconcile.connect import NotChanged, Survey
from receiver.reconcile.poller import build
from receiver.reconcile.schedules import ScheduleCheck
from receiver.reconcile.source import PolledSource
from receiver.skyvern.account import ListedAgent


@here_only
def connect(
    apply: Annotated[
        bool,
        typer.Option("--apply", help="Have the results of agents sent here that go nowhere, or that --agent names."),
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Put back what --apply has changed.")] = False,
    agents: Annotated[
        list[str] | None, typer.Option("--agent", help="Only this agent (wpid_…); may be repeated.")
    ] = None,
    source: Annotated[str | None, typer.Option("--source", help="Only this source.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Change without asking.")] = False,
    config: ConfigFile = None,
    data: DataDirectory = None,
    as_json: Json = False,
) -> None:
    """List agents and schedules with where their results go: here, elsewhere or nowhere; and change that.

    Runs without a URL of their own post to their agent's: those of schedules, of Skyvern's UI and of many apps.
    """
    if apply and undo:
        raise UsageError("--apply and --undo: one of them")
    if as_json and (apply or undo) and not yes:
        raise UsageError("--json: nobody can be asked then; say --yes too")
    settings, loaded = load_config(config, data)
    if apply and not settings.public_url:
        raise ConfigError("PUBLIC_URL is not set: set it to where Skyvern reaches this receiver")
    with open_ledger(settings, tell=True) as ledger, closing(build(settings, loaded)) as reconciler:
        asked = chosen_sources(reconciler.sources, source, loaded, settings)
        surveys = [connecting.survey(ledger, each) for each in asked]
        if not any(each.trouble for each in surveys):  # else nobody knows which there are
            _known(surveys, agents)
        wanted = [
            (each, found, _chosen(found, each, agents, undo=undo) if apply or undo else [])
            for each, found in zip(asked, surveys, strict=True)
        ]
        if not as_json:
            _show(wanted, agents, undo=undo)
        changes = sum(len(chosen) for _, _, chosen in wanted)
        if changes and not yes and not typer.confirm(f"Change {changes} agent{'' if changes == 1 else 's'}?"):
            raise typer.Exit(1)
        results = _change(ledger, wanted, undo=undo)
    if as_json:
        print_json({"sources": [_as_json(each, found, results) for each, found, _ in wanted]})
    elif changes:
        done = sum(not problem for problem in results.values())
        out().print(
            f"{done} of {changes} agents changed." + ("" if undo else " `runhook connect --undo` puts it back.")
        )
    if _tell_problems(surveys, results):
        raise typer.Exit(1)


def _known(surveys: Sequence[Survey], named: Sequence[str] | None) -> None:
    """Raise UsageError for an agent that no source has."""
    known = {agent.id for found in surveys for agent in found.agents}
    if unknown := sorted(set(named or ()) - known):
        raise UsageError(f"--agent {clean(unknown[0], 60)}: there is no such agent; `runhook connect` lists them")


def _tell_problems(surveys: Sequence[Survey], results: Mapping[tuple[str, str], str]) -> bool:
    """Write what was wrong to standard error. Returns whether anything was."""
    problems = [f"{found.source}: {found.trouble}" for found in surveys if found.trouble]
    problems += [
        f"{name}: {agent_id}: {clean(problem, 400)}" for (name, agent_id), problem in results.items() if problem
    ]
    for line in problems:
        sys.stderr.write(f"runhook: {line}\n")
    return bool(problems)


def _chosen(found: Survey, source: PolledSource, named: Sequence[str] | None, *, undo: bool) -> list[ListedAgent]:
    """Return the agents to change. One whose results go elsewhere is changed only when it is named, or when it was sent
    to an earlier URL of this receiver."""
    if undo:
        return [each for each in found.agents if each.id in found.changed and (not named or each.id in named)]
    return [
        each
        for each in found.agents
        if (each.id in named if named else _is_free(found, each, source))
        and where(each.callback_url, source.hooks) != "here"
    ]


def _is_free(found: Survey, agent: ListedAgent, source: PolledSource) -> bool:
    change = found.changed.get(agent.id)
    moved = change is not None and change.after == agent.callback_url
    return moved or where(agent.callback_url, source.hooks) == "nowhere"


def _change(
    ledger: Ledger, wanted: Sequence[tuple[PolledSource, Survey, list[ListedAgent]]], *, undo: bool
) -> dict[tuple[str, str], str]:
    """Make the changes. Returns what was wrong with each, or "", by source and agent."""
    results: dict[tuple[str, str], str] = {}
    changes = [(source, found, agent) for source, found, chosen in wanted for agent in chosen]
    with ProgressLine("agents", len(changes)) as progress:
        for source, found, agent in changes:
            progress.show(len(results))
            try:
                if undo:
                    connecting.undo(ledger, source, agent, found.changed[agent.id])
                else:
                    connecting.connect(ledger, source, agent)
                results[source.name, agent.id] = ""
            except NotChanged as problem:
                results[source.name, agent.id] = str(problem)
        progress.show(len(results))
    return results


def _target(source: PolledSource, found: Survey, agent: ListedAgent, *, undo: bool) -> str:
    return shown(found.changed[agent.id].before if undo else source.hooks) or "nowhere"


def _show(
    wanted: Sequence[tuple[PolledSource, Survey, list[ListedAgent]]], named: Sequence[str] | None, *, undo: bool
) -> None:
    rows, schedules = [], []
    for source, found, chosen in wanted:
        for agent in found.agents:
            if named and agent.id not in named:
                continue
            place = where(agent.callback_url, source.hooks)
            change = f"-> {_target(source, found, agent, undo=undo)}" if agent in chosen else ""
            rows.append(
                [source.name, agent.id, clean(agent.title, 40), place, clean(shown(agent.callback_url), 80), change]
            )
        places = {each.id: where(each.callback_url, source.hooks) for each in found.agents}
        schedules += [
            [
                source.name,
                each.schedule.id,
                clean(each.schedule.name or each.schedule.title, 40),
                places.get(each.schedule.agent_id, "unknown"),
                show_time(each.schedule.next_at),
                _state(each),
            ]
            for each in found.schedules
            if not named or each.schedule.agent_id in named
        ]
    if rows or not any(found.trouble for _, found, _ in wanted):
        print_table(["source", "agent", "title", "results", "url", "change"], rows, "There are no agents.")
    if schedules:
        out().print("")
        print_table(["source", "schedule", "name", "results", "next run", "last run"], schedules, "")


def _state(check: ScheduleCheck) -> str:
    if not check.schedule.enabled:
        return "paused"
    if check.missed is not None:
        return f"missing: none was started at {show_time(check.missed)}"
    return "" if check.due_at is None else f"{show_time(check.due_at)}{'' if check.ran else ', not known'}"


def _as_json(source: PolledSource, found: Survey, results: dict[tuple[str, str], str]) -> dict[str, Any]:
    places = {each.id: where(each.callback_url, source.hooks) for each in found.agents}
    return {
        "source": source.name,
        "here": source.hooks or None,
        "agents": [
            {
                "agent_id": each.id,
                "title": each.title,
                "results": places[each.id],
                "url": shown(each.callback_url) or None,
                "changed": results.get((source.name, each.id)) == "",
                "problem": results.get((source.name, each.id)) or None,
            }
            for each in found.agents
        ],
        "schedules": [
            {
                "schedule_id": each.schedule.id,
                "agent_id": each.schedule.agent_id,
                "name": each.schedule.name,
                "results": places.get(each.schedule.agent_id, "unknown"),
                "enabled": each.schedule.enabled,
                "next_run": iso(each.schedule.next_at),
                "last_due": iso(each.due_at),
                "ran": each.ran,
            }
            for each in found.schedules
        ],
        "trouble": found.trouble,
    }
