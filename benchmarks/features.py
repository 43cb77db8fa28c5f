"""Features for benchmarks, of the density that trained re-identification features have."""

import torch
from torch import Tensor


def make_features(
    count: int, dim: int, seed: int = 0, device: str | torch.device = "cpu"
) -> tuple[Tensor, Tensor]:
    """Draws unit features (N, D) and their modality (N,), visible rows first.

    Forty images an identity from six cameras, 65 % visible, with a gap between the modalities and
    64 effective dimensions. At N = 8,000 and the defaults of ``mabm.jaccard_graph`` a row has about
    4,000 others at J < 1 and 25 at J <= 0.6; on trained features 3,500 and 16 were counted.
    """
    latent = 64
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    modality = (torch.arange(count, device=device) >= round(0.65 * count)).to(torch.int64)
    identities = max(count // 40, 1)
    identity = torch.randint(identities, (count,), generator=generator, device=device)
    camera = torch.randint(3, (count,), generator=generator, device=device) + 3 * modality
    hidden = normal(identities, latent)[identity] + 0.8 * normal(2, latent)[modality]
    hidden += 0.5 * normal(6, latent)[camera] + 1.1 * normal(count, latent)
    features = hidden @ normal(latent, dim) / latent**0.5 + 0.3 * normal(count, dim)
    return torch.nn.functional.normalize(features, dim=1), modality
