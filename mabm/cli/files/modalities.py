"""The modality of each sample, given as numbers or words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from mabm._core.tables import MODALITY_WORDS, known_modality, modality_number

_MOST_GROUPS: Final = 4  # listed one by one in messages


@dataclass(frozen=True)
class Modality:
    """The modality of each sample.

    Attributes:
        numbers: (N,) int64.
        names: Name of each number, if the file had words other than the known ones.
        words: (N,) the words in the file, if it had no numbers.
    """

    numbers: Tensor
    names: tuple[str, ...] | None = None
    words: tuple[str, ...] | None = None

    def in_words(self) -> str:
        """Number of samples per modality, or per word if the file had words."""
        if self.words is not None and len(set(self.words)) <= _MOST_GROUPS:
            counted = sorted(Counter(self.words).items())
            return ", ".join(f"{count} {word}" for word, count in counted)
        numbers, counts = torch.unique(self.numbers, return_counts=True)
        if len(numbers) > _MOST_GROUPS:
            return f"{len(numbers)} modalities"
        return ", ".join(
            f"{count} {self._name(number)}"
            for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)
        )

    def _name(self, number: int) -> str:
        if self.names is None or number >= len(self.names):
            return f"of modality {number}"
        return self.names[number]


def number_words(words: Sequence[str], where: Callable[[int], str]) -> Modality:
    """Numbers for words: fixed for known words and digits, in sorted order for others.

    Args:
        words: One per sample.
        where: Takes the index of a sample and returns its name in messages.

    Raises:
        ValueError: A number is not a valid modality, or numbers are mixed with unknown words.
    """
    numbers = [known_modality(word) for word in words]
    has_numbers = any(_is_number(word) for word in words)
    plain = tuple(word.strip() for word in words)
    if None not in numbers or has_numbers:
        numbers = [modality_number(word, where(row)) for row, word in enumerate(words)]
        column = torch.tensor(numbers, dtype=torch.int64)
        return Modality(column, words=None if has_numbers else plain)
    names = tuple(sorted(set(plain)))
    place = {name: number for number, name in enumerate(names)}
    return Modality(torch.tensor([place[word] for word in plain], dtype=torch.int64), names, plain)


def is_known(text: str) -> bool:
    """Whether a text is any number, valid or not, or one of ``MODALITY_WORDS``."""
    return _is_number(text) or text.strip().lower() in MODALITY_WORDS


def _is_number(text: str) -> bool:
    """Whether a text is any number, valid or not, or empty, and so cannot be a name."""
    try:
        float(text.strip() or "0")
    except ValueError:
        return False
    return True
