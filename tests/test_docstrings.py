"""Docstrings explain every parameter where it stands; their examples and the README's run."""

import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

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


PACKAGES = ("mabm", "mabm.data", "mabm.evaluation", "mabm.models", "mabm.train")

WITHOUT_EXAMPLE: dict[str, str] = {}
"""What needs none, and why."""


def public_callables() -> Iterator[tuple[str, Any, Any]]:
    """Functions, classes, and the methods of these that take parameters; methods with their class."""
    seen = set()
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            value = getattr(module, name)
            if not callable(value) or id(value) in seen:
                continue
            seen.add(id(value))
            yield f"{value.__module__}.{name}", value, None
            if not inspect.isclass(value):
                continue
            for method_name in dir(value):
                kind = next(kind for kind in value.__mro__ if method_name in vars(kind))
                method = getattr(vars(kind)[method_name], "__func__", vars(kind)[method_name])
                is_ours = kind.__module__.startswith("mabm.") and inspect.isfunction(method)
                if is_ours and not method_name.startswith("_") and parameters(method):
                    yield f"{value.__module__}.{name}.{method_name}", method, value


def parameters(function: Any) -> list[str]:
    kinds = inspect.Parameter
    return [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in ("self", "cls")
        and parameter.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
    ]


def section(docstring: str, *titles: str) -> str:
    """The text below one of these titles, up to the next line that is indented as little."""
    found = re.search(rf"^(?:{'|'.join(titles)}):\n((?:(?: .*)?\n)*)", f"{docstring}\n", re.M)
    return inspect.cleandoc(found[1]) if found else ""


def entries(docstring: str) -> dict[str, str]:
    """What is said of each parameter or attribute."""
    text = section(docstring, "Args", "Attributes")
    parts = re.split(r"^(\w+(?:, \w+)*): ", text, flags=re.M)[1:]
    return {
        name: said for names, said in zip(parts[::2], parts[1::2]) for name in names.split(", ")
    }


def unexplained(value: Any, owner: Any) -> list[str]:
    """Parameters of which nothing is said, or only where else to look."""
    if inspect.isclass(value) and is_dataclass(value):
        names = [field.name for field in fields(value)]
    elif inspect.isclass(value):
        names = list(getattr(value, "_fields", None) or parameters(value.__init__))
    else:
        names = parameters(value)
    said = entries(inspect.getdoc(value) or "")
    if owner is not None and value.__name__ == "forward":
        said = {**entries(inspect.getdoc(owner) or ""), **said}
    elsewhere = r"(As|Likewise)( (of|in|for))?( :\w+:`[^`]*`)?(,? and :\w+:`[^`]*`)*[.;,]?"
    return [name for name in names if len(re.sub(elsewhere, "", said.get(name, "")).split()) < 2]


def has_example(value: Any, owner: Any) -> bool:
    """Whether there is an example; of a method it may be in its class, where it is called."""
    if ">>>" in section(inspect.getdoc(value) or "", "Example"):
        return True
    example = section(inspect.getdoc(owner) or "", "Example") if owner is not None else ""
    is_called = value.__name__ == "forward" or f".{value.__name__}(" in example
    return ">>>" in example and is_called


CALLABLES = list(public_callables())
NAMES = [name for name, *_ in CALLABLES]


@pytest.mark.parametrize(("name", "value", "owner"), CALLABLES, ids=NAMES)
def test_every_parameter_is_explained_where_it_stands(name: str, value: Any, owner: Any) -> None:
    assert unexplained(value, owner) == []


@pytest.mark.parametrize(("name", "value", "owner"), CALLABLES, ids=NAMES)
def test_there_is_an_example(name: str, value: Any, owner: Any) -> None:
    assert has_example(value, owner) != (name in WITHOUT_EXAMPLE)


def test_readme_examples() -> None:
    readme = Path(__file__).parents[1] / "README.md"
    blocks = readme.read_text().split("```python\n")[1:]
    assert blocks
    for block in blocks:
        exec(compile(block.split("```")[0], str(readme), "exec"), {})
