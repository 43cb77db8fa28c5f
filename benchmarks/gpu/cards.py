"""How fast GPUs are, by NVIDIA's data sheets and white papers; for predictions only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from work import Work

KINDS = {
    "bytes": "memory, TB/s",
    "cached bytes": "cache of the card (L2), TB/s",
    "int8": "products of int8, TOPS",
    "float16": "products of float16, TFLOPS",
    "float64 products": "products of float64, TFLOPS",
    "float64": "instructions of float64, 10¹²/s",
    "conversions": "conversions to float64, 10¹²/s",
    "shared": "words of shared memory, 10¹²/s",
    "atomics": "atomic additions in shared memory, 10¹²/s",
    "scalar": "other instructions, 10¹²/s",
}
"""Kinds of work, with the unit of their rate, in 10¹² a second."""

# The part of a peak rate that is assumed: products of large matrices reach about 600 of 990 TFLOPS
# in float16 on an H100, copies about nine tenths of the memory's rate.
_PRODUCT_SHARE = 0.6
_MEMORY_SHARE = 0.9
# Bytes of L2 that a multiprocessor reads in a clock; 5,120 for 108 of them by the A100's paper.
_CACHE_BYTES = 40
# Per multiprocessor and clock: words of shared memory, one a bank; other instructions, one a core;
# additions in shared memory, assumed to meet in a bank as often as not.
_WORDS, _INSTRUCTIONS, _ADDITIONS = 32, 128, 16
# Instructions of float64 per multiprocessor and clock: below, digits are multiplied instead, as by
# the compute capabilities in mabm/distance/whole_products.py.
_SLOW_BELOW = 32
# Assumed: a launch of a kernel of the library, and a call of PyTorch, with the host's part.
_KERNEL_SECONDS, _CALL_SECONDS = 3e-6, 5e-6
# A wait: what the host needs to see a number and to fill the queue of the device again.
_WAIT_SECONDS = 10e-6


@dataclass(frozen=True)
class Device:
    """A GPU by its data sheet.

    Attributes:
        name: As in the tables.
        word: What the name that CUDA has for it contains.
        memory: Bytes of memory.
        bandwidth: Bytes of memory a second.
        cache: Bytes of L2.
        processors: Multiprocessors.
        clock: Clocks a second under load.
        int8: Operations a second of dense products.
        float16: The same with float32 sums.
        float64_products: The same in float64.
        wide: Instructions of float64, per multiprocessor and clock (CUDA C++ programming guide).
        conversions: Conversions from float32 to float64, likewise.
    """

    name: str
    word: str
    memory: float
    bandwidth: float
    cache: float
    processors: int
    clock: float
    int8: float
    float16: float
    float64_products: float
    wide: int
    conversions: int

    def rates(self, ceilings: Mapping[str, float]) -> dict[str, float]:
        """Rates by kind, a second; measured ceilings come before those of the data sheet."""
        each = self.processors * self.clock
        return {
            "bytes": ceilings.get("copy", self.bandwidth * _MEMORY_SHARE),
            "cached bytes": each * _CACHE_BYTES,
            "int8": ceilings.get("int8", self.int8 * _PRODUCT_SHARE),
            "float16": ceilings.get("float16", self.float16 * _PRODUCT_SHARE),
            "float64 products": ceilings.get("float64", self.float64_products * _PRODUCT_SHARE),
            "float64": each * self.wide,
            "conversions": each * self.conversions,
            "shared": each * _WORDS,
            "atomics": each * _ADDITIONS,
            "scalar": each * _INSTRUCTIONS,
        }

    @property
    def slow_float64(self) -> bool:
        """Whether products of whole numbers are taken in digits of 8 bits."""
        return self.wide < _SLOW_BELOW

    @staticmethod
    def launch_seconds(work: Work) -> float:
        """The time of launches and waits."""
        launches = work.launches * _KERNEL_SECONDS + work.calls * _CALL_SECONDS
        return launches + work.waits * _WAIT_SECONDS


DEVICES = (
    Device("H100 SXM", "H100", 80e9, 3.35e12, 50e6, 132, 1.7e9, 1979e12, 990e12, 67e12, 64, 16),
    Device("H200", "H200", 141e9, 4.8e12, 50e6, 132, 1.7e9, 1979e12, 990e12, 67e12, 64, 16),
    Device("A100 80GB", "A100", 80e9, 2.04e12, 40e6, 108, 1.41e9, 624e12, 312e12, 19.5e12, 32, 16),
    Device("RTX 3090", "RTX 3090", 24e9, 0.936e12, 6e6, 82, 1.7e9, 284e12, 71e12, 5.6e11, 2, 2),
    Device("RTX 4090", "RTX 4090", 24e9, 1.008e12, 72e6, 128, 2.5e9, 661e12, 165e12, 1.3e12, 2, 2),
)


def device_of(name: str) -> Device | None:
    """The device of a name that CUDA gives, or ``None`` if it is not among those here."""
    found = [device for device in DEVICES if device.word in name]
    return found[0] if found else None
