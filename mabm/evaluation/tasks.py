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
    """One field of the records of all data sets, by any spelling of a data set's name; read-only.

    Records whose field is ``None`` are left out. The records are read when they are first asked
    for, so that ``import mabm`` does not load :mod:`mabm.data`.

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
"""Further published tasks of each data set, for whoever asks for them by name; read-only.

SYSU-MM01: galleries of ten images of every identity in every camera (multi-shot). LLCM: the roles
that the released script gives the two sides where it tests visible against infrared images.
"""


def check_trial(model_trial: int | None, data_trial: int | None) -> None:
    """Refuses to test a model on another trial of a data set than the one it was trained on.

    Each trial divides the same identities at random into those to train on and those to test on, so
    that test identities of one trial are training identities of another.

    Args:
        model_trial: The trial that the model was trained on; ``None`` where that is not known.
        data_trial: The trial that it is to be tested on; ``None`` for data without trials, which
            passes.

    Raises:
        ValueError: The trials differ, or the model's is not known.

    Example:
        >>> from mabm.evaluation import check_trial
        >>> check_trial(3, 3)
    """
    if data_trial is None or model_trial == data_trial:
        return
    if model_trial is None:
        raise ValueError(
            f"model_trial must be {data_trial}, the trial that is tested, got None: without the "
            "trial that a model was trained on it is unknown which identities it has seen"
        )
    raise ValueError(
        f"model_trial must be {data_trial}, the trial that is tested, got {model_trial}: the other "
        "trials' test identities are among those that the model was trained on, so their scores "
        f"are no test; test it on trial {model_trial}"
    )
