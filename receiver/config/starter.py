"""The first config file and .env of a folder, as text: what `runhook init` writes, from templates/."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import jinja2


class Destination(NamedTuple):
    """A sink that `runhook init` offers. `option` takes the value of `variable`; `hidden`: whether that is secret."""

    what: str
    type: str
    variable: str
    option: str
    question: str
    hidden: bool = True


DESTINATIONS: Final = {
    "slack": Destination(
        "a message for each run in a Slack channel",
        "slack",
        "SLACK_WEBHOOK_URL",
        "webhook_url",
        "Slack webhook URL (https://hooks.slack.com/services/…)",
    ),
    "s3": Destination(
        "a folder for each run in an S3 bucket", "s3", "S3_BUCKET", "bucket", "Name of the S3 bucket", hidden=False
    ),
    "postgres": Destination(
        "a row for each run in a PostgreSQL table",
        "database",
        "RESULTS_DATABASE_URL",
        "url",
        "PostgreSQL URL (postgresql://user:password@host/name)",
    ),
    "http": Destination(
        "a POST for each run to your own program, n8n, Zapier or Google Sheets",
        "http",
        "RESULTS_HTTP_URL",
        "url",
        "URL to POST results to (https://app.example.com/hooks/runs)",
    ),
}


def config_text(chosen: Sequence[str], later: Collection[str]) -> str:
    """Return the config file with the chosen destinations. Those of `later` have no value, and are commented out."""
    return rendered("runhook.yaml.j2", chosen={name: "# " if name in later else "" for name in chosen})


def dotenv_text(chosen: Sequence[str], values: Mapping[str, str]) -> str:
    """Return the .env file. Variables without a value are commented out."""
    return rendered("env.j2", chosen=chosen, values=values, quoted=quoted)


def quoted(value: str) -> str:
    """Return a printable text as a value of .env that Runhook reads back unchanged: it replaces no ${…} there."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def rendered(name: str, **values: Any) -> str:
    """Return the text of a template, in which `destinations` are known besides `values`."""
    text = Path(__file__).with_name("templates").joinpath(name).read_text(encoding="utf-8")
    template = jinja2.Template(text, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    return str(template.render(destinations=DESTINATIONS, **values))
