"""The record of a data set: everything that the library knows about it, in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mabm._core.arguments import check_integer
from mabm._core.modalities import MODALITY_NAMES
from mabm._core.protocols import RetrievalProtocol, SearchTask
from mabm.data.counts import Counts
from mabm.data.records import ReidData


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Everything about one data set; used by readers, census, tests, commands and help.

    The configuration for it ships as ``mabm/train/configs/NAME.toml``, those in ``more_configs``
    next to it.

    Attributes:
        name: Name in its standard spelling.
        aliases: Other accepted names.
        reader: Reads the data set. Called with its root unless the data set ships with the library,
            and with the keyword ``trial`` if it has trials.
        search_tasks: Searches that the data set is evaluated with.
        more_search_tasks: Further published searches, which run only if they are named.
        protocol: Published retrieval protocol; ``None`` if there is none.
        count: Counts a folder, or one trial of it, for the census; ``None`` if there are no
            published numbers.
        num_trials: Number of trials (splits into training and test), numbered from 1; ``None`` if
            there is only one split.
        ships: Whether it ships with the library and has no folder.
        is_list: Whether its root is a table of your own image files instead of a folder.
        modality_names: Names of the modalities in reports.
        identity_name: Returns the name of an identity in reports; ``None`` uses its number.
        camera_name: Returns the name of a camera in reports, shown with its number; ``None`` shows
            the number only.
        note: A sentence that reports show with its images.
        more_configs: Names of further shipped configurations for it.

    Example:
        >>> from mabm.data import DATA_SETS
        >>> DATA_SETS["RegDB"].num_trials
        10
        >>> [task.name for task in DATA_SETS["sysu"].search_tasks]
        ['all-search', 'indoor-search']
    """

    name: str
    aliases: tuple[str, ...] = ()
    reader: Callable[..., ReidData]
    search_tasks: tuple[SearchTask, ...]
    more_search_tasks: tuple[SearchTask, ...] = ()
    protocol: RetrievalProtocol | None = None
    count: Callable[[Path, int | None], Counts] | None = None
    num_trials: int | None = None
    ships: bool = False
    is_list: bool = False
    modality_names: Mapping[int, str] = field(default_factory=lambda: MODALITY_NAMES)
    identity_name: Callable[[int], str] | None = None
    camera_name: Callable[[int], str] | None = None
    note: str = ""
    more_configs: tuple[str, ...] = ()

    @property
    def configs(self) -> tuple[str, ...]:
        """Names of the shipped configurations for it, the one with its own name first."""
        return self.name, *self.more_configs

    @property
    def root_in_words(self) -> str:
        """What its root must be, for messages."""
        return "the table of images" if self.is_list else f"the folder of {self.name}"

    def read(self, root: Path | str | None = None, *, trial: int | None = None) -> ReidData:
        """Reads the data set.

        Args:
            root: Its folder, or the table of a list; ``None`` if it ships with the library.
            trial: Number of the trial; ``None`` if it has no trials.

        Raises:
            FileNotFoundError: A part of the data set is missing; the message says which.
            ValueError: A root or trial is missing or does not apply, or the data set does not have
                its published layout.

        Example:
            >>> from mabm.data import DATA_SETS
            >>> data = DATA_SETS["regdb"].read("datasets/RegDB", trial=1)  # doctest: +SKIP
        """
        if self.ships and root is not None:
            raise ValueError(
                f"root must be None for {self.name}, which ships with mabm, got {root}"
            )
        if self.num_trials is not None and trial is None:
            raise ValueError(f"trial must be in [1, {self.num_trials}] for {self.name}, got None")
        number = self.trial_number(trial)
        if not self.ships and root is None:
            raise ValueError(f"root must be {self.root_in_words}, got None")
        place = () if root is None else (root,)
        division = {} if number is None else {"trial": number}
        return self.reader(*place, **division)

    def trial_number(self, trial: int | None) -> int | None:
        """Checks and returns the number of a trial; ``None`` stays ``None``.

        Args:
            trial: An integer from 1 to ``num_trials``, or ``None``.

        Raises:
            TypeError: ``trial`` is not an integer.
            ValueError: There is no such trial.

        Example:
            >>> from mabm.data import DATA_SETS
            >>> DATA_SETS["regdb"].trial_number(10)
            10
        """
        if trial is None:
            return None
        if self.num_trials is None:
            raise ValueError(
                f"trial must be None for {self.name}, which has no trials, got {trial}"
            )
        return check_integer("trial", trial, at_least=1, at_most=self.num_trials)
