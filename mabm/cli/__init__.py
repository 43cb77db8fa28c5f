"""The command line: ``mabm`` and ``python -m mabm``, one module for each command."""

from mabm.cli.main import main

__all__ = ["main"]
