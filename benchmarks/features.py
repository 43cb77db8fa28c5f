"""Features for benchmarks, as dense as trained re-identification features."""

import torch
from torch import Tensor

KINDS = {
    "usual": "as trained features are, rows in any order",
    "sorted": "the same with the images of each identity side by side",
    "dense": "ten times as many images per identity, so that each has more near neighbors",
}
"""Kinds of features, by name."""

_ROWS_AT_ONCE = 1 << 19


def make_features(
    count: int, dim: int, seed: int = 0, device: str | torch.device = "cpu", kind: str = "usual"
) -> tuple[Tensor, Tensor]:
    """Draws unit features (N, D) and their modality (N,), visible rows first.

    Forty images an identity from six cameras, 65 % visible, with a gap between the modalities and
    64 effective dimensions. At N = 8,000 and the defaults of ``mabm.jaccard_graph`` a row has about
    4,000 others at J < 1 and 25 at J <= 0.6; on trained features 3,500 and 16 were counted. This is
    the kind ``"usual"``; ``KINDS`` describes the others.
    """
    latent = 64
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    modality = (torch.arange(count, device=device) >= round(0.65 * count)).to(torch.int64)
    identities = max(count // (400 if kind == "dense" else 40), 1)
    identity = torch.randint(identities, (count,), generator=generator, device=device)
    if kind == "sorted":
        identity = (modality * identities + identity).sort().values - modality * identities
    camera = torch.randint(3, (count,), generator=generator, device=device) + 3 * modality
    hidden = normal(identities, latent)[identity] + 0.8 * normal(2, latent)[modality]
    hidden += 0.5 * normal(6, latent)[camera] + 1.1 * normal(count, latent)
    spread = normal(latent, dim)
    features = torch.empty(count, dim, device=device)
    for rows, out in zip(hidden.split(_ROWS_AT_ONCE), features.split(_ROWS_AT_ONCE), strict=True):
        out.copy_(rows @ spread / latent**0.5 + 0.3 * normal(len(rows), dim))
        torch.nn.functional.normalize(out, dim=1, out=out)
    return features, modality
