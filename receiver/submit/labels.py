"""The labels of a submission, from the header `x-runhook-labels` and the body's `labels`. Pure.

In the header: `team=billing,order=42`. Values may be percent-encoded, for those with a comma in them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

from handlers.support.resubmit_chain import CHAIN, TRY

HEADER: Final = "x-runhook-labels"
MEMBER: Final = "labels"
# Without the two that the resubmit sink adds, so that each submission can be resubmitted.
MAX_LABELS: Final = 32
# Characters of a value.
MAX_VALUE: Final = 256

_NAME = re.compile(r"[a-z0-9_.-]{1,64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class LabelError(ValueError):
    """The labels can't be recorded. The message says which and why, and repeats no value."""


def labels_of(header: str, member: Any = None) -> dict[str, str]:
    """Return the labels of a request, sorted by name. `header`: or "". Raises LabelError.

    `member`: the body's `labels`, an object of texts, numbers and truth values. Where both name a label, the body wins.
    """
    labels = _from_header(header)
    if member is not None:
        if not isinstance(member, Mapping):
            raise LabelError('labels: must be an object such as {"team": "billing"}')
        labels |= {str(name): _text(str(name), value) for name, value in member.items()}
    if (count := len(labels.keys() - {CHAIN, TRY})) > MAX_LABELS:
        raise LabelError(f"{count} of them, and {MAX_LABELS} are the most")
    for name, value in labels.items():
        if not _NAME.fullmatch(name):
            raise LabelError("labels: a name is 1 to 64 of a-z, 0-9, _, . and -")
        if len(value) > MAX_VALUE:
            raise LabelError(f"labels: the value of {name} is longer than {MAX_VALUE} characters")
        if _CONTROL.search(value):
            raise LabelError(f"labels: the value of {name} holds control characters")
    return dict(sorted(labels.items()))


def _from_header(header: str) -> dict[str, str]:
    labels = {}
    for item in header.split(","):
        if not item.strip():
            continue
        name, equals, value = item.partition("=")
        if not equals:
            raise LabelError(f"{HEADER}: must be name=value, with commas between")
        labels[name.strip()] = unquote(value.strip())
    return labels


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise LabelError(f"labels: the value of {name[:64]!r} must be a text, a number or a truth value")
