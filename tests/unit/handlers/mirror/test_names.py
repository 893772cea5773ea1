"""A payload's names become safe names."""

from typing import Any

import pytest
from hypothesis import given

from handlers.mirror.names import MAX_NAME, MAX_PART, UsedNames, key_part, safe_file_name
from tests.support.formats import JSON, TEXT, is_safe


@given(TEXT)
def test_every_text_becomes_one_safe_name_and_stays_it(text: str) -> None:
    name = safe_file_name(text)
    assert is_safe(name, MAX_NAME)
    assert safe_file_name(name) == name


@given(TEXT | JSON)
def test_every_value_becomes_one_safe_part_of_a_prefix(value: Any) -> None:
    part = key_part(value)
    assert is_safe(part, MAX_PART)
    assert key_part(part) == part


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("invoice.pdf", "invoice.pdf"),
        ("Rechnung März (1).pdf", "Rechnung März (1).pdf"),
        ("日本語.pdf", "日本語.pdf"),
        ("../../etc/passwd", "_._.._etc_passwd"),
        ("..", "_"),
        ("", "_"),
        (".bashrc", "_bashrc"),
        ("a\u202egnp.exe", "a_gnp.exe"),
        ("two  spaces\u00a0.txt", "two  spaces .txt"),
        ("e\u0301.txt", "\u00e9.txt"),
        ("x" * 300 + ".pdf", "x" * 176 + ".pdf"),
        ("ü" * 300 + ".pdf", "ü" * 88 + ".pdf"),
    ],
)
def test_a_name_stays_as_people_wrote_it_where_that_is_safe(text: str, name: str) -> None:
    assert safe_file_name(text) == name


def test_two_values_never_become_one_part() -> None:
    parts = [key_part(value) for value in ("a/b", "a_b", "a\\b", "a:b", "..", ".", "/", "A" * 200, "A" * 201, "", "_x")]
    assert len(set(parts)) == len(parts)


def test_taken_names_get_a_number_also_if_only_case_differs() -> None:
    taken = UsedNames(["run.json"])
    given_names = [
        taken.reserve(name) for name in ("a.pdf", "A.pdf", "a-2.pdf", "a.pdf", "run.json", "README", "README")
    ]
    assert given_names == ["a.pdf", "A-2.pdf", "a-2-2.pdf", "a-3.pdf", "run-2.json", "README", "README-2"]
