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
        ("~ada/sets/RegDB", "…/RegDB"),
        ("$HOME/sets/RegDB", "…/RegDB"),
        ("${HOME}/RegDB", "…/RegDB"),
        (r"%USERPROFILE%\RegDB", "…/RegDB"),
        ("../../home/ada/RegDB", "…/RegDB"),
        ("sets/../../ada/RegDB", "…/RegDB"),
        ("file:///home/ada/RegDB", "…/RegDB"),
        ("/home/o'brien/RegDB", "…/RegDB"),
        ("/", "…"),
        ("sets/RegDB", "sets/RegDB"),
        ("modality-aware", "modality-aware"),
        ("a..b/c", "a..b/c"),
        ("cuda:0", "cuda:0"),
        ("10 %", "10 %"),
        ("", ""),
    ],
)
def test_the_last_part_is_shown(value: str, shown: str) -> None:
    assert shorten(value) == shown


def test_more_parts_tell_paths_apart() -> None:
    assert shorten("/mnt/v1/RegDB", 2) == "…/v1/RegDB"
    assert shorten("/mnt/v1/RegDB", 9) == "…/mnt/v1/RegDB"
    assert shorten("/mnt", 2) == "…"
    assert shorten("sets/v1/RegDB", 1) == "sets/v1/RegDB"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ('root = "/home/o\'brien/data"', 'root = "…/data"'),
        ('root = "/home/ada/my \\"new\\" set/x"', 'root = "…/x"'),
        ('root = "/home/ada/my \\"new\\" set"', 'root = "…/my \\"new\\" set"'),
        ('root = "\\u002Fhome\\u002Fada\\u002Fx"', 'root = "…/x"'),
        ('root = "~/sets/x"', 'root = "…/x"'),
        ('root = "$HOME/sets/x"', 'root = "…/x"'),
        ('root = "../../home/ada/x"', 'root = "…/x"'),
        ('root = "file:///home/ada/x"', 'root = "…/x"'),
        ("root = '''/home/ada/x'''", "root = '''…/x'''"),
        ('root = """/home/ada/x"""', 'root = """…/x"""'),
        ("# isn't \nroot = '/home/ada/x' # it's\n", "# isn't \nroot = '…/x' # it's\n"),
        ('# root = "/home/ada/x"', '# root = "…/x"'),
        ('name = "a \\"b\\" \\u00e9"', 'name = "a \\"b\\" \\u00e9"'),
    ],
)
def test_no_quote_or_escape_hides_a_path(line: str, shown: str) -> None:
    assert shorten_folders(line) == shown


def test_values_of_toml_are_shortened() -> None:
    text = (
        '[data]\nroot = "C:\\\\Users\\\\ada\\\\RegDB"\ncache = \'/home/ada/c\'\nname = "regdb"\n'
        'fill = [1.0, 2.0]\n# root: none\nlist = ["/home/ada/x", "y"]\n'
    )
    assert shorten_folders(text) == (
        '[data]\nroot = "…/RegDB"\ncache = \'…/c\'\nname = "regdb"\nfill = [1.0, 2.0]\n'
        '# root: none\nlist = ["…/x", "y"]\n'
    )
