"""The command line, ``mabm`` and ``python -m mabm``: its parser, commands and files."""

from mabm.cli.main import main

__all__ = ["main"]
