"""Read YAML text into plain values, each with its line, whatever the keys mean.

Stricter and plainer than stock YAML, because a person writes this file and a typing mistake must not pass unseen:
- only `true` and `false` are booleans, dates stay text, `010` is not octal, and keys are always text;
- a key that is written twice is an error, and so is any tag that is not plain YAML;
- aliases and merge keys work, up to a bound on how much they unfold to.
`${VAR}` and `${VAR:-default}` are replaced in scalar values after parsing, so that no value can change the structure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.reader import ReaderError

from receiver.errors import ConfigError

# The path of a value: ("sinks", "ops", "webhook_url").
Key = tuple[str | int, ...]

MAX_BYTES = 256 << 10
MAX_NODES = 20_000
MAX_DEPTH = 40
# Most mappings that one merges from another.
MAX_MERGES = 20
# A default may have one pair of braces in another.
_VARIABLE = re.compile(
    r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*))?\}|\$\{"
)
# Words of a variable's value that may be said, as messages say them on their own.
_PUBLIC = frozenset(
    {"http", "https", "sqlite", "postgresql", "postgres", "psycopg", "redis", "rediss", "true", "false"}
)
_SHORTEST = 3  # characters of a part of a value that is not said
_WORD = re.compile(rf"[\w-]{{{_SHORTEST},}}")
_TAGS = {f"tag:yaml.org,2002:{name}": name for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}
_IMPLICIT = (  # YAML 1.2's core schema, and the merge key of 1.1
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+|0o[0-7]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("merge", r"<<", "<"),
)


class _Loader(yaml.SafeLoader):
    """Used for `compose` only: it yields nodes, and never constructs anything."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own protocol


for _name, _pattern, _first in _IMPLICIT:
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}", re.compile(rf"(?:{_pattern})\Z"), [c if c != "\0" else "" for c in _first]
    )


class Document:
    """A parsed file. `value`: plain dicts, lists and scalars. `problems`: what was wrong, as (line, key, text)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.value: Any = None
        self.lines: dict[Key, int] = {}
        # Text of each scalar before variables were replaced.
        self.raw: dict[Key, str] = {}
        self.problems: list[tuple[int, Key, str]] = []
        # What variables gave to each scalar, by the variable's name: it may be secret, wherever it was put by mistake.
        self.substituted: dict[Key, dict[str, str]] = {}
        # Keys whose value could not be read, so that nothing more can be checked there.
        self.lost: set[Key] = set()

    def line(self, key: Key) -> int:
        """Return the line, from 1, of `key`, or of the nearest value around it."""
        while key and key not in self.lines:
            key = key[:-1]
        return self.lines.get(key, 1)

    def complain(self, key: Key, text: str) -> None:
        """Note a problem at `key`."""
        self.problems.append((self.line(key), key, self.masked(key, text)))

    def masked(self, key: Key, text: str) -> str:
        """Return a message about the value at `key` without anything that a variable gave to it, or to a part of it."""
        for place, given in self.substituted.items():
            if place[: len(key)] == key or key[: len(place)] == place:
                for name, value in given.items():
                    text = _without(value, f"${{{name}}}", text)
        return text

    def lose(self, key: Key, text: str) -> None:
        """Note that the value at `key` could not be read, and why."""
        self.lost.add(key)
        self.complain(key, text)

    def raise_problems(self) -> None:
        """Raise ConfigError with all problems in the order of the file, if there are any."""
        if self.problems:
            lines = [
                f"{self.path}:{line}: {spell(key)}: {text}" if key else f"{self.path}:{line}: {text}"
                for line, key, text in sorted(self.problems, key=lambda problem: problem[0])
            ]
            raise ConfigError(*dict.fromkeys(lines))


def _without(value: str, name: str, text: str) -> str:
    """Return `text` with `name` in place of `value` and of each word that is a part of it."""
    if len(value) >= _SHORTEST:
        text = text.replace(value, name)
    words = _WORD.findall(value)

    def mask(match: re.Match[str]) -> str:
        word = match[0]
        part = word in words or (len(word) >= 2 * _SHORTEST and word in value)
        return name if part and word.lower() not in _PUBLIC else word

    return _WORD.sub(mask, text)


def spell(key: Key) -> str:
    """Return `key` as it is written in messages: sinks.ops.webhook_url, routes[2].to[0]."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def read(path: Path, environ: Mapping[str, str]) -> Document:
    """Parse the file `path`.

    Raises ConfigError for an unreadable file or invalid YAML; other mistakes are in the document's `problems`.
    """
    return parse(_text(path), path, environ)


def parse(text: str, path: Path, environ: Mapping[str, str]) -> Document:
    """Parse a text as `read` does. `path`: what messages call it."""
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_syntax_problem(path, text, error)) from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{path}:{line}: not YAML: the character U+{error.character:04X} may not stand in it"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    document = Document(path)
    if root is None or (isinstance(root, yaml.ScalarNode) and root.tag.endswith(":null")):
        raise ConfigError(f"{path}: the file is empty; it needs at least `sources:`, `sinks:` and `routes:`")
    document.value = _Builder(document, environ).build(root, ())
    return document


def _text(path: Path) -> str:
    try:
        if path.is_dir():
            raise ConfigError(f"{path}: is a directory; name the YAML file in it")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; name one with --config or RUNHOOK_CONFIG") from None
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES >> 10} KiB; this is hardly a config file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text") from None


_HINTS = {  # what the parser says → what would be right
    "'\\t' that cannot start": "indent with spaces, not tabs",
    "found character": "a text that begins with it must be in quotes",
    "mapping values are not allowed": "put a text that holds a colon in quotes",
    "undefined alias": "a text that begins with * must be in quotes",
    "<block end>": "indent it like its neighbours",
}


