"""The examples in the docstrings and in the README run and print what they say."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import mabm
from mabm import evaluation

CORE = [m.name for m in pkgutil.iter_modules(mabm.__path__) if not m.ispkg and m.name[0] != "_"]
CORE += [f"evaluation.{m.name}" for m in pkgutil.iter_modules(evaluation.__path__)]


@pytest.mark.parametrize("name", CORE)
def test_docstring_examples(name: str) -> None:
    module = importlib.import_module(f"mabm.{name}")
    assert doctest.testmod(module).failed == 0


def test_readme_examples() -> None:
    readme = Path(__file__).parents[1] / "README.md"
    blocks = readme.read_text().split("```python\n")[1:]
    assert blocks
    for block in blocks:
        exec(compile(block.split("```")[0], str(readme), "exec"), {})
