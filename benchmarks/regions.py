"""Regions of a page that commands write: figures between two comments, in Markdown.

A region begins with a line ``<!-- figures: NAME -->`` and ends with ``<!-- end of figures -->``.
"""

import re
from collections.abc import Mapping, Sequence

REGION = re.compile(r"<!-- figures: (?P<name>[\w-]+) -->\n.*?<!-- end of figures -->", re.DOTALL)


def names(text: str) -> list[str]:
    """Names of a page's regions, in order."""
    return [region["name"] for region in REGION.finditer(text)]


def fill(text: str, lines: Mapping[str, Sequence[str]]) -> str:
    """The page with these lines in the regions that they name; all other text stays.

    Raises:
        KeyError: The page has no such region.
    """
    if missing := set(lines) - set(names(text)):
        raise KeyError(f"the page has no region named {', '.join(sorted(missing))}")

    def write(region: re.Match[str]) -> str:
        name = region["name"]
        if name not in lines:
            return region[0]
        content = "\n".join(lines[name])
        return f"<!-- figures: {name} -->\n\n{content}\n\n<!-- end of figures -->"

    return REGION.sub(write, text)
