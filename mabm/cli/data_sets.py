"""Names of data sets for the help, messages and choices of commands.

Their records are loaded when a command first needs them, so that ``import mabm.cli`` stays light.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from mabm.cli.command import UsageError

if TYPE_CHECKING:
    from mabm.data import DataSet

TABLE_OF_IMAGES: Final = (
    "a table of images with the columns path (from the table's folder), modality (a number, "
    "visible or infrared) and, if known, camera, identity and split (train or test)"
)
"""What ``--images`` accepts, for the help of every command that has it."""


def data_sets(having: Callable[[DataSet], bool] = lambda _: True) -> tuple[str, ...]:
    """Names of the data sets whose record meets a condition; all by default."""
    from mabm.data import DATA_SETS

    return tuple(name for name, data_set in DATA_SETS.items() if having(data_set))


def configurations() -> tuple[str, ...]:
    """Names of the configurations that ship."""
    from mabm.data.sets import CONFIGS

    return CONFIGS


def countable() -> tuple[str, ...]:
    """Names of the data sets with published numbers, which a census compares with."""
    return data_sets(lambda each: each.count is not None)


def in_folders() -> tuple[str, ...]:
    """Names of the data sets that are read from a folder rather than shipped."""
    return data_sets(lambda each: not each.ships and not each.is_list)


def more_searches() -> tuple[str, ...]:
    """Names of the searches that run only when they are named."""
    from mabm.data import DATA_SETS

    return tuple(task.name for record in DATA_SETS.values() for task in record.more_search_tasks)


def shipped() -> tuple[str, ...]:
    """Names of the data sets that ship with the library."""
    return data_sets(lambda each: each.ships)


def image_list() -> str:
    """Name of the data set that is a table of image files."""
    (name,) = data_sets(lambda each: each.is_list)
    return name


def root_in_words(name: str) -> str:
    """A description of a data set's root, for messages."""
    from mabm.data import DATA_SETS

    return DATA_SETS[name].root_in_words


def with_trials() -> tuple[str, ...]:
    """Names of the data sets that have trials."""
    return data_sets(lambda each: each.num_trials is not None)


def trial_ranges() -> str:
    """Names of the data sets that have trials, with their trial numbers: ``"name, 1 to 10"``."""
    from mabm.data import DATA_SETS

    return "; ".join(f"{name}, 1 to {DATA_SETS[name].num_trials}" for name in with_trials())


def split_data(text: str) -> tuple[str, str | None]:
    """The name and the folder in ``NAME[:ROOT]``: the known spelling of the name, if there is one.

    Raises:
        UsageError: The data set is read from a folder, and none is given.
    """
    from mabm.data import DATA_SETS

    given, _, root = text.partition(":")
    name = DATA_SETS.find(given) or given
    if name in in_folders() and not root:
        raise UsageError(f"--data must be {name}:ROOT, with the folder that it is in, got {text}")
    return name, root or None


def either(names: Sequence[str]) -> str:
    """Names as words: ``"a, b or c"``."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
