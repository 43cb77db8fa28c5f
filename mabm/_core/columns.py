"""Columns, one value per sample: labels, modalities, identities, cameras, in any container."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mabm._core.arguments import shown
from mabm._core.arrays import Array, check_features, is_integer, to_int64, to_tensor
from mabm._core.modalities import MODALITY_NAMES
from mabm._core.partition import NOISE


class SupportsArray(Protocol):
    """An object that NumPy converts to an array, such as a pandas Series."""

    def __array__(self) -> NDArray[Any]:
        """The array."""


@runtime_checkable
class Labeled(Protocol):
    """An object with labels, such as :class:`mabm.PseudoLabels`."""

    @property
    def labels(self) -> Array:
        """(N,) integers, the cluster of each sample; -1 is noise."""

    @property
    def modality(self) -> Array | None:
        """(N,) integers, the group of each sample, or ``None``."""


Column: TypeAlias = Array | Sequence[Any] | SupportsArray
"""One value per sample: a tensor, an array, a list, a tuple, a range, a pandas Series."""

Labels: TypeAlias = Column | Labeled
"""A column of labels, or an object with labels."""


class Categories(NamedTuple):
    """Columns with values numbered by a common scheme.

    Attributes:
        columns: (N,) int64 each, on the device of its values.
        names: Names of number 0, 1, ..., or ``None`` if the values were integers.
    """

    columns: tuple[Tensor, ...]
    names: tuple[str, ...] | None


class Samples(NamedTuple):
    """Features and the group of each sample, on one device.

    Attributes:
        features: (N, D) contiguous float32 without gradient.
        groups: (N,) int64 >= 0, or ``None`` without a modality.
        group_names: Names of group 0, 1, ..., or ``None`` if the groups were integers.
    """

    features: Tensor
    groups: Tensor | None
    group_names: tuple[str, ...] | None


def check_samples(features: object, modality: object, name: str = "features") -> Samples:
    """Returns features and modality, the two arguments of every clustering, as tensors.

    Args:
        features: (N, D) tensor or array of float16, bfloat16, float32 or float64.
        modality: (N,) integers >= 0, bool or words, the group of each sample, or ``None``.
        name: Name of the features in messages.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: Features are not finite or not (N, D), or the modality is not (N,), has missing
            values, or contains a negative number.
    """
    x = check_features(features, name)
    if modality is None:
        return Samples(x, None, None)
    found = check_categories(modality, len(x), "modality", "one group per row", takes_bool=True)
    groups = _check_groups(found.columns[0].to(x.device), "modality")
    return Samples(x, groups, found.names)


def check_modality(value: object, count: int, device: torch.device, name: str) -> Tensor:
    """Returns the group of each sample as int64 (N,) on ``device``.

    Bool and words are numbered by :func:`read_categories`.

    Raises:
        TypeError: It is not a column of integers, bool or words.
        ValueError: Its shape is not (N,), a value is missing, or a number is negative.
    """
    found = check_categories(value, count, name, "one group per row", takes_bool=True)
    return _check_groups(found.columns[0].to(device), name)


def _check_groups(groups: Tensor, name: str) -> Tensor:
    if len(groups) and (least := int(groups.min())) < 0:
        raise ValueError(f"{name} must not be negative, got {least}")
    return groups


def check_categories(
    value: object, count: int | None, name: str, each: str, *, takes_bool: bool = False
) -> Categories:
    """Returns one column of integers or words, numbered by :func:`read_categories`.

    Args:
        value: (N,) integers or words, in anything that is a :data:`Column`.
        count: Required N, or ``None`` for any.
        name: Name of the argument in messages.
        each: Description of one value in messages, such as "one per sample".
        takes_bool: Whether bool is accepted.

    Raises:
        TypeError: It is not a column of integers or words.
        ValueError: Its shape is not (N,), a value is missing, or an integer is 2**63 or more.
    """
    found = read_categories((value,), (name,), each, takes_bool=takes_bool)
    _check_length(found.columns[0].shape, count, name, each)
    return found


def check_visible_infrared(value: object, count: int | None, name: str, each: str) -> Tensor:
    """Returns a modality with fixed numbers, 0 visible and 1 infrared, from numbers or words.

    Raises:
        TypeError: It is not a column of integers, bool or words.
        ValueError: Its shape is not (N,), a value is missing, or a word is neither of the two.
    """
    (column,), _ = read_categories((value,), (name,), each, words=tuple(MODALITY_NAMES.values()))
    _check_length(column.shape, count, name, each)
    return column


def read_categories(
    values: Sequence[object],
    names: Sequence[str],
    each: str,
    *,
    words: tuple[str, ...] | None = None,
    takes_bool: bool = True,
) -> Categories:
    """Numbers the values of several columns; a value has the same number in all of them.

    Integers do not change; False is 0 and True is 1. Words are numbered from 0 in sorted order, and
    words of digits in numeric order ("9" before "10"). Does not synchronize with a GPU.

    Args:
        values: Columns of integers, bool or words, of any shape and all of the same type.
        names: Name of each column in messages.
        each: Description of one value in messages, such as "one group per row".
        words: The words with numbers 0, 1, ..., or ``None`` to number the words that occur.
        takes_bool: Whether bool is accepted: for a modality, but not for identities and cameras.

    Raises:
        TypeError: A value is not a column, has other contents, or the columns differ in type.
        ValueError: A value is missing, a word is not in ``words``, or an integer is 2**63 or more.
    """
    read = [_read_column(value, name, each) for value, name in zip(values, names, strict=True)]
    kinds = [_kind(column) for column in read]
    for kind, name in zip(kinds[1:], names[1:], strict=True):
        if kind != kinds[0]:
            raise TypeError(f"{names[0]} must contain {kind} as {name} does, got {kinds[0]}")
    if kinds[0] == "words":
        known = words or tuple(
            sorted({word for column in read for word in _words(column)}, key=in_order)
        )
        numbers = zip(read, names, strict=True)
        return Categories(tuple(_number(column, known, name) for column, name in numbers), known)
    if kinds[0] == "bool" and takes_bool:
        return Categories(
            tuple(
                to_tensor(column, name).to(torch.int64)
                for column, name in zip(read, names, strict=True)
            ),
            ("False", "True"),
        )
    return Categories(
        tuple(
            _check_integers(column, name, value, each)
            for column, name, value in zip(read, names, values, strict=True)
        ),
        None,
    )


def check_column(value: object, count: int | None, name: str, each: str) -> Tensor:
    """Returns one-dimensional integers as int64 (N,), on their device.

    Args:
        value: (N,) integers: a tensor, an array, a list, a tuple, a range, a pandas Series, or
            any object that NumPy converts to an array.
        count: Required N, or ``None`` for any.
        name: Name of the argument in messages.
        each: Description of one value in messages, such as "one per sample".

    Raises:
        TypeError: It is not a column of integers.
        ValueError: Its shape is not (N,), a value is missing, or an integer is 2**63 or more.
    """
    column = _check_integers(_read_column(value, name, each), name, value, each)
    _check_length(column.shape, count, name, each)
    return column


def check_clusters(value: object, count: int, device: torch.device) -> Tensor:
    """Returns labels as int64 (N,) on ``device``: clusters >= 0, and -1 for noise.

    Raises:
        TypeError: It is not a column of integers, nor an object with labels.
        ValueError: Its shape is not (N,), a value is missing, or a label is below -1.
    """
    labels = check_labels(value, count, "labels", "one per row").to(device)
    if count and (least := int(labels.min())) < NOISE:
        raise ValueError(f"labels must be clusters >= 0 or -1 for noise, got {least}")
    return labels


def check_labels(value: object, count: int | None, name: str, each: str) -> Tensor:
    """Applies :func:`check_column` to labels, or to the labels of an object with labels."""
    return check_column(labels_of(value), count, name, each)


def holds_integers(value: object) -> bool:
    """Whether ``value`` is a tensor or an array of integers, without a mask."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "iu" and not isinstance(value, np.ma.MaskedArray)
    return isinstance(value, Tensor) and is_integer(value)


