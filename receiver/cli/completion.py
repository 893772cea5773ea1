"""`runhook completion`: what makes a shell complete commands, options, sinks, states and runs."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from receiver.cli.commands import COMMANDS
from receiver.cli.completer import ANY_OF, CALL, FILES, FOLDERS, VALUE, table_file

# What the value of an option may be, by the option. The rest is a value that nobody can guess.
_KINDS: Final[dict[str, Any]] = {
    "--run": "runs",
    "--run-id": "runs",
    "--sink": "sinks",
    "--backfill": "sinks",
    "--into": "sinks",
    "--only": "sinks",
    "--source": "sources",
    "--profile": "profiles",
    "--config": FILES,
    "--data": FOLDERS,
    "--against": FILES,
    "--download": FOLDERS,
}
# What the arguments of a command may be, by its path.
_ARGUMENTS: Final[dict[str, Any]] = {
    "attempts": "runs",
    "replay": "runs",
    "resubmit": "runs",
    "cancel": "runs",
    "run": "runs",
    "artifacts": "runs",
    "open": "runs",
    "sink pause": "sinks",
    "sink resume": "sinks",
    "sink test": "sinks",
    "sink move": "sinks",
    "sink columns": "sinks",
    "check": FILES,
}


class Shell(StrEnum):
    """A shell whose completion is known."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


_BASH: Final = f"""\
# Completion of runhook for bash, where bash-completion is:
#   runhook completion bash > ~/.local/share/bash-completion/completions/runhook
_runhook() {{
    local line word names current="${{COMP_WORDS[COMP_CWORD]}}"
    [[ $current == = ]] && current=
    COMPREPLY=()
    while IFS= read -r line; do
        word="${{line%%$'\\t'*}}"
        case "$word" in
            {FILES}) compopt -o filenames 2>/dev/null; mapfile -t names < <(compgen -f -- "$current") ;;
            {FOLDERS}) compopt -o filenames 2>/dev/null; mapfile -t names < <(compgen -d -- "$current") ;;
            *) names=("$word") ;;
        esac
        COMPREPLY+=("${{names[@]}}")
    done < <("${{COMP_WORDS[0]}}" {CALL} "${{COMP_WORDS[@]:1:COMP_CWORD}}" 2>/dev/null)
    compopt -o nosort 2>/dev/null
    return 0
}}
complete -F _runhook runhook
"""

_ZSH: Final = f"""\
#compdef runhook
# Completion of runhook for zsh:  runhook completion zsh > "${{fpath[1]}}/_runhook"
_runhook() {{
    local line
    local -a found shown
    for line in "${{(@f)$("${{words[1]}}" {CALL} "${{(@)words[2,CURRENT]}}" 2>/dev/null)}}"; do
        case "$line" in
            "") ;;
            {FILES}) _files ;;
            {FOLDERS}) _files -/ ;;
            *$'\\t'*) found+=("${{line%%$'\\t'*}}"); shown+=("${{line//$'\\t'/  }}") ;;
            *) found+=("$line"); shown+=("$line") ;;
        esac
    done
    (( $#found )) && compadd -V runhook -l -d shown -a found
    return 0
}}
if [[ ${{funcstack[1]}} == _runhook ]]; then _runhook "$@"; else compdef _runhook runhook; fi
"""

_FISH: Final = f"""\
# Completion of runhook for fish:  runhook completion fish > ~/.config/fish/completions/runhook.fish
function __runhook_complete
    set -l words (commandline -opc) (commandline -ct)
    for line in ($words[1] {CALL} $words[2..-1] 2>/dev/null)
        switch $line
            case '{FILES}'
                __fish_complete_path (commandline -ct)
            case '{FOLDERS}'
                __fish_complete_directories (commandline -ct) ''
            case '*'
                echo $line
        end
    end
end
complete -c runhook -f -k -a '(__runhook_complete)'
"""

_SCRIPTS: Final = {Shell.BASH: _BASH, Shell.ZSH: _ZSH, Shell.FISH: _FISH}


def completion(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish. The first lines say where to.")],
) -> None:
    """Print what makes a shell complete commands, options, sinks, states and the newest runs."""
    write_table()  # so that the first word is completed as quickly as the others
    sys.stdout.write(_SCRIPTS[shell])


def write_table() -> dict[str, Any]:
    """Return a new table, and keep it in the cache where that can be written."""
    table, path = build_table(), table_file()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for old in path.parent.glob("commands-*.json"):
            old.unlink(missing_ok=True)
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(table))
        draft.replace(path)
    return table


def build_table() -> dict[str, Any]:
    """Return the table that the completer reads, from the commands themselves."""
    from receiver.cli import build_app

    commands = {}
    for name, listed in COMMANDS.items():
        group: Any = typer.main.get_command(build_app(name))
        commands[name] = {**_described(group.commands[name], (name,)), "help": listed.help}
    root: Any = typer.main.get_command(build_app())
    return {"help": "", "arguments": [], "options": _options(root, ()), "commands": commands}


def _described(command: Any, path: tuple[str, ...]) -> dict[str, Any]:
    count = sum(parameter.param_type_name == "argument" for parameter in command.params)
    return {
        "help": (command.help or "").split("\n\n")[0].replace("\n", " "),
        "arguments": [_argument(" ".join(path))] * count,
        "options": _options(command, path),
        "commands": {
            name: _described(below, (*path, name)) for name, below in getattr(command, "commands", {}).items()
        },
    }


def _options(command: Any, path: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {"--help": None, "-h": None}
    for parameter in command.params:
        if parameter.param_type_name == "option" and not parameter.hidden:
            names = [*parameter.opts, *parameter.secondary_opts]
            kind = None if parameter.is_flag else _kind(names[0], path)
            found |= dict.fromkeys(names, kind)
    return found


def _argument(path: str) -> Any:
    if path == "completion":
        return [shell.value for shell in Shell]
    if path == "trigger":
        from receiver.cli.trigger import sample_names

        return [ANY_OF, sample_names(), FILES]
    return _ARGUMENTS.get(path, VALUE)


def _kind(option: str, path: tuple[str, ...]) -> Any:
    from receiver.cli.options import Form
    from receiver.domain.attention import ACTIVE
    from receiver.domain.delivery import DeliveryState
    from receiver.domain.run import FINAL
    from receiver.domain.submission import SubmissionState

    match option, path[:1]:
        case "--output", ("schema",):
            return FILES
        case "--output", _:
            return [form.value for form in Form]
        case "--status", _:
            return [*sorted(FINAL), *ACTIVE]
        case "--state", ("submissions",):
            return [state.value for state in SubmissionState]
        case "--state", ("operations",):
            return ["running", "done", "cancelled"]
        case "--state", _:
            return [state.value for state in DeliveryState]
        case _:
            return _KINDS.get(option, VALUE)
