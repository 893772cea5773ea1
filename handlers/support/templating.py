"""Templates written by operators and filled from payloads: sandboxed, strict, and bounded in length.

A template is the operator's code; a payload only supplies values, never template text. `compile` runs at load and finds
what is wrong then: bad syntax, an unknown name, a template that includes files. `render` runs for each delivery. The
caller's `finalize` turns each value into text (a key-safe name, an escaped message); it runs last, so no filter in the
template can bypass it.

This file knows no sink: it turns text and values into text. Jinja is imported with the first template: a receiver,
which checks the options of sinks, often needs none.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Mapping
from datetime import UTC
from typing import TYPE_CHECKING, Any

from handlers.contract import Delivery, Refused

if TYPE_CHECKING:
    import jinja2
    from jinja2 import nodes

# Longest template, in characters.
MAX_SOURCE = 64 * 1024
# Longest result unless the caller sets less, in characters.
MAX_OUTPUT = 256 * 1024

# The names that `context_of` gives: pass them to `compile`.
VARIABLES = frozenset({"run", "event", "source", "labels", "received_at", "date", "receipts", "route", "test"})


class TemplateError(ValueError):
    """A template can't be used. Raised at load; the message is one line with the template's name and line."""


def plain(value: Any) -> str:
    """Return a value as a template prints it: null is "", booleans, objects and lists are JSON.

    Raises jinja2.UndefinedError for a missing value and for a function that was named without being called.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    import jinja2

    if isinstance(value, jinja2.Undefined):
        return str(value)  # StrictUndefined raises, and its message names what is missing
    if isinstance(value, (bool, Mapping, list, tuple)):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
    if callable(value):
        raise jinja2.UndefinedError("a function is printed where a value belongs")
    return str(value)


def context_of(delivery: Delivery) -> dict[str, Any]:
    """Return the variables that every sink's templates have. The same at every attempt of a delivery.

    `run`: the body's fields, with run_id, run_type and outcome (the status after correction) always there.
    `event`: id, source, via, key (the delivery's idempotency key). `received_at`: datetime in UTC; `date`: its year,
    month, day, hour as digits of fixed width. `receipts`: of the sinks that this one waited for.
    """
    received_at = delivery.received_at.astimezone(UTC)
    run = {**delivery.run, "run_id": delivery.run_id, "run_type": delivery.run_type, "outcome": delivery.status}
    return {
        "run": run,
        "event": {"id": delivery.event_id, "source": delivery.source, "via": delivery.via, "key": delivery.key},
        "source": delivery.source,
        "labels": dict(delivery.labels),
        "received_at": received_at,
        "date": {part: received_at.strftime(code) for part, code in _DATE_PARTS.items()},
        "receipts": dict(delivery.receipts),
        "route": delivery.route,
        "test": delivery.test,
    }


_DATE_PARTS = {"year": "%Y", "month": "%m", "day": "%d", "hour": "%H"}


class Template:
    """A compiled template. Safe to use from many threads."""

    def __init__(self, template: jinja2.Template, name: str, max_length: int, used: Collection[str]) -> None:
        self._template = template
        self.name = name
        self.max_length = max_length
        # The variables that it names.
        self.used = frozenset(used)

    def render(self, context: Mapping[str, Any]) -> str:
        """Return the template filled with `context`.

        Raises Refused when it can't be filled (a field that this run does not have, a type that does not fit), or is
        longer than `max_length` characters: the same run would fail the same way again.
        """
        import jinja2

        pieces: list[str] = []
        length = 0
        try:
            for piece in self._template.generate(context):
                length += len(piece)
                if length > self.max_length:
                    raise Refused(f"the template {self.name} gives more than {self.max_length:,} characters")
                pieces.append(piece)
        except Refused:
            raise
        except OverflowError:
            raise Refused(f"the template {self.name} can't be filled: a range or number in it is too large") from None
        except jinja2.TemplateError as error:  # its message holds names of the template, not values
            raise Refused(f"the template {self.name} can't be filled: {_one_line(error.message or '')}") from None
        except Exception as error:  # noqa: BLE001 - whatever a filter raises; its message may hold a value
            raise Refused(f"the template {self.name} can't be filled: {type(error).__name__}") from None
        return "".join(pieces)


def compile(  # noqa: A001 - always called as templating.compile
    source: str,
    *,
    name: str = "template",
    variables: Collection[str] = VARIABLES,
    finalize: Callable[[Any], str] = plain,
    max_length: int = MAX_OUTPUT,
) -> Template:
    """Compile `source`. `name`: what errors call it. `variables`: the names that `render` will be given.

    `finalize` turns each printed value into text. Raises TemplateError.
    """
    if len(source) > MAX_SOURCE:
        raise TemplateError(f"{name}: at most {MAX_SOURCE:,} characters in a template, not {len(source):,}")
    import jinja2
    from jinja2 import meta

    from handlers.support.template_sandbox import environment

    sandbox = environment(finalize, _to_json)
    try:
        tree = sandbox.parse(source, name=name)
        _check(tree, name, variables)
        used = meta.find_undeclared_variables(tree)
        return Template(sandbox.from_string(tree), name, max_length, used)
    except jinja2.exceptions.SecurityError as error:
        raise TemplateError(f"{name}: {_one_line(error.message or '')}") from None
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"{name}, line {error.lineno}: {_one_line(error.message or 'not a template')}") from None
    except (RecursionError, MemoryError, OverflowError, SyntaxError):
        raise TemplateError(f"{name}: the template is nested too deeply") from None


def _check(tree: nodes.Template, name: str, variables: Collection[str]) -> None:
    """Raise TemplateError for what would fail at every rendering."""
    from jinja2 import meta, nodes

    from handlers.support.template_sandbox import GLOBALS

    for file_node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        raise TemplateError(f"{name}, line {file_node.lineno}: a template can't include or import another")
    unknown = sorted(meta.find_undeclared_variables(tree) - set(variables) - GLOBALS)
    if unknown:
        near = difflib.get_close_matches(unknown[0], list(variables), n=1)
        hint = f"did you mean {near[0]}?" if near else "there are " + ", ".join(sorted(variables))
        raise TemplateError(f"{name}: unknown variable {unknown[0]}; {hint}")


def _to_json(value: Any) -> str:
    """Return JSON for messages and bodies, not for HTML: only what JSON requires is escaped."""
    import jinja2

    if isinstance(value, jinja2.Undefined):
        return str(value)  # raises, naming what is missing
    return json.dumps(value, ensure_ascii=False, default=str)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
