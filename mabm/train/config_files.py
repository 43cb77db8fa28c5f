"""Reads configurations from TOML files, with command-line overrides, and writes them as TOML."""

from __future__ import annotations

import codecs
import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

from mabm._core.names import find_name
from mabm.data.sets import CONFIGS, DATA_SETS
from mabm.train.config import Config

_MOST_BYTES: Final = 2**20  # per file
_MOST_BASES: Final = 16
_LONGEST: Final = 100  # characters of a value in a message
# Byte-order marks of other encodings than UTF-8, longer ones first.
_OTHER_ENCODINGS: Final = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a configuration.

    Args:
        source: Name of a shipped configuration (one of ``CONFIGS``, in any spelling, or the short
            name of a data set) or path of a TOML file. Names take precedence: write, for instance,
            ``./sysu`` for a file of that name. Tables and keys of the file are the fields of
            :class:`Config`; missing keys keep their defaults. A key ``base`` at the top names a
            shipped configuration, or another file (relative to the folder of this one), to start
            from. UTF-8, with or without a byte-order mark, of at most 1 MiB.
        overrides: ``"table.key=value"``, later ones win. The value is TOML; a bare word is a
            string, and ``none`` is ``None``, which a file cannot set because TOML has no such
            value.

    Raises:
        ImportError: An extra is not installed.
        FileNotFoundError: There is no such file or name.
        ValueError: The file is not TOML, a key is misspelled, or a value is out of range.

    Example:
        >>> from mabm.train import CONFIGS, load_config
        >>> load_config(CONFIGS[0], ["stage2.epochs=3"]).stage2.epochs
        3
    """
    tree = _read_tree(source)
    for override in overrides:
        _apply(tree, override)
    return parse_config(tree, str(source))


def parse_config(tree: Mapping[str, Any], source: str = "config") -> Config:
    """A :class:`Config` from the nested dictionaries that :func:`to_tree` returns.

    Raises:
        ImportError: pydantic is not installed.
        ValueError: A key is unknown, or a value has the wrong type or is out of range; all of them
            are named. Types are strict: neither ``true`` nor ``"8"`` is an integer.
    """
    try:
        from pydantic import TypeAdapter, ValidationError
    except ImportError as error:
        raise ImportError('configurations need pydantic: pip install "mabm[train]"') from error
    # Through JSON, because pydantic in strict mode builds dataclasses only from JSON objects. A
    # date becomes an object, so that it does not pass as a string.
    try:
        text = json.dumps(tree, default=lambda value: {type(value).__name__: str(value)})
    except (RecursionError, ValueError) as error:  # ValueError: an integer of thousands of digits
        raise ValueError(f"{source} must contain tables of plain values: {error}") from None
    try:
        return TypeAdapter(Config).validate_json(text, strict=True)
    except ValidationError as error:
        raise ValueError(f"{source}: {'; '.join(map(_complaint, error.errors()))}") from None


def _complaint(error: Mapping[str, Any]) -> str:
    """An error of pydantic in the format of this library: key, contract and value."""
    key = _cut(".".join(str(part) for part in error["loc"]))
    if error["type"] == "json_invalid":  # our own JSON: lone surrogates or too deep
        return f"values must be Unicode and not nested deep: {error['ctx']['error']}"
    if error["type"] == "value_error":  # from __post_init__, whose messages begin with the field
        return f"{key}.{error['ctx']['error']}"
    if error["type"] == "unexpected_keyword_argument":
        table = Config() if len(error["loc"]) == 1 else getattr(Config(), error["loc"][0])
        names = ", ".join(each.name for each in dataclasses.fields(table))
        return f"{key} must be one of {names}"
    contract = error["msg"].removeprefix("Input should be ")
    return f"{key} must be {contract}, got {_cut(repr(error['input']))}"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def to_tree(config: Config) -> dict[str, dict[str, Any]]:
    """The configuration as nested dictionaries, without ``None`` values, which TOML lacks."""
    return {
        table: {key: value for key, value in fields.items() if value is not None}
        for table, fields in dataclasses.asdict(config).items()
    }


def to_toml(config: Config) -> str:
    """The configuration as TOML that :func:`load_config` reads; ``None`` values are comments.

    Args:
        config: The configuration; all its settings are written, including defaults.

    Raises:
        ImportError: tomli-w is not installed.

    Example:
        >>> from mabm.train import Config, to_toml
        >>> to_toml(Config()).splitlines()[0]
        '[data]'
    """
    try:
        import tomli_w
    except ImportError as error:
        raise ImportError('configurations need tomli-w: pip install "mabm[train]"') from error
    tables = []
    for table, fields in dataclasses.asdict(config).items():
        text = tomli_w.dumps({table: to_tree(config)[table]})
        tables.append(text + "".join(f"# {key}: none\n" for key in fields if fields[key] is None))
    return "\n".join(tables)


def read_tables(path: Path) -> tuple[str, dict[str, Any]]:
    """A TOML file as text and as nested dictionaries; keys and values are not checked.

    Raises:
        ImportError: An extra is not installed.
        OSError: The file cannot be read.
        ValueError: The file is not TOML, not in UTF-8, or larger than 1 MiB.
    """
    text = _read_text(path)
    return text, _parse_toml(text, str(path))


def _read_tree(source: str | Path, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """The tables of a shipped configuration or a file, merged into those of its base."""
    if (shipped := _find_shipped(str(source))) is not None:
        name = f"configs/{shipped}.toml"
        tree = _parse_toml(resources.files("mabm.train").joinpath(name).read_text("utf-8"), name)
        folder = None
    else:
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(
                f"config must be one of {', '.join(CONFIGS)} or a TOML file, got {str(source)!r}"
            )
        tree = _parse_toml(_read_text(path), str(path))
        folder = path.parent
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ValueError(f"base must be a shipped name or a TOML file, got {base!r} in {source}")
    above = (*above, str(source))
    if _find_shipped(base) is None and folder is not None:
        base = os.path.normpath(folder / base)
    if _is_one_of(base, above) or len(above) > _MOST_BASES:
        raise ValueError(f"base must not form a cycle, got {' -> '.join((*above, base))}")
    merged = _read_tree(base, above)
    for table, fields in tree.items():
        if isinstance(fields, dict) and isinstance(merged.get(table, {}), dict):
            merged.setdefault(table, {}).update(fields)
        else:
            merged[table] = fields
    return merged


def _find_shipped(name: str) -> str | None:
    """The shipped configuration for a name in any spelling, or a data set's short name."""
    return DATA_SETS.find(name) or find_name(name, CONFIGS)