def labels_of(value: object) -> object:
    """Returns the labels of an object that has them, as ``mabm.PseudoLabels``, else ``value``.

    A pandas Series is not such an object, although it has attributes for the words of its index.
    """
    carries = isinstance(value, Labeled) and not hasattr(value, "__array__")
    return value.labels if carries and isinstance(value, Labeled) else value


def modality_of(labels: object, modality: object) -> tuple[Any, tuple[str, ...] | None]:
    """Returns a numbered modality and its names: the given one, else that of ``labels``, if any.

    Raises:
        TypeError: The modality is not a column of integers, bool or words.
        ValueError: A value is missing, or an integer is 2**63 or more.
    """
    if modality is not None:
        (groups,), names = read_categories((modality,), ("modality",), "one group per row")
        return groups, names
    if labels_of(labels) is labels:
        return None, None
    return getattr(labels, "modality", None), getattr(labels, "modality_names", None)


def name_of_group(group: int, names: tuple[str, ...] | None) -> str:
    """Returns the name of a group, or its number if it has no name."""
    return names[group] if names is not None and 0 <= group < len(names) else str(group)


def _read_column(value: object, name: str, each: str) -> Array:
    """Returns a tensor of numbers or bool, or a NumPy array of words, of any shape."""
    if isinstance(value, range):
        value = np.arange(value.start, value.stop, value.step, dtype=np.int64)
    elif isinstance(value, list | tuple):
        return _read_values(value, name, each)
    elif not isinstance(value, Tensor | np.ndarray):
        if not (hasattr(value, "to_numpy") or hasattr(value, "__array__")):
            raise TypeError(
                f"{name} must be a tensor, an array, a list or a Series, {each}, got "
                f"{type(value).__name__}: {shown(value)}"
            )
        value = value.to_numpy() if hasattr(value, "to_numpy") else np.asarray(value)
        value = np.asanyarray(value)
        if value.dtype.kind == "f":
            _refuse_missing(np.flatnonzero(np.isnan(value)).tolist(), name)
    if isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray):
        if value.dtype.kind == "U":
            return value
        if value.dtype.kind == "S":
            raise TypeError(f"{name} must not be bytes, {each}; use {name}.astype(str)")
        if value.dtype.kind in "OT" and value.ndim == 1:
            return _read_values(value.tolist(), name, each)
    return to_tensor(value, name)


