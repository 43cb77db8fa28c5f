"""The commands of ``mabm``, one module each, named after the command."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from mabm.cli.command import Command

_NAMES: Final = (
    "demo",
    "cluster",
    "estimate",
    "assign",
    "train",
    "report",
    "evaluate",
    "extract",
    "census",
    "info",
    "completion",
)

COMMANDS: Final[tuple[Command, ...]] = tuple(
    import_module(f"{__name__}.{name}").COMMAND for name in _NAMES
)
"""Every command, in the order of the help: the ``COMMAND`` of each module."""
