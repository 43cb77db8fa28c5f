"""Figures of a cell: seconds, ratios within rounds and peak memory, from what was recorded."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from plan import Cell

STAGES = ("ranking", "neighbors", "encoding and expansion", "graph", "DBSCAN")
"""Stages of the library, as ``routes.by_stages`` names them."""


@dataclass(frozen=True)
class Spread:
    """Median, least and most of some values."""

    median: float
    least: float
    most: float

    @staticmethod
    def of(values: Iterable[float]) -> "Spread":
        """Of at least one value."""
        each = list(values)
        return Spread(statistics.median(each), min(each), max(each))

    def text(self, scale: float = 1.0) -> str:
        """Median (least to most), or the median alone if all are equal to the eye."""
        middle, *ends = (digits(scale * x) for x in (self.median, self.least, self.most))
        return middle if ends[0] == ends[1] else f"{middle} ({ends[0]} to {ends[1]})"


def digits(value: float) -> str:
    """A positive number with two or three significant digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


@dataclass(frozen=True)
class Found:
    """What was measured of a cell: its rounds, each with a record of every route."""

    cell: Cell
    rounds: list[dict[str, Any]]
    labels: dict[str, Any]

    @staticmethod
    def of(cell: Cell, figures: dict[str, Any]) -> "Found | None":
        """The figures of a cell, or ``None`` if it is not measured."""
        found = figures["cells"].get(cell.name)
        return Found(cell, found["rounds"], found["labels"]) if found and found["rounds"] else None

    def _with(self, *routes: str) -> list[dict[str, Any]]:
        return [each for each in self.rounds if all("seconds" in each.get(r, {}) for r in routes)]

    def has(self, *routes: str) -> bool:
        """Whether some round has all of these routes."""
        return bool(self._with(*routes))

    def seconds(self, *routes: str) -> Spread:
        """Seconds of these routes one after the other."""
        return Spread.of(_total(each, routes) for each in self._with(*routes))

    def ratio(self, routes: tuple[str, ...], to: tuple[str, ...]) -> Spread:
        """Seconds of some routes relative to others, within rounds."""
        rounds = self._with(*routes, *to)
        return Spread.of(_total(each, routes) / _total(each, to) for each in rounds)

    def gigabytes(self, *routes: str) -> Spread:
        """Peak memory beyond the features of these routes, the greatest of them."""
        rounds = self._with(*routes)
        return Spread.of(max(each[r]["peak"] for r in routes) / 1e9 for each in rounds)

    def step(self, route: str, name: str) -> Spread:
        """Seconds of one step of a route."""
        return Spread.of(each[route]["seconds"][name] for each in self._with(route))

    def failed(self) -> dict[str, str]:
        """Why routes failed, by their names."""
        records = [item for each in self.rounds for item in each.items()]
        return {route: record["failed"] for route, record in records if "failed" in record}

    def log(self, route: str) -> list[str]:
        """Lines that the library's ranking logged in the first round."""
        lines: list[str] = self._with(route)[0][route]["log"]
        return lines


def _total(each: dict[str, Any], routes: Iterable[str]) -> float:
    return sum(sum(each[route]["seconds"].values()) for route in routes)


def exponent(sizes: list[int], values: list[float]) -> float:
    """The exponent p of values that grow as N^p, by least squares of logarithms; NaN with zeros."""
    if min(values) <= 0:
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])
