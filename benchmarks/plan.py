"""What ``speed_page.py`` measures: cells of a table, each with its routes and rounds."""

import argparse
from dataclasses import dataclass

from features import KINDS

PARTS = {
    "equality": "all routes on a small input",
    "main": "all routes, modality-aware",
    "classic": "some routes, classic, on half of the samples",
    "small": "all routes on a quarter of the samples, and faiss's Panorama index",
    "kinds": "other kinds of features",
    "scaling": "stages at several sizes",
    "step": "a step of training",
}
"""Parts of the measurement, by name."""

PRODUCTS = ("torch", "NumPy", "faiss")
"""Rankings by the product of all pairs."""


@dataclass(frozen=True)
class Cell:
    """Routes that are measured side by side on the same features."""

    part: str
    kind: str
    preset: str
    samples: int
    dim: int
    rounds: int
    every_round: tuple[str, ...]
    first_round: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What is measured, in one line."""
        size = f"N = {self.samples}, D = {self.dim}"
        return f"{self.part}: {self.kind}, {self.preset}, {size}"


@dataclass(frozen=True)
class Plan:
    """All cells, the kinds of features whose results are compared first, and a training step."""

    cells: tuple[Cell, ...]
    compared: tuple[str, ...]
    threads: int
    step: dict[str, int]

    @staticmethod
    def of(options: argparse.Namespace) -> "Plan":
        """The cells that the command's options ask for."""
        shape = (options.samples, options.dim)
        half, quarter = ((options.samples // part, options.dim) for part in (2, 4))
        ours, follows = ("mabm", "ranking"), ("sparse", "dense")
        every, few = (*ours, *PRODUCTS), ("mabm", "torch", "faiss")
        usual = [
            Cell("main", "usual", "bmil", *shape, options.rounds, every, follows),
            Cell("classic", "usual", "spcl", *half, options.rounds, few, follows),
            Cell("small", "usual", "bmil", *quarter, options.rounds, every, (*follows, "Panorama")),
        ]
        of_kind = ("mabm", *PRODUCTS)
        kinds = [
            Cell("kinds", kind, "bmil", *shape, options.kind_rounds, of_kind, ("sparse",))
            for kind in options.kinds
        ]
        scaling = [
            Cell("scaling", "usual", "bmil", size, options.sizes_dim, 1, ("stages",))
            for size in options.sizes
        ]
        step = {"threads": options.threads}
        return Plan((*usual, *kinds, *scaling), tuple(KINDS), options.threads, step)

    @staticmethod
    def quick(threads: int) -> "Plan":
        """Every part, on little."""
        sizes = argparse.Namespace(samples=800, dim=64, rounds=1, kind_rounds=1, threads=threads)
        sizes.kinds, sizes.sizes, sizes.sizes_dim = ["noise"], [400, 800, 1600], 32
        plan = Plan.of(sizes)
        step = {"threads": threads, "batch": 32, "dim": 64, "clusters": 20, "rounds": 2}
        return Plan(plan.cells, ("usual",), threads, step)

    def part(self, name: str) -> list[Cell]:
        """Cells of one part."""
        return [cell for cell in self.cells if cell.part == name]
