"""Published protocols and search tasks by the name of their data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final, TypeVar

from mabm._core.protocols import RetrievalProtocol, SearchTask

if TYPE_CHECKING:
    from mabm._core.names import NamedMapping
    from mabm.data.data_set import DataSet

T = TypeVar("T")


class _RecordField(Mapping[str, T]):
    """One field of all data set records, by the name of the data set in any spelling; read-only.

    Records whose field is ``None`` are left out. The records are loaded on first use, so that
    ``import mabm`` does not load :mod:`mabm.data`.

    Args:
        field: Name of a field of :class:`mabm.data.DataSet`.
    """

    def __init__(self, field: str) -> None:
        self._field = field

    def __getitem__(self, name: str) -> T:
        value: T | None = getattr(_data_sets()[name], self._field)
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        records = _data_sets().items()
        return (name for name, record in records if getattr(record, self._field) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return repr(dict(self))


def _data_sets() -> NamedMapping[DataSet]:
    from mabm.data.sets import DATA_SETS

    return DATA_SETS


PROTOCOLS: Final[Mapping[str, RetrievalProtocol]] = _RecordField("protocol")
"""The published protocols by name of the data set, in any spelling of it; read-only."""

SEARCH_TASKS: Final[Mapping[str, tuple[SearchTask, ...]]] = _RecordField("search_tasks")
"""The tasks of each data set by its name, in any spelling of it; read-only."""

MORE_SEARCH_TASKS: Final[Mapping[str, tuple[SearchTask, ...]]] = _RecordField("more_search_tasks")
"""Further published tasks of each data set, which run only if they are named; read-only.

SYSU-MM01: galleries of ten images per identity and camera (multi-shot). LLCM: queries and gallery
as in the released script, which swaps them when it tests visible against infrared images.
"""


def check_trial(model_trial: int | None, data_trial: int | None) -> None:
    """Raises an error unless a model is tested on the trial that it was trained on.

    Each trial splits the same identities randomly into training and test, so test identities of one
    trial are training identities of another.

    Args:
        model_trial: The trial that the model was trained on; ``None`` if not known.
        data_trial: The trial to test on; ``None`` for data without trials, which is always valid.

    Raises:
        ValueError: The trials differ, or the model's trial is not known.

    Example:
        >>> from mabm.evaluation import check_trial
        >>> check_trial(3, 3)
    """
    if data_trial is None or model_trial == data_trial:
        return
    if model_trial is None:
        raise ValueError(
            f"model_trial must be {data_trial}, the trial to test on, got None: without the trial "
            "that a model was trained on, it is unknown which identities it has seen"
        )
    raise ValueError(
        f"model_trial must be {data_trial}, the trial to test on, got {model_trial}: the model was "
        "trained on test identities of other trials, so their scores are not valid; test it on "
        f"trial {model_trial}"
    )
