"""The options of the sink `database`."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from handlers.database import DatabaseOptions


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"url": "results.db"}, "is not a valid database URL"),
        ({"url": ""}, "is empty"),
        ({"url": "sqlite://"}, "must name a file"),
        ({"url": "postgresql://u:pw@sekret@h/db"}, "has several @; in a user or password write @ as %40"),
        ({"url": "sqlite://var/x.db"}, "names a host after two slashes, and SQLite has none: three begin a path"),
        ({"url": "sqlite:///:memory:"}, "must name a file"),
        ({"url": "mysql://me:pw-5e1f@host/db"}, "not to mysql"),
        ({"url": "postgresql+asyncpg://me:pw-5e1f@host/db"}, "not to postgresql\\+asyncpg"),
        ({"url": "postgresql://me:pw-5e1f@host:port/db"}, "is not a valid database URL"),
        ({"table": "runs; DROP TABLE x"}, "is not a valid table name"),
        ({"table": "a.b.c"}, "is not a valid table name"),
        ({"columns": {"status": "output.status"}}, "status is a column that the table has already"),
        ({"columns": {"a b": "output.a"}}, "is not a valid column name"),
        ({"columns": {"total": "output..total"}}, "is not a valid path"),
        ({"columns": {"total": {"path": "output.total", "type": "money"}}}, "'text', 'integer', 'number'"),
        ({"columns": {"total": {"path": "output.total", "tpye": "text"}}}, "tpye"),
        ({"columns": {"Total": "output.a", "total": "output.b"}}, "differ only in upper and lower case"),
    ],
)
def test_wrong_option_is_explained_without_the_password(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says) as caught:
        DatabaseOptions.model_validate({"url": "sqlite:///var/results.db", **options})
    assert "pw-5e1f" not in str(caught.value)
