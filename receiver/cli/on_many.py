"""Actions on many deliveries, by id or by the filter of the lists: counted, asked for, and guarded by the count."""

from __future__ import annotations

import functools
import inspect
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple

import typer

from receiver.api.actions.chosen import Chosen, TakenResult
from receiver.api.endpoint import Endpoint
from receiver.api.operations import GET_OPERATION, OperationRow
from receiver.cli.api_options import api_options, check_times, named_options
from receiver.cli.client import Client
from receiver.cli.names import check_form
from receiver.cli.options import Yes, confirm
from receiver.cli.output import clean, out
from receiver.cli.progress import ProgressLine
from receiver.domain.counting import counted as in_words
from receiver.domain.delivery import DeliveryState
from receiver.errors import NotFound, RunhookError, UsageError

# Seconds between two looks at an operation.
_LOOK: Final = 0.5
# Seconds without a step after which it is told once who makes them.
_PATIENCE: Final = 10.0
# What `Chosen` has beside the filter: an argument, and what `How` is made of.
_NO_OPTIONS: Final = frozenset({"ids", "dry_run", "expect"})
# Ids that a message names.
_NAMED: Final = 5

# What a replay leaves by its state, and what takes it.
_LEFT: Final = {
    DeliveryState.DEAD: "`--state dead`, which is the default, takes those",
    DeliveryState.DELIVERED: "--force sends those again",
    DeliveryState.WAITING: "--state waiting tries those now",
    DeliveryState.CANCELLED: "`runhook cancel --undo` brings those back",
    DeliveryState.HELD: "they go on by themselves",
    DeliveryState.QUEUED: "they are sent soon, or wait for a sink that is paused or down: `runhook sink list`",
    DeliveryState.SENDING: "they are being sent",
}


class How(NamedTuple):
    """How an action on many is made. `expect`: how many it must be, None for no matter."""

    dry_run: bool
    expect: int | None
    wait: bool
    yes: bool


# The options that `How` is made of.
_HOW: Final[dict[str, Any]] = {
    "dry_run": Annotated[bool, typer.Option("--dry-run", help="Only count.")],
    "expect": Annotated[
        int | None,
        typer.Option("--expect", metavar="N", min=0, help="Only if it is exactly so many; nobody is asked then."),
    ],
    "wait": Annotated[bool, typer.Option("--wait/--no-wait", help="Show progress until it is done.")],
    "yes": Yes,
}


def on_many(model: type[Chosen], argument: str, what: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the decorator of a command that acts on what is chosen by ids, or by options for the filter of `model`.

    It is called with a client, the ids, what was asked for by parameter of `model`, how, and its own options by name.
    `argument`: what its ids are of, as the help shows it; `what`: the help for them.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        _client, _ids, _asked, _how, *own = inspect.signature(command, eval_str=True).parameters.values()

        @functools.wraps(command)
        def call(client: Client, ids: list[str] | None, asked: dict[str, Any], **given: Any) -> None:
            for each in ids or ():
                check_form(each)
            how = How(**{name: given.pop(name) for name in _HOW})
            command(client, ids or [], asked, how, **given)

        keyword = inspect.Parameter.KEYWORD_ONLY
        ids = Annotated[list[str] | None, typer.Argument(metavar=argument, help=what)]
        call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter("client", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Client),
                inspect.Parameter("ids", keyword, default=None, annotation=ids),
                *(each.replace(kind=keyword) for each in own),
                inspect.Parameter("asked", keyword),
                *(
                    inspect.Parameter(name, keyword, default=None if name == "expect" else False, annotation=option)
                    for name, option in _HOW.items()
                ),
            ]
        )
        return api_options(model, without=_NO_OPTIONS)(call)

    return decorate


