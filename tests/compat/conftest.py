"""Fixtures of the drop-ins' tests."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture
def _old_paths_are_gone_afterwards() -> Iterator[None]:
    """Undoes what ``mabm.compat.install`` changed in this process."""
    finders, modules = list(sys.meta_path), set(sys.modules)
    yield
    sys.meta_path[:] = finders
    for name in set(sys.modules) - modules:
        if not name.startswith("mabm"):
            del sys.modules[name]
