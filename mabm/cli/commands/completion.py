"""``mabm completion``: a script for shell completion of commands and their arguments."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, Final

from mabm.cli.command import Command, write
from mabm.cli.data_sets import configurations, countable, data_sets

_SHELLS: Final = ("bash", "zsh", "tcsh")
_FILES: Final = frozenset({"FILE", "FEATURES", "NEW", "CONFIG", "WEIGHTS", "LIST.csv"})
_FOLDERS: Final = frozenset({"DIR", "ROOT", "[NAME:]ROOT", "RUN"})


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "shell", choices=_SHELLS, metavar="SHELL", help="which shell: bash, zsh or tcsh"
    )


def _execute(chosen: argparse.Namespace) -> int:
    write(_script(chosen.parser, chosen.shell))
    return 0


def _script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The completion script for a shell.

    Args:
        parser: The parser of all commands; its arguments are modified.
        shell: One of ``_SHELLS``.

    Raises:
        ImportError: shtab is missing.
    """
    try:
        import shtab
    except ImportError as error:
        raise ImportError('completion needs shtab: pip install "mabm[completion]"') from error
    known = _known_names()
    for command, action in _arguments(parser):
        is_file, is_folder = action.metavar in _FILES, action.metavar in _FOLDERS
        names = known.get((command, action.dest))
        if names is not None:
            completed: Any = _names(f"{command}_{action.dest}", names, with_files=is_file)
        elif is_file or is_folder:
            completed = shtab.FILE if is_file else shtab.DIRECTORY
        else:
            completed = None
        if completed is not None:
            action.complete = completed  # type: ignore[attr-defined]  # where shtab looks for it
        if action.option_strings:
            action.metavar = action.dest  # zsh gives the colon of NAME[:ROOT] a meaning of its own
    script: str = shtab.complete(parser, shell)
    return script


def _known_names() -> dict[tuple[str, str], tuple[str, ...]]:
    """The names that each (command, argument) accepts; some also accept files."""
    from mabm.models.weights import SHIPPED

    return {
        ("train", "config"): configurations(),
        ("evaluate", "weights"): tuple(SHIPPED),
        ("evaluate", "data"): data_sets(),
        ("extract", "weights"): tuple(SHIPPED),
        ("extract", "data"): data_sets(),
        ("census", "name"): countable(),
        ("cluster", "modality"): ("none",),
    }


def _arguments(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    """Every argument of every command, as (command name, argument)."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, of_command in action.choices.items():
                of_command.description = None  # zsh would show its first line, not the command's
                for each in of_command._actions:
                    yield name, each


def _names(place: str, names: tuple[str, ...], *, with_files: bool) -> dict[str, Any]:
    """Completion, per shell, of an argument that accepts names, or names and files."""
    words = " ".join(names)
    function = f"_mabm_{'names_or_files' if with_files else 'names'}_of_{place}"
    bash = [f'compgen -W "{words}" -- "$1"', *(['compgen -f -- "$1"'] if with_files else [])]
    zsh = [f"'names:name:({words})'", *(["'files:file:_files'"] if with_files else [])]
    return {
        "bash": function,
        "zsh": function,
        "tcsh": f"({words})",
        "preamble": {
            "bash": f"{function}() {{\n  {'; '.join(bash)}\n}}",
            "zsh": f"{function}() {{\n  _alternative {' '.join(zsh)}\n}}",
        },
    }


COMMAND = Command(
    name="completion",
    help="print a script for shell completion",
    description=(
        "Print a script that lets a shell complete commands, options, files, and names of data "
        "sets and presets with the tab key. Print it again after updating mabm."
    ),
    examples="""
mabm completion bash > ~/.mabm-completion && echo '. ~/.mabm-completion' >> ~/.bashrc
    run once, then open a new shell
mabm completion zsh > ~/.zfunc/_mabm
    write to a folder in $fpath, before compinit
mabm completion tcsh > ~/.mabm-completion && echo 'source ~/.mabm-completion' >> ~/.tcshrc
""",
    add_arguments=_add_arguments,
    execute=_execute,
)