def act(
    client: Client,
    endpoint: Endpoint[Any, TakenResult],
    ids: Sequence[str],
    asked: Mapping[str, Any],
    how: How,
    *,
    for_good: bool = True,
    note: str = "",
) -> bool:
    """Count what an action on what is chosen would take, ask, and make it with that count. Returns whether it was made.

    `asked`: its parameters; `for_good`: as of `confirm`; `note`: what is said before that. Raises RunhookError for
    nothing and for other than `how.expect`, and what the call raises.
    """
    verb, client.tell = endpoint.name, not how.dry_run
    with named_options(asked, {"ids": ids}):
        parameters = endpoint.validated({**asked, "ids": ids})  # once: "2h ago" is the same moment in both calls
        check_times(parameters, asked)
        counted = client.call(endpoint, parameters.model_copy(update={"dry_run": True}))
        if note:
            out().print(note)
        if counted.orphaned:
            out().print(
                f"left: {_deliveries(counted.orphaned)}, for whose sinks are not in the config: `runhook sink list` "
                "shows those that wait, `runhook sink move OLD NEW` gives them and dead letters to another sink"
            )
        nothing = "" if counted.count else _nothing(verb, ids, counted.left, str(asked.get("into", "")))
        if how.dry_run:
            out().print(f"{_deliveries(counted.count)} to {verb}\n{nothing}".rstrip())
        if how.expect not in (None, counted.count):
            raise RunhookError(f"--expect {how.expect}: {counted.count} match now; nothing was changed")
        if how.dry_run:
            return False
        if nothing:
            raise RunhookError(nothing)
        question = f"{verb.capitalize()} {_deliveries(counted.count)}?"
        confirm(counted.count, question, yes=how.yes or how.expect is not None, for_good=for_good)
        guard = {"expect": how.expect} if ids else {"expect": counted.count, "until": counted.until}
        try:
            operation = client.call(endpoint, parameters.model_copy(update=guard)).operation
        except NotFound as none:  # of one of several ids, which is no other case than of the only one
            raise RunhookError(none.message) from None
    assert operation is not None
    out().print(f"{operation.id}: {_deliveries(operation.total)} to {verb}")
    if how.wait:
        _watch(client, operation)
    return True


def _deliveries(count: int) -> str:
    return in_words(count, "delivery", "deliveries")


def require_choice(ids: Sequence[str], asked: Mapping[str, Any], verb: str, *, everything: bool = False) -> None:
    """Raise UsageError when nothing says which are meant."""
    if not ids and not asked and not everything:
        raise UsageError(f"say what to {verb}: ids, or options such as --sink, --status, --since and --until")


def _nothing(verb: str, ids: Sequence[str], left: Mapping[str, int], into: str) -> str:
    """Return why there is nothing to do. `left`: what matches but is not taken, by state; `into`: the sink that gets
    old results, if one does."""
    of = f" of {', '.join(clean(each, 60) for each in ids[:_NAMED])}" if ids else ""
    of += ", …" if len(ids) > _NAMED else ""
    if into:
        return f"nothing to {verb}{of}: {clean(into, 60)} has a delivery of every result that matches, or none matches"
    hints = _LEFT if verb == "replay" else {}
    told = [
        f"{number} {state}" + (f": {hint}" if (hint := hints.get(DeliveryState(state))) else "")
        for state, number in sorted(left.items())
    ]
    return f"nothing to {verb}{of}: {'; '.join(told) or 'no delivery matches'}"


def _watch(client: Client, operation: OperationRow) -> None:
    """Show the progress of an operation until it has ended."""
    came_on, told = time.monotonic(), False
    with ProgressLine(operation.id, operation.total, every=True) as progress:
        while True:
            progress.show(operation.done)
            if operation.state != "running":
                return
            time.sleep(_LOOK)
            done, operation = operation.done, client.call(GET_OPERATION, GET_OPERATION.validated({"id": operation.id}))
            if operation.done != done:
                came_on = time.monotonic()
            elif not told and time.monotonic() - came_on > _PATIENCE:
                told = True
                sys.stderr.write(
                    f"runhook: {operation.id}: nothing was done for {_PATIENCE:g} s: the clock does it, and `runhook "
                    "status` says whether one runs; Ctrl-C ends the waiting, not the operation\n"
                )
