"""Folders of a machine: a page shows the last part of a path and no more."""

import pytest

from mabm.report.folders import shorten, shorten_folders


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/ada/sets/RegDB", "…/RegDB"),
        ("/home/ada/sets/RegDB/", "…/RegDB"),
        ("~/RegDB", "…/RegDB"),
        (r"C:\Users\ada\RegDB", "…/RegDB"),
        (r"\\server\ada\RegDB", "…/RegDB"),
        ("/ada", "…"),
        ("~ada", "…"),
        ("/", "…"),
        ("sets/RegDB", "sets/RegDB"),
        ("modality-aware", "modality-aware"),
        ("", ""),
    ],
)
def test_the_last_part_is_shown(value: str, shown: str) -> None:
    assert shorten(value) == shown


def test_values_of_toml_are_shortened() -> None:
    text = (
        '[data]\nroot = "C:\\\\Users\\\\ada\\\\RegDB"\ncache = \'/home/ada/c\'\nname = "regdb"\n'
        'fill = [1.0, 2.0]\n# root: none\nlist = ["/home/ada/x", "y"]\n'
    )
    assert shorten_folders(text) == (
        '[data]\nroot = "…/RegDB"\ncache = \'…/c\'\nname = "regdb"\nfill = [1.0, 2.0]\n'
        '# root: none\nlist = ["…/x", "y"]\n'
    )
