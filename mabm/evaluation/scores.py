"""Scores of a search task: all trials, mean and deviation, as a table and as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mabm._core.saving import Saved
from mabm.distance.reranking import RerankOptions

FloatArray = npt.NDArray[np.float64]

_RANKS: Final = (1, 5, 10, 20)  # the ranks of a CMC that are commonly reported


@dataclass(frozen=True, eq=False)
class SearchScores(Saved):
    """Scores of one search task for each trial. All scores are in [0, 1]; arrays are read-only.

    Attributes:
        data: Name of the data set.
        task: Name of the task.
        trials: The T trials: seeds of the galleries that were drawn, or trials of the data set.
        cmc: (T, R) float64: ``cmc[t, r]`` is the share of queries with a match at rank r + 1 or
            before. If a gallery ends before rank R, its last value is repeated.
        mean_average_precision: (T,) float64, mAP.
        mean_inverse_negative_penalty: (T,) float64, mINP.
        num_queries: Number of queries with a match, for each trial; queries without one do not
            count.
        rerank: Options used for re-ranking, or ``None`` without re-ranking.

    Example:
        >>> from mabm import SearchScores
        >>> SearchScores("regdb", "visible-to-thermal", (1,), [[0.9]], [0.8], [0.7], (2060,))
        SearchScores(regdb visible-to-thermal: rank1 0.9000, mAP 0.8000, mINP 0.7000)
    """

    data: str
    task: str
    trials: tuple[int, ...]
    cmc: FloatArray
    mean_average_precision: FloatArray
    mean_inverse_negative_penalty: FloatArray
    num_queries: tuple[int, ...]
    rerank: RerankOptions | None = None

    def __post_init__(self) -> None:
        """Rejects different numbers of trials, and no trials."""
        count = len(self.trials)
        for name in ("cmc", "mean_average_precision", "mean_inverse_negative_penalty"):
            array = np.array(getattr(self, name), dtype=np.float64)
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        shapes = (
            self.cmc.shape[:1],
            self.mean_average_precision.shape,
            self.mean_inverse_negative_penalty.shape,
            (len(self.num_queries),),
        )
        if not count or self.cmc.ndim != 2 or not self.cmc.shape[1] or set(shapes) != {(count,)}:
            raise ValueError(
                f"cmc must be (T, R), the other scores (T,), with T >= 1 trials and R >= 1 ranks, "
                f"got {count} trials, cmc {self.cmc.shape} and scores {shapes[1:]}"
            )

    @property
    def mean(self) -> dict[str, float]:
        """Means over the trials: ``rank1``, ``rank5``, ... within the CMC, and mAP, mINP."""
        return {name: float(values.mean()) for name, values in self._columns().items()}

    @property
    def std(self) -> dict[str, float]:
        """Population standard deviations over the trials, with the same names as the means.

        The divisor is T, not T - 1: the trials of a protocol are the whole population. With one
        trial, the deviation is 0.
        """
        return {name: float(values.std()) for name, values in self._columns().items()}

    def _columns(self) -> dict[str, FloatArray]:
        ranks = {f"rank{r}": self.cmc[:, r - 1] for r in _RANKS if r <= self.cmc.shape[1]}
        return {
            **ranks,
            "mAP": self.mean_average_precision,
            "mINP": self.mean_inverse_negative_penalty,
        }

    @classmethod
    def combine(cls, scores: Iterable[SearchScores]) -> SearchScores:
        """Joins the trials of several results, such as those of a model for each trial.

        Args:
            scores: Results of one task, with the same re-ranking and no trial in common, in any
                order. CMCs are cut to the shortest.

        Returns:
            All trials in ascending order.

        Raises:
            ValueError: There is no result, the tasks or the re-ranking differ, or a trial occurs
                twice.

        Example:
            >>> from mabm import SearchScores
            >>> task = ("regdb", "visible-to-thermal")
            >>> one = SearchScores(*task, (1,), [[0.9]], [0.8], [0.7], (2060,))
            >>> two = SearchScores(*task, (2,), [[0.7]], [0.6], [0.5], (2060,))
            >>> both = SearchScores.combine([one, two])
            >>> round(both.mean["rank1"], 6), round(both.std["rank1"], 6)
            (0.8, 0.1)
        """
        parts = list(scores)
        if not parts:
            raise ValueError("scores must contain at least one result, got none")
        kinds = {(part.data, part.task, part.rerank) for part in parts}
        if len(kinds) > 1:
            words = sorted(
                f"{data} {task} {'not re-ranked' if rerank is None else rerank}"
                for data, task, rerank in kinds
            )
            raise ValueError(
                f"scores must be of one task, with the same re-ranking, got {', '.join(words)}"
            )
        trials = [trial for part in parts for trial in part.trials]
        if repeated := sorted({trial for trial in trials if trials.count(trial) > 1}):
            raise ValueError(f"scores must contain every trial once, got several of {repeated}")
        length = min(part.cmc.shape[1] for part in parts)
        order = np.argsort(trials)
        queries = [count for part in parts for count in part.num_queries]
        return cls(
            parts[0].data,
            parts[0].task,
            tuple(sorted(trials)),
            np.concatenate([part.cmc[:, :length] for part in parts])[order],
            np.concatenate([part.mean_average_precision for part in parts])[order],
            np.concatenate([part.mean_inverse_negative_penalty for part in parts])[order],
            tuple(queries[place] for place in order),
            parts[0].rerank,
        )

    def to_dict(self) -> dict[str, Any]:
        """The scores as plain Python values, for ``json.dumps``; :meth:`from_dict` reads them.

        Keys: ``data``, ``task``, ``rerank`` (options or ``None``), ``trials``, ``num_queries``,
        ``cmc``, ``mAP`` and ``mINP`` (lists over trials), ``mean`` and ``std`` (by score).
        """
        return {
            "data": self.data,
            "task": self.task,
            "rerank": None if self.rerank is None else asdict(self.rerank),
            "trials": list(self.trials),
            "num_queries": list(self.num_queries),
            "cmc": self.cmc.tolist(),
            "mAP": self.mean_average_precision.tolist(),
            "mINP": self.mean_inverse_negative_penalty.tolist(),
            "mean": self.mean,
            "std": self.std,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SearchScores:
        """Builds scores from what :meth:`to_dict` returns; mean and deviation are computed again.

        Args:
            values: Keys and values of :meth:`to_dict`.

        Raises:
            KeyError: A key is missing.
            ValueError: The numbers of trials differ.

        Example:
            >>> from mabm import SearchScores
            >>> scores = SearchScores("regdb", "task", (1,), [[0.9]], [0.8], [0.7], (2060,))
            >>> SearchScores.from_dict(scores.to_dict()).mean == scores.mean
            True
        """
        rerank = values["rerank"]
        return cls(
            values["data"],
            values["task"],
            tuple(values["trials"]),
            values["cmc"],
            values["mAP"],
            values["mINP"],
            tuple(values["num_queries"]),
            None if rerank is None else RerankOptions(**rerank),
        )

    def __repr__(self) -> str:
        trials = f", {len(self.trials)} trials" if len(self.trials) > 1 else ""
        means = ", ".join(f"{name} {self.mean[name]:.4f}" for name in ("rank1", "mAP", "mINP"))
        return f"SearchScores({self.data} {self.task}: {means}{trials})"

    def __str__(self) -> str:
        return format_search_scores([self])


def format_search_scores(scores: Iterable[SearchScores]) -> str:
    """Formats a table in percent, one line per result: mean, and ± deviation over several trials.

    Args:
        scores: Results of any tasks. A cell is empty if the CMC ends before that rank.

    Returns:
        Lines with aligned columns, without a final newline. The deviation is that of the population
        (:attr:`SearchScores.std`).

    Raises:
        ValueError: There is no result.

    Example:
        >>> from mabm import SearchScores
        >>> from mabm.evaluation import format_search_scores
        >>> scores = SearchScores("regdb", "visible-to-thermal", (1,), [[0.9]], [0.8], [0.7], (9,))
        >>> print(format_search_scores([scores]))
        task                      rank1    mAP   mINP  queries  trials
        regdb visible-to-thermal  90.00  80.00  70.00        9       1
    """
    rows = list(scores)
    if not rows:
        raise ValueError("scores must contain at least one result, got none")
    names = [name for name in (*(f"rank{r}" for r in _RANKS), "mAP", "mINP")
             if any(name in row.mean for row in rows)]  # fmt: skip
    table = [["task", *names, "queries", "trials"]]
    for row in rows:
        mean, std = row.mean, row.std
        cells = [
            f"{100 * mean[name]:.2f}" + (f" ± {100 * std[name]:.2f}" if len(row.trials) > 1 else "")
            if name in mean
            else ""
            for name in names
        ]
        reranked = "" if row.rerank is None else ", re-ranked"
        few, many = min(row.num_queries), max(row.num_queries)
        queries = str(many) if few == many else f"{few}-{many}"
        table.append([f"{row.data} {row.task}{reranked}", *cells, queries, str(len(row.trials))])
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    )
