"""What a call may use and whom it tells: a memory limit, and reports on its progress."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Final, TypeAlias

from mabm._core.arguments import as_index, check_integer, shown
from mabm._core.saving import Saved

_SECONDS_BETWEEN_REPORTS: Final = 0.1

_UNITS: Final[dict[str, int]] = {
    "": 1,
    **{letter: 1000**power for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}i": 1024**power for power, letter in enumerate("kmgt", 1)},
}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?(b?)", re.ASCII)

_SIZE_CONTRACT: Final = 'a number of bytes, or words such as "4GB" or "512MiB"'


@dataclass(frozen=True)
class Progress(Saved):
    """How far a stage of a call is, as ``progress=`` callbacks receive it.

    Attributes:
        stage: Name of the stage, such as ``"ranking"``.
        done: Number of samples that are done, in [0, ``total``].
        total: Number of samples of the stage.
        seconds: Seconds since the stage began.
        seconds_left: Seconds that the rest of the stage will take at the pace so far; ``None``
            while nothing is done.

    Example:
        >>> import torch, mabm
        >>> reports = []
        >>> graph = mabm.jaccard_graph(torch.randn(60, 8), k1=10, progress=reports.append)
        >>> reports[0].stage, reports[0].done, reports[0].total
        ('ranking', 0, 60)
        >>> reports[-1].done == reports[-1].total
        True
    """

    stage: str
    done: int
    total: int
    seconds: float
    seconds_left: float | None


Report: TypeAlias = Callable[[Progress], object]
Advance: TypeAlias = Callable[[int], None]
_Shown: TypeAlias = Callable[[str, int], AbstractContextManager[Report]]


class OverLimitError(MemoryError):
    """Work needs more than its memory limit; the message says what to do."""


@dataclass(frozen=True, eq=False)
class Work:
    """A memory limit and reports on progress, passed from a public function to its stages.

    Attributes:
        max_memory: Bytes that the call may allocate on the device of the features, in addition to
            the features and its result, less what :meth:`less` took; ``None`` for no limit.

    Example:
        >>> from mabm._core.work import Work
        >>> reports = []
        >>> work = Work.of("1GB", reports.append)
        >>> with work.stage("ranking", 100) as advance:
        ...     advance(60)
        ...     advance(40)
        >>> work.max_memory, [each.done for each in reports]
        (1000000000, [0, 100])
    """

    max_memory: int | None = None
    _shown: _Shown | None = None
    _taken: int = 0

    @classmethod
    def of(cls, max_memory: object = None, progress: object = False) -> Work:
        """Makes one from the public keywords.

        Args:
            max_memory: Number of bytes, or words such as ``"4GB"``; ``None`` for no limit.
            progress: Whether to show a progress bar on standard error, or a function that is called
                with a :class:`Progress`.

        Raises:
            ImportError: A bar is wanted, and tqdm is missing.
            TypeError: An argument has the wrong type.
            ValueError: ``max_memory`` is not a positive size.
        """
        limit = check_memory("max_memory", max_memory)
        if progress is False:
            return QUIET if limit is None else cls(limit)
        if progress is True:
            return cls(limit, _bars())
        if not callable(progress):
            raise TypeError(
                "progress must be True, False or a function of one argument, got "
                f"{type(progress).__name__}: {shown(progress)}"
            )
        report: Report = progress
        return cls(limit, lambda stage, total: nullcontext(report))

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        """Within the ``with``, counts and reports the samples of a stage that are done.

        Reports at the beginning, then at most ten times a second, and at the end; an exception ends
        the reports.

        Args:
            name: Name of the stage.
            total: Number of samples of the stage.

        Yields:
            A function that is called with the number of samples done since the last call.
        """
        if self._shown is None:
            yield _ignore
            return
        with self._shown(name, total) as report:
            counter = _Counter(name, total, report)
            yield counter.advance
            counter.finish()

    def less(self, num_bytes: int, what: str, instead: str) -> Work:
        """The same with less memory: what is left beside ``num_bytes`` that are held meanwhile.

        Args:
            num_bytes: Bytes that a part of the work allocates.
            what: That part; the subject of the message.
            instead: What the user can do instead; the end of the message.

        Raises:
            MemoryError: ``max_memory`` allows fewer bytes.
        """
        if self.max_memory is None:
            return self
        if num_bytes > self.max_memory:
            needed, allowed = self._taken + num_bytes, self._taken + self.max_memory
            raise OverLimitError(
                f"{what} needs {in_words(needed)} ({needed} bytes) beyond the features and the "
                f"result, and max_memory allows {in_words(allowed)} ({allowed} bytes); {instead}"
            )
        return replace(self, max_memory=self.max_memory - num_bytes, _taken=self._taken + num_bytes)


QUIET: Final = Work()


def _ignore(num_done: int) -> None:
    """Counts nothing."""


class _Counter:
    """Counts the samples of a stage and reports them now and then."""

    def __init__(self, name: str, total: int, report: Report) -> None:
        self._name, self._total, self._report = name, total, report
        self._done = 0
        self._began = self._reported = time.perf_counter()
        report(Progress(name, 0, total, 0.0, None if total else 0.0))

    def advance(self, num_done: int) -> None:
        self._done = min(self._done + num_done, self._total)
        now = time.perf_counter()
        if self._done < self._total and now - self._reported >= _SECONDS_BETWEEN_REPORTS:
            self._reported = now
            seconds = now - self._began
            rest = self._total - self._done
            left = seconds * rest / self._done if self._done else None
            self._report(Progress(self._name, self._done, self._total, seconds, left))

    def finish(self) -> None:
        seconds = time.perf_counter() - self._began
        self._report(Progress(self._name, self._total, self._total, seconds, 0.0))


def _bars() -> _Shown:
    """Progress bars on standard error, one for each stage, which vanish when it ends."""
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError(
            'progress=True needs tqdm: pip install "mabm[demo]", or give a function'
        ) from error

    @contextmanager
    def bar(name: str, total: int) -> Iterator[Report]:
        # Reports are rare enough to draw each of them.
        with tqdm(
            total=total, desc=name, leave=False, dynamic_ncols=True, mininterval=0, miniters=0
        ) as shown_bar:

            def report(progress: Progress) -> Any:
                return shown_bar.update(progress.done - shown_bar.n)

            yield report

    return bar


def check_memory(name: str, value: object) -> int | None:
    """Returns a size in bytes from a number or from words, or ``None``.

    Units are B and k, M, G, T, each with or without ``B``, of 1000; with ``i``, as in ``"512MiB"``,
    of 1024; in any case.

    Raises:
        TypeError: It is neither an integer nor words.
        ValueError: It is not a positive size of at most 64 bits.

    Example:
        >>> from mabm._core.work import check_memory
        >>> check_memory("max_memory", "1.5 GiB"), check_memory("max_memory", "4GB")
        (1610612736, 4000000000)
    """
    if value is None:
        return None
    if not isinstance(value, str):
        if as_index(value) is None:
            raise TypeError(
                f"{name} must be {_SIZE_CONTRACT}, got {type(value).__name__}: {shown(value)}"
            )
        return check_integer(name, value, at_least=1)
    match = _SIZE.fullmatch(value.strip().lower())
    if match is None:
        raise ValueError(f"{name} must be {_SIZE_CONTRACT}, got {shown(value)}")
    number, unit = match[1], match[2] or ""
    size = math.floor(Fraction(number) * _UNITS[unit])
    if not 1 <= size < 2**63:
        raise ValueError(f"{name} must be in [1, 2**63) bytes, got {shown(value)}")
    return size


def in_words(num_bytes: int) -> str:
    """A size for messages, such as ``1.5 GiB``."""
    size, units = float(num_bytes), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.4g} {units[0]}"
