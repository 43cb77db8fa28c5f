"""The examples in the docstrings and in the README run and print what they say."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import mabm

MODULES = [
    module.name
    for module in pkgutil.walk_packages(mabm.__path__, "mabm.")
    if not any(part.startswith("_") for part in module.name.split("."))
]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_readme_examples() -> None:
    readme = Path(__file__).parents[1] / "README.md"
    blocks = readme.read_text().split("```python\n")[1:]
    assert blocks
    for block in blocks:
        exec(compile(block.split("```")[0], str(readme), "exec"), {})
