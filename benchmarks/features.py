"""Features for benchmarks: as dense as trained re-identification features, and kinds that are not.

The same seed gives the same features. Apart from the result, memory is bounded by a block of rows
and by what describes each sample in few dimensions.
"""

from collections.abc import Callable

import torch
from torch import Tensor

KINDS = {
    "usual": "as trained features are, rows in any order",
    "sorted": "the same with the images of each identity side by side",
    "dense": "ten times as many images per identity, so that each has more near neighbors",
    "clear": "identities that are far apart, with little noise",
    "decaying": "clusters whose singular values decay as 1 / j, in a random rotation",
    "heavy-tailed": "squared ReLU of the usual ones: few large entries, many zeros",
    "noise": "pure noise, without identities or modalities",
}
"""Kinds of features, by name."""

_ROWS_AT_ONCE = 1 << 19
_BYTES_AT_ONCE = 1 << 29  # of a block whose rows are drawn in all dimensions

_LATENT = 64  # effective dimensions, but for decaying features and noise
# Deviations of modalities, cameras and single images, beside that of identities, which is 1.
_USUAL = (0.8, 0.5, 1.1)
_CLEAR = (0.3, 0.2, 0.3)
# With singular values 1, 1/2, 1/3, ... few dimensions matter, in which identities are closer.
_DECAYING = (0.15, 0.1, 0.2)


def make_features(
    count: int, dim: int, seed: int = 0, device: str | torch.device = "cpu", kind: str = "usual"
) -> tuple[Tensor, Tensor]:
    """Draws unit features (N, D) and their modality (N,), visible rows first.

    Forty images an identity from six cameras, 65 % visible, with a gap between the modalities and
    64 effective dimensions. At N = 8,000 and the defaults of ``mabm.jaccard_graph`` a row has about
    4,000 others at J < 1 and 25 at J <= 0.6; on trained features 3,500 and 16 were counted. This is
    the kind ``"usual"``; ``KINDS`` describes the others.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    modality = (torch.arange(count, device=device) >= round(0.65 * count)).to(torch.int64)
    identities = max(count // (400 if kind == "dense" else 40), 1)
    identity = torch.randint(identities, (count,), generator=generator, device=device)
    if kind == "sorted":
        identity = (modality * identities + identity).sort().values - modality * identities
    camera = torch.randint(3, (count,), generator=generator, device=device) + 3 * modality
    places = identity, modality, camera

    at_once = _ROWS_AT_ONCE
    if kind == "noise":
        at_once, rows_of = _rows_in(dim), lambda rows: normal(len(rows), dim)
    elif kind == "decaying":
        at_once, rows_of = _rows_in(dim), _decaying(normal, identities, dim, places)
    else:
        deviations = _CLEAR if kind == "clear" else _USUAL
        rows_of = _clustered(normal, identities, dim, places, deviations, kind == "heavy-tailed")
    features = torch.empty(count, dim, device=device)
    every_row = torch.arange(count, device=device)
    for rows, out in zip(every_row.split(at_once), features.split(at_once), strict=True):
        out.copy_(rows_of(rows))
        torch.nn.functional.normalize(out, dim=1, out=out)
    return features, modality


def _rows_in(dim: int) -> int:
    return max(_BYTES_AT_ONCE // (4 * dim), 1)


Normal = Callable[..., Tensor]
"""Draws of a normal distribution, of a shape."""
Places = tuple[Tensor, Tensor, Tensor]
"""Identity, modality and camera (N,) of each sample."""
Rows = Callable[[Tensor], Tensor]
"""Features (R, D) of samples (R,), to be asked for in order; not normalized."""


def _clustered(
    normal: Normal,
    identities: int,
    dim: int,
    places: Places,
    deviations: tuple[float, float, float],
    squares: bool,
) -> Rows:
    """Clusters in a few dimensions, seen through random directions, with noise in all of them."""
    identity, modality, camera = places
    gap, step, spread = deviations
    hidden = normal(identities, _LATENT)[identity] + gap * normal(2, _LATENT)[modality]
    hidden += step * normal(6, _LATENT)[camera] + spread * normal(len(identity), _LATENT)
    directions = normal(_LATENT, dim)

    def rows_of(rows: Tensor) -> Tensor:
        block = hidden[rows] @ directions / _LATENT**0.5 + 0.3 * normal(len(rows), dim)
        return block.relu_().square_() if squares else block

    return rows_of


def _decaying(normal: Normal, identities: int, dim: int, places: Places) -> Rows:
    """Clusters in all dimensions, the j-th scaled by 1 / j, in a random rotation."""
    identity, modality, camera = places
    gap, step, spread = _DECAYING
    of_identity, of_modality, of_camera = normal(identities, dim), normal(2, dim), normal(6, dim)
    rotation = torch.linalg.qr(normal(dim, dim)).Q
    turned = rotation / torch.arange(1, dim + 1, device=rotation.device)[:, None]

    def rows_of(rows: Tensor) -> Tensor:
        block = of_identity[identity[rows]] + gap * of_modality[modality[rows]]
        block += step * of_camera[camera[rows]]
        block += spread * normal(len(rows), dim)
        return block @ turned

    return rows_of