def _is_one_of(base: str, above: Sequence[str]) -> bool:
    """Whether a file was already read, by this path or another one."""
    return base in above or (
        os.path.exists(base)
        and any(os.path.samefile(base, each) for each in above if os.path.exists(each))
    )


def _read_text(path: Path) -> str:
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise ValueError(f"{path} must be TOML of at most {_MOST_BYTES} bytes, got {size}")
    content = path.read_bytes()
    for mark, encoding in _OTHER_ENCODINGS:
        if content.startswith(mark):
            raise ValueError(f"{path} must be in UTF-8, got {encoding}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be in UTF-8: {error}") from None


def _apply(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    table, dot, key = path.strip().partition(".")
    if not (equals and dot and table and key):
        raise ValueError(f"an override must have the form table.key=value, got {override!r}")
    fields = tree.setdefault(table, {})
    if not isinstance(fields, dict):
        raise ValueError(f"{table} must be a table, got {fields!r}")
    text = text.strip()
    if text.lower() == "none":
        fields[key] = None
        return
    try:
        parsed = _parse_toml(f"value = {text}", override)
    except ValueError:
        fields[key] = text  # a bare word
        return
    if len(parsed) != 1:
        raise ValueError(f"an override must contain one value, got {override!r}")
    fields[key] = parsed["value"]


def _parse_toml(text: str, source: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError as error:
            raise ImportError('configurations need tomli: pip install "mabm[train]"') from error
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"{source} must be TOML: it is nested too deep") from None
    except ValueError as error:  # a syntax error, or an integer of thousands of digits
        raise ValueError(f"{source} must be TOML: {error}") from None
