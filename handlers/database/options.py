"""The options of the sink `database`, checked at load. Opens nothing."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator, model_validator
from sqlalchemy import URL, make_url

from handlers.contract import SinkOptions
from handlers.database.table import RESERVED
from handlers.support.database_url import url_problem

ColumnType = Literal["text", "integer", "number", "boolean", "timestamp", "json"]

MAX_MAPPED = 90
HISTORY = "_history"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


class MappedColumn(BaseModel):
    """A column that is filled from a field of the run."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    path: str | tuple[str, ...] = Field(
        description="Dotted path into the run (output.total, output.lines.0.price, labels.team), or a list of keys."
    )
    type: ColumnType = Field(
        "text", description=f"One of {', '.join(get_args(ColumnType))}. A value that does not fit becomes null."
    )

    @property
    def keys(self) -> tuple[str, ...]:
        """The path as a tuple of keys."""
        return tuple(self.path.split(".")) if isinstance(self.path, str) else self.path

    @field_validator("path")
    @classmethod
    def _not_empty(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        keys = value.split(".") if isinstance(value, str) else value
        if not keys or not all(keys):
            raise ValueError("is not a valid path; use one such as output.total")
        return value


def _from_shorthand(value: Any) -> Any:
    return {"path": value} if isinstance(value, (str, list, tuple)) else value


# A column's forms in the config.
_Column = MappedColumn | str | list[str]


class DatabaseOptions(SinkOptions):
    """One row a run, in a table of SQLite or PostgreSQL."""

    url: SecretStr = Field(description="URL of the database: sqlite:///var/results.db or postgresql://user@host/name.")
    table: str = Field("skyvern_runs", description="The table, on PostgreSQL also schema.table.")
    create: bool = Field(True, description="Create the table, and your missing columns, at the first delivery.")
    accept_weaker_durability: bool = Field(
        False,
        description="Write although PostgreSQL may lose what it has confirmed (fsync or full_page_writes off), and"
        " keep the server's synchronous_commit.",
    )
    history: bool = Field(
        False, description="Also write each event to a second table, named like the first plus _history."
    )
    columns: dict[str, Annotated[MappedColumn, BeforeValidator(_from_shorthand, json_schema_input_type=_Column)]] = (
        Field(
            default_factory=dict,
            max_length=MAX_MAPPED,
            description="Additional columns: {total: output.total} or {total: {path: output.total, type: number}}.",
        )
    )

    @field_validator("url")
    @classmethod
    def _is_supported(cls, value: SecretStr) -> SecretStr:
        parse_url(value.get_secret_value())
        return value

    @field_validator("table")
    @classmethod
    def _is_table(cls, value: str) -> str:
        parts = value.split(".")
        if len(parts) > 2 or not all(_NAME.fullmatch(part) for part in parts):
            raise ValueError("is not a valid table name: use at most 63 letters, digits and _, or schema.table")
        return value

    @model_validator(mode="after")
    def _history_has_a_name(self) -> Self:
        if self.history and not _NAME.fullmatch(self.history_table.rpartition(".")[2]):
            raise ValueError(
                "table: with history: true its name has at most 55 characters, for _history is added to it"
            )
        return self

    @property
    def history_table(self) -> str:
        """The table of all events, when `history` is on."""
        return f"{self.table}{HISTORY}"

    @field_validator("columns")
    @classmethod
    def _are_columns(cls, value: dict[str, MappedColumn]) -> dict[str, MappedColumn]:
        for name in value:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a valid column name: use at most 63 letters, digits and _")
            if name.lower() in RESERVED:
                raise ValueError(f"{name} is a standard column; choose another name")
        if len({name.lower() for name in value}) < len(value):
            raise ValueError("two columns differ only in case, which databases ignore")
        return value


def parse_url(text: str) -> URL:
    """Return the URL with its driver. Raises ValueError, without the URL, which may hold a password."""
    if problem := url_problem(text.strip(), "var/results.db"):
        raise ValueError(problem)
    url = make_url(text.strip())
    return url.set(drivername="sqlite" if url.drivername.startswith("sqlite") else "postgresql+psycopg")
