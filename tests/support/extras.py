"""Tests that need packages of the extras, and what they are skipped with where one is missing."""

import importlib.util
from collections.abc import Iterator

import pytest

EXTRA_OF = {
    "matplotlib": "demo",
    "pandas": "test",
    "tqdm": "demo",
    "jinja2": "train",
    "PIL": "train",
    "pydantic": "train",
    "safetensors": "train",
    "tomli": "train",
    "tomli_w": "train",
    "tensorboard": "tensorboard",
    "timm": "timm",
    "infomap": "infomap",
    "faiss": "faiss",
    "cuvs": "cuvs",
    "certex": "certex",
    "shtab": "completion",
}
"""Modules that come with an extra of the library."""

needs_training = pytest.mark.needs("pydantic", "tomli_w", "tqdm")
"""For tests that train in another process or by a command, where an ImportError is out of sight."""


def reason(module: str) -> str:
    """What a test says that is skipped for want of a module."""
    return f'needs {module}: pip install "mabm[{EXTRA_OF[module]}]"'


def first_missing(modules: tuple[str, ...]) -> str | None:
    """The first of some modules that is not installed."""
    return next((name for name in modules if importlib.util.find_spec(name) is None), None)


def missed_by(error: BaseException | None) -> str | None:
    """The module of an extra for want of which an error came up; ``None`` of any other error."""
    for cause in _causes(error):
        if isinstance(cause, ImportError):
            module = (cause.name or "").partition(".")[0]
            if module in EXTRA_OF and first_missing((module,)):
                return module
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
