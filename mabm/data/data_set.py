"""The record of a data set: everything that the library knows of it, in one place."""

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
    """What the library knows of one data set; readers, census, tests, commands and help follow it.

    The configuration that trains on it ships as ``mabm/train/configs/NAME.toml``, others of
    ``more_configs`` beside it.

    Attributes:
        name: Its name as it is spelled in documents and files.
        aliases: Other names that are understood.
        reader: Reads it. Called with its root unless it ships with the library, and with the
            keyword ``trial`` where it has trials.
        search_tasks: The searches that it is tested by.
        more_search_tasks: Further published searches, run only where they are asked for by name.
        protocol: Its published retrieval protocol; ``None`` where none is published.
        count: Counts a folder, or one trial of it, for the census; ``None`` where nothing is
            published to count against.
        num_trials: Number of its trials (divisions into training and test), which are numbered from
            1; ``None`` where there is one division only.
        ships: Whether it ships with the library and has no folder.
        is_list: Whether it is a table of image files of one's own, and its root that table in place
            of a folder.
        modality_names: What reports call each modality.
        identity_name: Name of an identity in reports; ``None``: its number.
        camera_name: Name of a camera in reports, beside its number; ``None``: its number alone.
        note: A sentence that reports show beside its images.
        more_configs: Names of further configurations that ship and train on it.

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
        """Names of the configurations that ship and train on it, the one of its own name first."""
        return self.name, *self.more_configs

    @property
    def root_in_words(self) -> str:
        """What its root must be, for messages."""
        return "the table of images" if self.is_list else f"the folder of {self.name}"

    def read(self, root: Path | str | None = None, *, trial: int | None = None) -> ReidData:
        """Reads the data set.

        Args:
            root: Its folder, or the table of a list; ``None`` where it ships with the library.
            trial: Number of the trial; ``None`` where it has no trials.

        Raises:
            FileNotFoundError: Something of the data set is missing; the message says what.
            ValueError: A root or trial is missing or does not apply, or the data set breaks its
                layout.

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
        """Returns the number of a trial; ``None``, for no trial or all of them, stays ``None``.

        Args:
            trial: An integer from 1 to ``num_trials``, or ``None``.

        Raises:
            TypeError: No integer.
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