def _syntax_problem(path: Path, text: str, error: yaml.MarkedYAMLError) -> str:
    """Return a message with the line, what is wrong there, and what would be right."""
    mark = error.problem_mark or error.context_mark
    what, context = error.problem or "can't be parsed", error.context or ""
    if mark is None:
        return f"{path}: not YAML: {what}"
    opened = error.context_mark or mark
    hint = next((hint for phrase, hint in _HINTS.items() if phrase in what), "")
    if "expected a single document" in context:
        what = "a second document begins here (---); the file must hold one"
    elif "quoted scalar" in context:
        mark, what, hint = opened, "a quote is not closed", "add one at the end of the text"
    elif what.startswith(("expected ',' or '}'", "expected ',' or ']'")):
        mark, what, hint = _in_brackets(text, opened, mark, what)
    return f"{path}:{mark.line + 1}: not YAML: {what} (column {mark.column + 1})" + (f"; {hint}" if hint else "")


def _in_brackets(text: str, opened: yaml.Mark, mark: yaml.Mark, what: str) -> tuple[yaml.Mark, str, str]:
    """Find why the parser stopped at `mark`, inside what was `opened`. The mistake may be lines above."""
    before = text[: mark.index].rpartition("\n")[2]
    if before.endswith("$"):
        return mark, what, "put a text that holds ${…} in quotes"
    if text.startswith(":", mark.index) and ":" in before:
        return mark, what, "put a text that holds a colon in quotes"
    if mark.line > opened.line:
        bracket, closing = ("{", "}") if "'}'" in what else ("[", "]")
        return opened, f"{bracket} is not closed", f"add {closing}, or a comma before line {mark.line + 1}"
    if "<scalar>" in what:
        return mark, "a comma is missing, or a quote ends a text too early", "write a quote in a text twice"
    return mark, what, ""


class _Builder:
    """Turns nodes into values."""

    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self.document = document
        self.environ = environ
        self.nodes = 0
        self.merging: list[yaml.Node] = []

    def build(self, node: yaml.Node, key: Key, line: int | None = None) -> Any:
        """Return the value of `node`. `line`: of its key, where that is known better than by the node itself."""
        self.document.lines[key] = line or node.start_mark.line + 1
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise ConfigError(f"{self.document.path}: unfolds to more than {MAX_NODES} values; use fewer aliases")
        if len(key) > MAX_DEPTH:
            raise ConfigError(f"{self.document.path}:{self.document.lines[key]}: nested too deeply, or inside itself")
        if node.tag not in _TAGS:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            self.document.lose(key, f"the tag {tag} is not allowed; write plain YAML")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*key, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, key)

    def _mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        values: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for name_node, value_node in node.value:
            line = name_node.start_mark.line + 1
            if not isinstance(name_node, yaml.ScalarNode):
                self.document.problems.append((line, key, "a key must be text; is a quote or a colon missing?"))
            elif name_node.tag.endswith(":merge"):
                self._merge(value_node, key, merged)
            elif name_node.value in values:
                first = self.document.lines[*key, name_node.value]
                text = f"written twice (first in line {first}); delete one, or rename it"
                self.document.problems.append((line, (*key, name_node.value), text))
            else:
                values[name_node.value] = self.build(value_node, (*key, name_node.value), line)
        return {**merged, **values}

    def _merge(self, node: yaml.Node, key: Key, merged: dict[str, Any]) -> None:
        """`<<: *base`, or `<<: [*first, *second]` where the first one wins."""
        for base in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            line = base.start_mark.line + 1
            if not isinstance(base, yaml.MappingNode):
                self.document.problems.append((line, key, "<< must name a mapping, such as <<: *base"))
            elif len(self.merging) == MAX_MERGES or any(base is each for each in self.merging):
                raise ConfigError(f"{self.document.path}:{line}: << merges too many mappings, or one into itself")
            else:
                self.merging.append(base)
                for name, value in self.build(base, key, self.document.lines[key]).items():
                    merged.setdefault(name, value)
                self.merging.pop()

    def _scalar(self, node: yaml.Node, key: Key) -> Any:
        text = str(node.value)
        self.document.raw[key] = text
        match _TAGS[node.tag]:
            case "null":
                return None
            case "bool" if text.lower() in ("true", "false"):
                return text.lower() == "true"
            case "int" | "float" as kind:
                try:
                    return int(text, 0) if kind == "int" else float(text)
                except ValueError:
                    self.document.lose(key, "is not a valid number; put it in quotes if it is text")
                    return None
        used: dict[str, str] = {}
        try:
            return expand(text, self.environ, used)
        except ValueError as error:
            self.document.lose(key, str(error))
            return None
        finally:
            if used:
                self.document.substituted[key] = used


def expand(text: str, environ: Mapping[str, str], used: dict[str, str] | None = None) -> str:
    """Return `text` with its variables replaced. `$${` is written for the text `${`. A default may have variables.

    `used` gets the value of each variable. Raises ValueError that names the variable which is not set, or says what is
    malformed; never a value.
    """

    def value_of(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        if match[0] == "$${":
            return "${"
        if name is None:
            raise ValueError("malformed variable; write ${NAME} or ${NAME:-default}, and $${ for the text ${")
        value = environ.get(name, "")
        if not value and default is not None:
            value = expand(default, environ, used)
        elif name not in environ:
            raise ValueError(f"the variable {name} is not set; set it, or give it a default: ${{{name}:-…}}")
        if used is not None:
            used[name] = value
        return value

    return _VARIABLE.sub(value_of, text)
