"""A folder of Python code, read but not run: its files, their imports and definitions."""

from __future__ import annotations

import ast
import io
import os
import re
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final, TypeAlias

from mabm.compat._imports.families import NAMES

Definition: TypeAlias = ast.FunctionDef | ast.ClassDef

_LINES: Final = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")  # lines as Python splits them
_OLD_LINE: Final = re.compile(rb"\bfrom\s+[\w.]*\b(%s)\s+import\b" % "|".join(NAMES).encode())
_FOREIGN: Final = ("__pycache__", "node_modules", "site-packages")


@dataclass(frozen=True)
class Source:
    """One Python file.

    Attributes:
        path: Path of the file.
        name: Path within the folder, with slashes.
        text: The content, with its original line ends.
        encoding: Encoding of the file.
        tree: The syntax tree, or ``None`` if the file could not be parsed.
        problem: Why it could not be parsed, or empty.
    """

    path: Path
    name: str
    text: str = ""
    encoding: str = "utf-8"
    tree: ast.Module | None = None
    problem: str = ""

    @cached_property
    def lines(self) -> list[str]:
        """The lines of the text, with their line ends."""
        return _LINES.findall(self.text)

    @cached_property
    def tokens(self) -> list[tokenize.TokenInfo]:
        """The tokens of the text."""
        return list(tokenize.generate_tokens(io.StringIO(self.text, newline="").readline))

    @cached_property
    def imports(self) -> list[ast.Import | ast.ImportFrom]:
        """All import statements, also nested ones, in line order."""
        if self.tree is None:
            return []
        found = [n for n in ast.walk(self.tree) if isinstance(n, ast.Import | ast.ImportFrom)]
        return sorted(found, key=lambda node: (node.lineno, node.col_offset))

    @cached_property
    def definitions(self) -> dict[str, Definition]:
        """Top-level functions and classes by name."""
        body = [] if self.tree is None else self.tree.body
        return {n.name: n for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef)}

    @property
    def stem(self) -> str:
        """Name of the module, without its packages."""
        return self.path.stem

    @cached_property
    def is_script(self) -> bool:
        """Whether the file has an ``if __name__ == ...`` block."""
        return bool(re.search(r"^if\s+__name__\s*==", self.text, re.MULTILINE))


@dataclass
class CodeBase:
    """The Python files of a folder."""

    root: Path
    sources: list[Source] = field(default_factory=list)

    @cached_property
    def _by_path(self) -> dict[Path, Source]:
        return {source.path: source for source in self.sources}

    def absolute(self, source: Source, node: ast.ImportFrom) -> str:
        """Absolute path of the module in a ``from ... import``, starting at the folder."""
        module = node.module or ""
        if not node.level:
            return module
        parts = source.path.relative_to(self.root).parts[:-1]
        kept = len(parts) - (node.level - 1)
        return ".".join([*parts[: max(kept, 0)], *([module] if module else [])])

    def module(self, source: Source, path: str, level: int = 0) -> Source | None:
        """The file that ``source`` would import as module ``path``, if it is in the folder."""
        folder = source.path.parent
        starts = [self.root] if level else [folder, *folder.parents]
        for start in starts:
            if start != self.root and self.root not in start.parents:
                break
            place = start.joinpath(*path.split(".")) if path else start
            found = self._by_path.get(place.with_name(f"{place.name}.py"))
            found = found or self._by_path.get(place / "__init__.py")
            if found is not None:
                return found
        return None

    def packages(self, source: Source) -> Iterator[Source]:
        """Yields the ``__init__`` files that run when a module is imported."""
        for folder in source.path.parents:
            if folder == self.root:
                return
            found = self._by_path.get(folder / "__init__.py")
            if found is not None and found is not source:
                yield found


def read_code_base(folder: Path) -> CodeBase:
    """Reads all Python files below a folder, or a single file.

    Hidden folders, virtual environments and caches are skipped. Files that cannot be read or are
    not Python 3, and notebooks with an old import line, have a ``problem`` and no tree.

    Raises:
        OSError: The folder does not exist.
    """
    start = Path(os.path.abspath(folder))
    if start.is_file():
        return CodeBase(start.parent, [_read(start, start.parent)])
    if not start.is_dir():
        raise FileNotFoundError(f"FOLDER must be a folder or a Python file, got {folder}")
    sources = []
    for place, folders, files in os.walk(start):
        folders[:] = sorted(
            name
            for name in folders
            if name[0] != "."
            and name not in _FOREIGN
            and not Path(place, name, "pyvenv.cfg").exists()
        )
        paths = [Path(place, name) for name in sorted(files)]
        sources += [_read(p, start) for p in paths if p.suffix == ".py" or _is_old_notebook(p)]
    return CodeBase(start, sources)


def _read(path: Path, root: Path) -> Source:
    name = path.relative_to(root).as_posix()
    if path.suffix == ".ipynb":
        return Source(path, name, problem="a notebook: change its import lines by hand")
    try:
        content = path.read_bytes()
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        text = content.decode(encoding)
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        return Source(path, name, problem=_in_one_line(error))
    try:
        with warnings.catch_warnings():  # warnings about the code that is read
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return Source(path, name, text, encoding, problem=f"not Python 3: {_in_one_line(error)}")
    return Source(path, name, text, encoding, tree)


def _is_old_notebook(path: Path) -> bool:
    """Whether a file is a notebook with an import that this library can replace."""
    try:
        return path.suffix == ".ipynb" and bool(_OLD_LINE.search(path.read_bytes()))
    except OSError:
        return False


def _in_one_line(error: Exception) -> str:
    words = error.strerror if isinstance(error, OSError) else str(error)
    return " ".join((words or type(error).__name__).split())


def parameters(definition: Definition) -> dict[str, list[str]]:
    """Parameter names of a function, or of ``__init__`` and ``forward`` of a class."""
    if isinstance(definition, ast.FunctionDef):
        return {"": _names(definition.args)}
    return {
        node.name: _names(node.args)[1:]
        for node in definition.body
        if isinstance(node, ast.FunctionDef) and node.name in {"__init__", "forward"}
    }


def _names(arguments: ast.arguments) -> list[str]:
    return [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
