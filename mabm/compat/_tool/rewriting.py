"""Finds the import lines of a code base that this library can replace, and changes them."""

from __future__ import annotations

import ast
import importlib
import inspect
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mabm._core.files import check_writable, moved_into
from mabm.compat._imports.families import NAMES, OPTIONS, names_of
from mabm.compat._tool.code_base import CodeBase, Definition, Source, parameters, read_code_base

__all__ = ["Change", "Plan", "Remark", "plan_changes"]

_HERE: Final = "mabm.compat"
_COMMON: Final = ("cm", "hm", "compute_dist")  # their names are common in unrelated code
_INSTALL: Final = "or keep the line and call mabm.compat.install(...) before it"


@dataclass(frozen=True)
class Change:
    """One changed import: its file and line, the old statement, and the new ones, one per line."""

    file: str
    line: int
    old: str
    new: str

    @property
    def place(self) -> str:
        """``file:line``."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Remark:
    """Something that is not changed: its file and lines (0: the whole file), what, and why."""

    file: str
    line: int
    what: str
    reason: str
    last_line: int = 0

    @property
    def place(self) -> str:
        """``file:line`` or ``file:first-last``."""
        last = f"-{self.last_line}" if self.last_line else ""
        return f"{self.file}:{self.line}{last}" if self.line else self.file


@dataclass(frozen=True)
class Plan:
    """The changes to make in a folder.

    Attributes:
        root: The folder.
        files: Number of files read.
        changes: Statements to change, sorted by file and line.
        remarks: What is not changed, sorted by file and line.
        code_base: The files read.
    """

    root: Path
    files: int
    changes: tuple[Change, ...]
    remarks: tuple[Remark, ...]
    code_base: CodeBase
    _contents: tuple[tuple[Path, bytes], ...]

    def write(self) -> None:
        """Writes all changed files, each atomically.

        Raises:
            OSError: A file cannot be written; it is not changed.
        """
        for path, _ in self._contents:
            check_writable(path)
        for path, content in self._contents:
            mode = path.stat().st_mode
            with moved_into(path) as stream:
                stream.write(content)
            path.chmod(mode)


def plan_changes(folder: Path) -> Plan:
    r"""Reads a code base and finds the imports that this library can replace; changes nothing.

    An import, absolute or relative, is recognized by its names and the last part of its module's
    path, for any package. A name is kept if it is defined in the folder with arguments that ours
    does not have.

    Args:
        folder: A folder, or one Python file.

    Raises:
        OSError: The folder does not exist.

    Example:
        >>> import pathlib, tempfile
        >>> from mabm.compat._tool.rewriting import plan_changes
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "train.py")
        ...     _ = file.write_text("from gcl.models.cm import ClusterMemory, Other as O\n")
        ...     plan = plan_changes(pathlib.Path(folder))
        ...     plan.write()
        ...     print(file.read_text(), end="")
        from mabm.compat.clustercontrast import ClusterMemory
        from gcl.models.cm import Other as O
    """
    code_base = read_code_base(folder)
    files = [_File(code_base, source) for source in code_base.sources]
    remarks = [remark for file in files for remark in file.remarks]
    remarks += _faiss_that_stays(code_base, files)
    remarks.sort(key=lambda remark: (remark.file, remark.line))
    changes = [change for file in files for change in file.changes]
    contents = [(f.source.path, f.content()) for f in files if f.edits]
    return Plan(
        code_base.root,
        len(files),
        tuple(changes),
        tuple(remarks),
        code_base,
        tuple(contents),
    )


def misfit(definition: Definition, here: str) -> str | None:
    """Why ours cannot replace an old definition; ``None`` if it can."""
    ours = getattr(importlib.import_module(f"{_HERE}.{here}"), definition.name)
    for method, names in parameters(definition).items():
        ends = inspect.signature(getattr(ours, method) if method else ours).parameters
        own = [name for name in ends if name != "self"]
        takes_any = any(end.kind is end.VAR_KEYWORD for end in ends.values())
        known = OPTIONS.get(definition.name, names) if takes_any else own
        missing = [name for name in (names[2:] if takes_any else names) if name not in known]
        if missing:
            taker, more = method or "definition", ", ".join(missing)
            return f"its {taker} takes {more}; mabm's does not"
        if takes_any:
            continue
        fixed = [n for n in own if ends[n].kind is ends[n].POSITIONAL_OR_KEYWORD]
        if [name for name in names if name in fixed] != [n for n in fixed if n in names]:
            return "its arguments are in another order than mabm's"
        needed = [n for n in own if ends[n].default is inspect.Parameter.empty and n not in names]
        if needed:
            return f"it does not take {', '.join(needed)}, which mabm's requires"
    return None


class _File:
    """The changes to make in one file."""

    def __init__(self, code_base: CodeBase, source: Source) -> None:
        self.code_base, self.source = code_base, source
        self.changes: list[Change] = []
        self.remarks: list[Remark] = []
        self.edits: list[tuple[int, int, str]] = []  # start, end (characters), new text
        self.kept: list[tuple[ast.Import | ast.ImportFrom, list[str]]] = []
        self._starts = [0]
        for line in source.lines:
            self._starts.append(self._starts[-1] + len(line))
        if source.tree is None:
            self._remark(0, "whole file", f"not read: {source.problem}")
            return
        for node in source.imports:
            if isinstance(node, ast.ImportFrom):
                self._look_at_names(node)
            else:
                self._look_at_modules(node)
        self._look_at_definitions()
        self._look_at_importlib(source.tree)

    def content(self) -> bytes:
        """Content of the changed file."""
        text = self.source.text
        for start, end, new in sorted(self.edits, reverse=True):
            text = text[:start] + new + text[end:]
        return text.encode(self.source.encoding)

    def _look_at_names(self, node: ast.ImportFrom) -> None:
        path = self.code_base.absolute(self.source, node)
        names = [alias.name for alias in node.names]
        defined = self.code_base.module(self.source, path, node.level)
        held = defined.definitions if defined is not None else ()
        table = {} if path.partition(".")[0] == "mabm" else names_of(path, held)
        if not table:
            self.kept.append((node, names))
            for name in names:
                inner = f"{path}.{name}" if path else name
                if name in NAMES and self.code_base.module(self.source, inner, node.level):
                    self._remark_on_module(node, name)
            return
        if names == ["*"]:
            self.kept.append((node, names))
            if defined is not None:
                self._remark(
                    node.lineno, self._shown(node), f"import names instead of *, {_INSTALL}"
                )
            return
        ours: dict[str, list[ast.alias]] = {}
        others: list[ast.alias] = []
        for alias in node.names:
            here = table.get(alias.name)
            old = defined.definitions.get(alias.name) if defined is not None else None
            reason = None if here is None or old is None else misfit(old, here)
            if here is None or reason is not None:
                others.append(alias)
            else:
                ours.setdefault(here, []).append(alias)
            if reason is not None:
                self._remark(node.lineno, alias.name, f"not replaced: {reason}")
        if others:
            self.kept.append((node, [alias.name for alias in others]))
        unknown = [alias.name for alias in others if alias.name not in table]
        if unknown and (ours or defined is not None):
            reason = "not in mabm: still imported from the old module"
            self._remark(node.lineno, ", ".join(unknown), reason)
        if ours:
            self._change(node, ours, others)

    def _change(
        self, node: ast.ImportFrom, ours: dict[str, list[ast.alias]], others: list[ast.alias]
    ) -> None:
        tokens = self._tokens(node)
        begin = 1
        end = next(n for n, token in enumerate(tokens) if token.string == "import")
        old_module = self._between(tokens[begin], tokens[end - 1])
        statements = [(f"{_HERE}.{here}", aliases) for here, aliases in ours.items()]
        if others:
            statements.append(("".join(t.string for t in tokens[begin:end]), others))
        new = [f"from {module} import {_joined(aliases)}" for module, aliases in statements]
        if len(statements) == 1:
            start = self._offset(tokens[begin].start)
            self.edits.append((start, start + len(old_module), statements[0][0]))
        else:
            first, last = self._offset(tokens[0].start), self._offset(tokens[-1].end)
            before = self.source.text[self._starts[node.lineno - 1] : first]
            comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
            if before.strip() and comments:
                self.kept.append((node, [alias.name for alias in node.names]))
                reason = f"has comments among its names: change it by hand to {'; '.join(new)}"
                self._remark(node.lineno, self._shown(node), reason)
                return
            line = self.source.lines[node.lineno - 1]
            line_end = line[len(line.rstrip("\r\n")) :] or "\n"
            alone = not before.strip() and not self._is_joined(tokens[-1])
            text = (line_end + before if alone else "; ").join([*comments, *new])
            if comments and not alone:
                text = (line_end + before).join(comments) + line_end + before + "; ".join(new)
            self.edits.append((first, last, text))
        self.changes.append(
            Change(self.source.name, node.lineno, self._shown(node), "\n".join(new))
        )

    def _look_at_modules(self, node: ast.Import) -> None:
        self.kept.append((node, [alias.name for alias in node.names]))
        for alias in node.names:
            if names_of(alias.name) and self.code_base.module(self.source, alias.name):
                self._remark_on_module(node, alias.name)

    def _remark_on_module(self, node: ast.Import | ast.ImportFrom, module: str) -> None:
        known = names_of(module)
        lines = [f"from {_HERE}.{here} import {name}" for name, here in known.items()][:1]
        reason = f"imports a module: import the names you use ({lines[0]}, ...), {_INSTALL}"
        self._remark(node.lineno, self._shown(node), reason)

    def _look_at_definitions(self) -> None:
        for name, node in self.source.definitions.items():
            if isinstance(node, ast.ClassDef) or self.source.stem in NAMES:
                continue
            places = [t[name] for k, t in NAMES.items() if k not in _COMMON and name in t]
            for here in dict.fromkeys(places):
                if misfit(node, here) is None:
                    first = min([node.lineno, *(part.lineno for part in node.decorator_list)])
                    reason = (
                        f"is defined here: replace these lines with "
                        f"'from {_HERE}.{here} import {name}'"
                    )
                    self._remark(first, f"def {name}", reason, node.end_lineno or first)
                    break

    def _look_at_importlib(self, tree: ast.Module) -> None:
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = ast.unparse(node.func).rpartition(".")[2]
            path = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
            if called not in {"import_module", "__import__"} or not isinstance(path, str):
                continue
            if names_of(path) and path.partition(".")[0] != "mabm":
                reason = f"imports by a string: change it by hand, {_INSTALL}"
                self._remark(node.lineno, ast.unparse(node), reason)

    def _remark(self, line: int, what: str, reason: str, last_line: int = 0) -> None:
        self.remarks.append(Remark(self.source.name, line, what, reason, last_line))

    def _tokens(self, node: ast.ImportFrom) -> list[tokenize.TokenInfo]:
        """The tokens of a statement, without line ends."""
        line = self.source.lines[node.lineno - 1].encode()
        start = (node.lineno, len(line[: node.col_offset].decode()))
        last_line = self.source.lines[(node.end_lineno or node.lineno) - 1].encode()
        end = (node.end_lineno, len(last_line[: node.end_col_offset].decode()))
        space = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
        return [
            token
            for token in self.source.tokens
            if start <= token.start and token.end <= end and token.type not in space
        ]

    def _is_joined(self, last: tokenize.TokenInfo) -> bool:
        """Whether another statement follows on the line of a token."""
        rest = self.source.lines[last.end[0] - 1][last.end[1] :].strip()
        return rest[:1] not in {"", "#"}

    def _between(self, first: tokenize.TokenInfo, last: tokenize.TokenInfo) -> str:
        return self.source.text[self._offset(first.start) : self._offset(last.end)]

    def _offset(self, place: tuple[int, int]) -> int:
        return self._starts[place[0] - 1] + place[1]

    def _shown(self, node: ast.Import | ast.ImportFrom) -> str:
        found = ast.get_source_segment(self.source.text, node) or ast.unparse(node)
        return found if "\n" not in found and "\r" not in found else ast.unparse(node)


def _joined(aliases: list[ast.alias]) -> str:
    return ", ".join(ast.unparse(alias) for alias in aliases)


def _faiss_that_stays(code_base: CodeBase, files: list[_File]) -> Iterator[Remark]:
    """Yields remarks on imports of faiss that scripts still reach after the changes."""
    targets: dict[Path, set[Path]] = {}
    needed: set[Path] = set()
    for file in files:
        before = {
            path
            for node in file.source.imports
            for path in _targets(code_base, file.source, node, [a.name for a in node.names])
        }
        needed |= before - {file.source.path}
        targets[file.source.path] = {
            path
            for node, names in file.kept
            for path in _targets(code_base, file.source, node, names)
        }
    reached: dict[Path, str] = {}
    for file in files:
        source = file.source
        loose = source.path.parent == code_base.root and source.path not in needed
        if not source.is_script and (not loose or source.stem in NAMES):
            continue
        waiting = [source.path]
        while waiting:
            path = waiting.pop()
            if path not in reached:
                reached[path] = source.name
                waiting += targets.get(path, ())
    for file in files:
        for node, names in file.kept:
            roots = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
            if any(root.partition(".")[0] == "faiss" for root in roots):
                by = reached.get(file.source.path)
                if by is not None:
                    way = "" if by == file.source.name else f" when {by} runs"
                    reason = (
                        f"faiss is still imported{way}: install faiss-cpu or, if faiss is never "
                        f"called, put mabm.compat.install(...) before it"
                    )
                    yield Remark(file.source.name, node.lineno, file._shown(node), reason)


def _targets(
    code_base: CodeBase, source: Source, node: ast.Import | ast.ImportFrom, names: list[str]
) -> Iterator[Path]:
    """Yields the files of the folder that an import runs."""
    level = node.level if isinstance(node, ast.ImportFrom) else 0
    paths = names
    if isinstance(node, ast.ImportFrom):
        path = code_base.absolute(source, node)
        paths = [path, *(f"{path}.{name}" for name in names)]
    for path in paths:
        found = code_base.module(source, path, level)
        if found is not None:
            yield found.path
            yield from (package.path for package in code_base.packages(found))
