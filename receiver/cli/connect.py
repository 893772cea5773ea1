"""`runhook connect`: where Skyvern sends the results of agents, and sending them to Runhook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Annotated, Any

import typer

from receiver.cli.ledger_access import open_ledger
from receiver.cli.options import ConfigFile, DataDirectory, Json, Yes, load_config
from receiver.cli.output import (
    Form,
    clean,
    out,
    parse_columns,
    print_json,
    print_rows,
    progress,
    warn,
)
from receiver.cli.profiles import here_only
from receiver.cli.reconcile import Source, chosen_sources
from receiver.domain.agent_url import shown, where
from receiver.domain.counting import counted
from receiver.errors import ConfigError, UsageError
from receiver.ledger import Ledger
from receiver.reconcile import connect as connecting
from receiver.reconcile.connect import NotChanged, Survey
from receiver.reconcile.poller import build
from receiver.skyvern.account import ListedAgent


@here_only
def connect(
    apply: Annotated[
        bool, typer.Option("--apply", help="Send results here, of agents without a URL or named by --agent.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Restore what --apply changed.")] = False,
    agents: Annotated[
        list[str] | None, typer.Option("--agent", metavar="ID", help="Only this agent (wpid_…); repeatable.")
    ] = None,
    source: Source = None,
    yes: Yes = False,
    config: ConfigFile = None,
    data: DataDirectory = None,
    as_json: Json = False,
) -> None:
    """List agents with where their results go: here, elsewhere or nowhere; and change that.

    A run without its own URL posts to its agent's: runs of schedules, of Skyvern's UI and of many apps.
    """
    if apply and undo:
        raise UsageError("--apply and --undo are mutually exclusive")
    if as_json and (apply or undo) and not yes:
        raise UsageError("--json requires --yes")
    settings, loaded = load_config(config, data)
    if apply and not settings.public_url:
        raise ConfigError("PUBLIC_URL is not set: set it to the URL at which Skyvern reaches this receiver")
    with open_ledger(settings, announce=True) as ledger, closing(build(settings, loaded)) as reconciler:
        polled = chosen_sources(reconciler.sources, source, loaded, settings)
        surveys = [connecting.survey(ledger, each) for each in polled]
        if not any(each.trouble for each in surveys):  # else the list of agents is incomplete
            _require_known(surveys, agents)
        for each in surveys if apply or undo else ():
            each.changes = _changes(each, agents, undo=undo)
        if not as_json:
            _print(surveys, agents, undo=undo)
        count = sum(len(each.changes) for each in surveys)
        if count and not yes and not typer.confirm(f"Change {counted(count, 'agent', 'agents')}?"):
            raise typer.Exit(1)
        results = _apply(ledger, surveys, undo=undo)
    if as_json:
        print_json({"sources": [_as_json(each, results) for each in surveys]})
    elif count:
        done = sum(not problem for problem in results.values())
        out().print(f"{done} of {count} agents changed." + ("" if undo else " `runhook connect --undo` restores them."))
    problems = [f"{each.source.name}: {each.trouble}" for each in surveys if each.trouble]
    problems += [f"{name}: {agent}: {clean(problem, 400)}" for (name, agent), problem in results.items() if problem]
    for line in problems:
        warn(line)
    if problems:
        raise typer.Exit(1)


def _require_known(surveys: Sequence[Survey], agent_ids: Sequence[str] | None) -> None:
    known = {agent.id for each in surveys for agent in each.agents}
    if missing := sorted(set(agent_ids or ()) - known):
        raise UsageError(f"--agent {clean(missing[0], 60)}: agent not found; `runhook connect` lists them")


def _changes(survey: Survey, agent_ids: Sequence[str] | None, *, undo: bool) -> list[ListedAgent]:
    """Return the agents to change. One whose results go elsewhere is changed only if `agent_ids` has it, or if it
    was sent to an earlier URL of this receiver."""
    if undo:
        return [each for each in survey.agents if each.id in survey.changed and (not agent_ids or each.id in agent_ids)]
    return [
        each
        for each in survey.agents
        if (each.id in agent_ids if agent_ids else _is_free(survey, each))
        and where(each.callback_url, survey.source.hooks) != "here"
    ]


def _is_free(survey: Survey, agent: ListedAgent) -> bool:
    change = survey.changed.get(agent.id)
    moved = change is not None and change.after == agent.callback_url
    return moved or where(agent.callback_url, survey.source.hooks) == "nowhere"


def _apply(ledger: Ledger, surveys: Sequence[Survey], *, undo: bool) -> dict[tuple[str, str], str]:
    """Make the changes. Returns the problem of each, or "", by source and agent."""
    results: dict[tuple[str, str], str] = {}
    changes = [(each, agent) for each in surveys for agent in each.changes]
    with progress("agents", len(changes)) as show:
        for survey, agent in changes:
            source = survey.source
            try:
                if undo:
                    connecting.undo(ledger, source, agent, survey.changed[agent.id])
                else:
                    connecting.connect(ledger, source, agent)
                results[source.name, agent.id] = ""
            except NotChanged as problem:
                results[source.name, agent.id] = str(problem)
            show(len(results))
    return results


def _print(surveys: Sequence[Survey], agent_ids: Sequence[str] | None, *, undo: bool) -> None:
    found = [_as_json(each, {}) for each in surveys]
    changes = {}
    for survey in surveys:
        for agent in survey.changes:
            target = survey.changed[agent.id].before if undo else survey.source.hooks
            changes[survey.source.name, agent.id] = f"-> {shown(target) or 'nowhere'}"

    every = ({**row, "source": each["source"]} for each in found for row in each["agents"])
    agents = [row for row in every if not agent_ids or row["agent_id"] in agent_ids]
    if agents or not any(each["trouble"] for each in found):
        change = {"change": lambda row: changes.get((row["source"], row["agent_id"]), "")}
        columns = parse_columns("source agent=agent_id title results url")
        print_rows(agents, {**columns, **change}, "no agents found", Form.TABLE)


def _as_json(survey: Survey, results: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    name = survey.source.name
    places = {each.id: where(each.callback_url, survey.source.hooks) for each in survey.agents}
    return {
        "source": name,
        "here": survey.source.hooks or None,
        "agents": [
            {
                "agent_id": each.id,
                "title": each.title,
                "results": places[each.id],
                "url": shown(each.callback_url) or None,
                "changed": results.get((name, each.id)) == "",
                "problem": results.get((name, each.id)) or None,
            }
            for each in survey.agents
        ],
        "trouble": survey.trouble,
    }
