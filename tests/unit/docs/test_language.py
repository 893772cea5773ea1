"""Docs, messages, docstrings and comments avoid the phrases of BANNED, in each place that SWEPT lists."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# Phrases that make a newcomer read a sentence twice, and what to write instead. Regular expressions without case.
BANNED = {
    r"\b(?:nobody|somebody|anybody|everybody|whoever)\b": "name the person or the process",
    r"\banew\b|\bmade new\b": "again, new",
    r"\bso many\b": "at most N, exactly N",
    r"\bat the most\b|\bat the least\b": "at most, at least",
    r"\bthere (?:is|are) none\b|\b(?:is|are|was) (?-i:none)\b|\bnone has\b": "not found, missing, no X",
    r"\b(?<!there )(?:is|are|was|be) no (?!longer|more|match\b|less|way|need|other|such)": "is not a valid X",
    r"\bour own\b|\b(?:of|is|are) ours\b": "Runhook's",
    r"\bby itself\b|\bof itself\b|\bby themselves\b": "automatically",
    r"\bgo(?:es)? on\b|\bwent on\b|\bgone on\b": "continue, resume",
    r"\btell(?:s|ing)? (?:of|one|what|which|whether|how|each|apart)\b": "report, show, log",
    r"\b(?:is|are|was|be|been) told\b|\btold (?:of|again|whole|apart|later|at|in|by|which|what)\b": "reported",
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\b(?:is|are|was|were|be|been|stays?) away\b|\baway (?:too|for)\b": "unavailable, down",
    r"\bleft alone\b|\bleaves? (?:it |them )?alone\b|\bpass(?:es|ed)? over\b": "skip, ignore",
    r"\bof before\b|\bthe one before\b": "previous, earlier",
    r"\ball is well\b|\bis well\b(?! below)": "say which state it is in",
    r"\bwell again\b": "recovered",
    r"\bin vain\b": "without effect",
    r"\bbut for\b": "except",
    r"\bas good as\b": "nearly",
    r"\bdies? of\b": "fails because of",
    r"\bsees? to (?:it|that)\b|\bseen to\b": "ensure",
    r"\bsays? so\b|\bsaid so\b|\bended so\b(?! early| recently)|\bbegins? so\b": "name the state",
    r"\btold whole\b|\bseen whole\b|\bshown whole\b|\bone run whole\b": "complete",
    r"\bmakes? nothing of\b|\bknows? nothing of\b": "does not depend on",
    r"\bmade no step\b": "made no progress",
    r"\bis wanted\b|\bare wanted\b|\bmost likely not meant\b": "requested, selected",
    r"\blies? on (?:its|our|the) disk\b": "is on disk",
    r"\bas if nothing\b|\bof old\b|\bsince long\b": "use plain words",
    r"\bhere and there\b|\bthis once\b": "use plain words",
    r"\bnot ?\w* any ?more\b": "no longer",
}

# Places whose texts avoid these phrases.
SWEPT = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs", "handlers", "receiver", "simulator")
# Pages in these places that are generated from the code.
ELSEWHERE = ("docs/reference/commands.md", "docs/reference/api-calls.md")

SUFFIXES = {".py", ".md", ".html", ".j2", ".yaml"}
Text = tuple[int, str]


def texts_of_code(source: str) -> Iterator[Text]:
    """Yield the line and the words of each string literal and block of comments."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "…".join(part.value for part in node.values if isinstance(part, ast.Constant))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    comments: list[Text] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments.append((token.start[0], token.string.lstrip("# ")))
        elif token.type not in (tokenize.NL, tokenize.NEWLINE) and comments:
            yield comments[0][0], " ".join(text for _, text in comments)
            comments = []


def texts(path: Path) -> Iterator[Text]:
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from texts_of_code(source)
    else:
        if path.suffix == ".html":
            source = re.sub(r"{%.*?%}", " ", source)
        yield from ((source[: found.start()].count("\n") + 1, found[0]) for found in re.finditer(r"(?:.+\n?)+", source))


def offences(path: Path) -> list[str]:
    """Return each banned phrase of a file, with its line and what to write instead."""
    found = {
        f"{path.relative_to(ROOT)}:{line}: {match[0]!r} → {instead}"
        for line, text in texts(path)
        for joined in [" ".join(text.split())]
        for pattern, instead in BANNED.items()
        for match in re.finditer(pattern, joined, re.IGNORECASE)
    }
    return sorted(found)


@pytest.mark.parametrize("place", SWEPT)
def test_texts_avoid_banned_phrases(place: str) -> None:
    root = ROOT / place
    paths = [root] if root.is_file() else [each for each in sorted(root.rglob("*")) if each.suffix in SUFFIXES]
    pages = [path for path in paths if str(path.relative_to(ROOT)) not in ELSEWHERE]

    assert [offence for path in pages for offence in offences(path)] == []


def test_banned_phrases_are_found_in_strings_and_comments() -> None:
    source = '"""Tell one run whole."""\n# nobody\n# waits\nx = f"{1} is no " "number"  # goes on\n'
    found = [text for _, text in texts_of_code(source)]

    assert {"Tell one run whole.", "nobody waits", " is no number", "goes on"} <= set(found)