def _read_values(values: Sequence[Any], name: str, each: str) -> Array:
    """Applies :func:`_read_column` to a list of Python objects."""
    kinds = set(map(type, values))
    if kinds and all(issubclass(kind, Tensor) for kind in kinds):
        if all(value.dim() == 0 for value in values):
            return to_tensor(torch.stack(list(values)), name)
        raise ValueError(f"{name} must be one column, {each}, got tensors; use torch.cat({name})")
    if any(issubclass(kind, np.ndarray | list | tuple) for kind in kinds):
        raise ValueError(
            f"{name} must be one column, {each}, got a list of rows; use numpy.concatenate({name})"
        )
    if all(issubclass(kind, str) for kind in kinds) and kinds:
        return np.array(values, dtype=np.str_)
    if all(issubclass(kind, bool | np.bool_) for kind in kinds) and kinds:
        return torch.tensor([bool(value) for value in values], device="cpu")
    if all(issubclass(kind, int | np.integer) and kind is not bool for kind in kinds):
        try:
            return to_tensor(np.array([int(value) for value in values], dtype=np.int64), name)
        except OverflowError:
            far = next(value for value in values if not -(2**63) <= value < 2**63)
            raise ValueError(f"{name} must be within 64 bits, got {shown(int(far))}") from None
    missing = [row for row, value in enumerate(values) if _is_missing(value)]
    _refuse_missing(missing, name)
    if all(issubclass(kind, float | np.floating) for kind in kinds):
        return torch.tensor([float(value) for value in values], dtype=torch.float64, device="cpu")
    found = " and ".join(sorted(kind.__name__ for kind in kinds))
    raise TypeError(f"{name} must be integers, {each}, got values of {found}")


def _is_missing(value: object) -> bool:
    if isinstance(value, float | np.floating):
        return math.isnan(value)
    return value is None or type(value).__name__ in ("NAType", "NaTType")  # of pandas


def _refuse_missing(rows: list[int], name: str) -> None:
    if rows:
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        raise ValueError(
            f"{name} must have a value in every row, got none in row {rows[0]}{more}; remove these "
            "rows from all arguments, or fill them"
        )


def _kind(column: Array) -> str:
    if not isinstance(column, Tensor):
        return "words"
    return "bool" if column.dtype == torch.bool else "integers"


def in_order(word: str) -> tuple[bool, int, str]:
    return (False, int(word), word) if word.isdecimal() else (True, 0, word)


def _words(column: Array) -> list[str]:
    words: list[str] = np.asarray(column).ravel().tolist()
    return words


def _number(column: Array, known: tuple[str, ...], name: str) -> Tensor:
    """Returns the index of each word in ``known``."""
    places = {word: place for place, word in enumerate(known)}
    try:
        numbers = np.array([places[word] for word in _words(column)], dtype=np.int64)
    except KeyError as error:
        raise ValueError(
            f"{name} must be one of {known}, or their numbers, got {error.args[0]!r}"
        ) from None
    return torch.from_numpy(numbers.reshape(column.shape))


def _check_integers(column: Array, name: str, given: object, each: str) -> Tensor:
    """Returns integers as int64; raises a TypeError that suggests a conversion otherwise."""
    if not isinstance(column, Tensor):
        such = f"words such as {str(column.flat[0])!r}" if column.size else "an array of words"
        raise TypeError(
            f"{name} must be integers, {each}, got {such}; number them: "
            f"numpy.unique({name}, return_inverse=True)[1]"
        )
    if not is_integer(column):
        made = f"numpy.array({name}).astype(int)"
        if isinstance(given, Tensor):
            made = f"{name}.long()"
        elif hasattr(given, "astype"):
            made = f"{name}.astype(int)"
        raise TypeError(
            f"{name} must be integers, {each}, got dtype {column.dtype}; if they are whole "
            f"numbers, use {made}"
        )
    return to_int64(column, name)


def _check_length(shape: torch.Size, count: int | None, name: str, each: str) -> None:
    if len(shape) != 1 or (count is not None and shape[0] != count):
        length = "N" if count is None else count
        one_wide = len(shape) == 2 and shape[1] == 1 and count in (None, shape[0])
        remedy = f"; use numpy.ravel({name})" if one_wide else ""
        raise ValueError(f"{name} must be ({length},), {each}, got shape {tuple(shape)}{remedy}")
