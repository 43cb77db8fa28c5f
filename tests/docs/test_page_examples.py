"""Every Python example on a page runs, and prints what the comment beside it says.

Those on the pages of ``docs/migrate`` are run by ``tests/compat``, as some replace imports.
"""

import contextlib
import fnmatch
import io
import logging
import re
from pathlib import Path

import pages
import pytest
from pages import Block

EXAMPLES = [
    block
    for page in pages.pages("docs")
    if page.parent.name != "migrate"
    for block in pages.blocks(page)
    if block.language == "python"
]
RUN = [block for block in EXAMPLES if not block.why_not_run]

# print(found)  # PseudoLabels(... 0 noise)
PROMISE = re.compile(r"^ *print\(.*\)  # (?P<printed>\w+\(.*\))$", re.MULTILINE)


def run(block: Block) -> str:
    """What an example prints."""
    code = "\n" * (block.line - 1) + block.text  # errors name the line of the page
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, block.page, "exec"), {})
    return printed.getvalue()


def broken_promises(block: Block) -> list[str]:
    """Comments beside a print that no printed line is like; ``...`` stands for anything."""
    lines = run(block).splitlines()
    return [
        promised
        for promised in PROMISE.findall(block.text)
        if not fnmatch.filter(lines, re.sub(r"([*?[])", r"[\1]", promised).replace("...", "*"))
    ]


@pytest.mark.parametrize("block", RUN, ids=str)
def test_an_example_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = logging.getLogger("mabm")
    monkeypatch.setattr(log, "level", log.level)  # which an example may set
    try:
        assert broken_promises(block) == []
    finally:
        log.setLevel(logging.NOTSET)


def test_examples_are_found() -> None:
    assert {"README.md", "docs/guide/own_loop.md"} <= {block.page for block in RUN}
    assert len(RUN) > len(EXAMPLES) // 2


def test_what_is_not_printed_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nprint('One(1)')  # One(...)\nprint(2)  # Two(2)\n```\n\n"
        "<!-- not run: a reason -->\n```python\n1 / 0\n```\n\n```\n"
        "print(3)\n```\n"
    )
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    first, second, third = pages.blocks(page)
    assert (str(first), first.language, third.language) == ("page.md:2", "python", "")
    assert (first.why_not_run, second.why_not_run, third.why_not_run) == (None, "a reason", None)
    assert broken_promises(first) == ["Two(2)"]
    with pytest.raises(ZeroDivisionError):
        run(second)
