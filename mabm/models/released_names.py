"""Maps tensor names in released checkpoints to those of :class:`AgwResNet50`.

AGW (Ye et al., TPAMI 2021) saves a network of three full ResNet-50s, ``visible_module``,
``thermal_module`` and ``base_resnet``, and runs a part of each. CAJ, ADCA, PGM, BMIL and others use
the same names. With non-local blocks it is :class:`AgwResNet50`; ADCA's release has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

MODEL: Final = "agw-resnet50"
"""The encoder of such checkpoints."""

_NETWORKS: Final = ("visible_module.visible.", "thermal_module.thermal.", "base_resnet.base.")

# Prefixes of released names, and ours. "NL_2.1" is the second block in layer 2; ours count from 0.
# "g" is a sequence of one convolution, or in some code bases the convolution itself.
_OURS: Final = (
    (r"visible_module\.visible\.(conv1|bn1)\.", r"stems.0.\1."),
    (r"thermal_module\.thermal\.(conv1|bn1)\.", r"stems.1.\1."),
    (r"base_resnet\.base\.(layer[1-4])\.", r"\1."),
    (r"bottleneck\.", r"neck."),
    *(
        (rf"NL_{layer}\.(\d+)\.{theirs}\.", rf"non_local.{layer - 1}.\1.{ours}.")
        for layer in (1, 2, 3, 4)
        for theirs, ours in (
            (r"theta", "theta"),
            (r"phi", "phi"),
            (r"g(?:\.0)?", "g"),
            (r"W\.0", "out"),
            (r"W\.1", "norm"),
        )
    ),
)

REASONS: Final = {
    "visible_module": "layers of its ResNet that never run",
    "thermal_module": "layers of its ResNet that never run",
    "base_resnet": "the stem of its ResNet, which never runs",
    "classifier": "of the training identities",
    "non_local": "a network without them; new blocks change nothing",
}
"""Why such a checkpoint has unused tensors, or lacks some, by the first part of their names."""


def is_released(names: Iterable[str]) -> bool:
    """Whether tensors have the names of a released checkpoint.

    Example:
        >>> from mabm.models.released_names import is_released
        >>> is_released(["base_resnet.base.layer1.0.conv1.weight", "bottleneck.weight"])
        True
    """
    return any(name.startswith(_NETWORKS) for name in names)


def by_our_names(names: Iterable[str]) -> dict[str, str]:
    """The released name of each of our tensors; unused and unknown names are left out.

    Raises:
        ValueError: If two names stand for the same tensor.

    Example:
        >>> from mabm.models.released_names import by_our_names
        >>> by_our_names(["NL_3.0.W.1.bias", "classifier.weight"])
        {'non_local.2.0.norm.bias': 'NL_3.0.W.1.bias'}
    """
    found: dict[str, str] = {}
    for name in names:
        ours = _translated(name)
        if ours is None:
            continue
        if ours in found:
            raise ValueError(f"weights must contain {ours} once, got {found[ours]} and {name}")
        found[ours] = name
    return found


def _translated(name: str) -> str | None:
    for theirs, ours in _OURS:
        translated, count = re.subn(f"^{theirs}", ours, name)
        if count:
            return translated
    return None
