"""
Choose eps and k1 without labels
================================

Clusters part of Emoji-XM with many radii and list lengths, as one would without labels, and then
looks at the identities to see how good the choice was. The images are drawings, not photographs.
The guide :doc:`/guide/choosing` explains the rules. ``python choosing.py picture.png`` also saves
the first picture.
"""

import sys
from functools import cache

import matplotlib.pyplot as plt
import numpy as np
import torch

import mabm
from mabm import data, models
from mabm.cluster import quality

# %%
# Features
# --------
#
# The encoder that ships with mabm has seen other emoji, and no pair across modalities.

num_identities = 60  # of 350, evenly spaced; all of them take a few minutes
known = data.identity_splits().unlabeled
chosen = known[np.linspace(0, len(known) - 1, num_identities).astype(int)]
frames = data.render_identities(chosen)
modality = torch.from_numpy(frames.modality)
encoder = models.load_pretrained()
features = models.extract(encoder, torch.from_numpy(frames.images), modality)
print(f"{len(features)} frames of {num_identities} identities")

# %%
# One graph, many radii
# ---------------------
#
# The graph up to 0.8 is computed once, and :meth:`mabm.NeighborGraph.sweep` clusters it for each
# eps. No identity is read here.

radii = [round(0.2 + 0.025 * step, 3) for step in range(23)]


@cache
def sweep(k1, k2=3, min_samples=4):
    graph = mabm.jaccard_graph(features, modality, max_distance=0.8, k1=k1, k2=k2)
    return graph, graph.sweep(radii, min_samples, modality)


def choose(entries):
    """The entry with the most clusters; of several, the one with the greatest eps."""
    return max(entries, key=lambda entry: (entry.num_clusters, entry.eps))


graph, entries = sweep(k1=24)
peak = choose(entries)
for entry in entries[::2]:
    print(
        f"eps {entry.eps:.2f}: {entry.num_clusters:3d} clusters, {entry.num_spanning:3d} spanning, "
        f"{entry.num_noise:4d} noise, largest {100 * entry.largest_share:5.1f} %"
    )
print(f"most clusters at eps {peak.eps:g}")

# %%
# The curves to look at
# ---------------------
#
# Left of the peak, clusters are fragments and most samples are noise. Right of it, clusters merge,
# until one contains nearly everything.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
left.plot(radii, [entry.num_clusters for entry in entries], label="clusters")
left.plot(radii, [entry.num_spanning for entry in entries], label="spanning both modalities")
left.set(xlabel="eps", ylabel="number")
right.plot(radii, [entry.num_noise / len(features) for entry in entries], label="noise")
right.plot(radii, [entry.largest_share for entry in entries], label="largest cluster")
right.set(xlabel="eps", ylabel="share of all samples")
for axes in (left, right):
    axes.axvline(peak.eps, color="gray", linestyle=":", label=f"most clusters: eps {peak.eps:g}")
    axes.legend(fontsize=8)
figure.suptitle("Without labels: k1 = 24, k2 = 3, min_samples = 4")
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=150)
plt.show()

# %%
# Sizes of the clusters, too small, chosen and too large an eps:

figure, axes = plt.subplots(1, 3, figsize=(9, 2.6), layout="constrained", sharey=True)
for axis, eps in zip(axes, (0.3, peak.eps, 0.65), strict=True):
    labels = graph.dbscan(eps)
    sizes = torch.bincount(labels[labels >= 0])
    axis.hist(sizes.numpy(), bins=range(0, 62, 2))
    axis.set(title=f"eps {eps:g}, largest {int(sizes.max())}", xlabel="samples of a cluster")
axes[0].set_ylabel("clusters")
plt.show()

# %%
# With labels: how good was it?
# -----------------------------
#
# Now the identities are read. F1 is that of the pairs that labels join across modalities.


def f1(graph, eps, min_samples=4):
    pairs = quality.cross_modality_pairs(
        graph.dbscan(eps, min_samples), frames.identity, frames.modality
    )
    both = pairs.precision + pairs.recall
    return 2 * pairs.precision * pairs.recall / both if both > 0 else 0.0


settings = [(6, 3, 4), (12, 3, 4), (24, 3, 4), (40, 3, 4), (60, 3, 4)]
settings += [(24, 1, 4), (24, 6, 4), (24, 3, 2), (24, 3, 8)]
print("k1  k2  min_samples    most clusters at    F1 there    best F1, at eps    share")
shares = []
for k1, k2, min_samples in settings:
    graph, entries = sweep(k1, k2, min_samples)
    eps = choose(entries).eps
    best = max(radii, key=lambda each: f1(graph, each, min_samples))
    reached, limit = f1(graph, eps, min_samples), f1(graph, best, min_samples)
    shares.append(reached / limit)
    print(
        f"{k1:2d} {k2:3d} {min_samples:12d} {eps:19.3f} {reached:11.3f} {limit:11.3f}, {best:.3f}"
        f" {100 * shares[-1]:7.0f} %"
    )
print(f"The rule reaches {100 * min(shares):.0f} to {100 * max(shares):.0f} % of the best F1.")

# %%
# Precision and recall against eps, for three list lengths. Dots mark the choice without labels.

figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for k1 in (12, 24, 60):
    graph, entries = sweep(k1)
    curve = axes[0].plot(radii, [f1(graph, eps) for eps in radii], label=f"k1 = {k1}")
    eps = choose(entries).eps
    axes[0].plot(eps, f1(graph, eps), "o", color=curve[0].get_color())
    axes[1].plot(radii, [entry.num_clusters for entry in entries], label=f"k1 = {k1}")
    axes[1].plot(eps, choose(entries).num_clusters, "o", color=curve[0].get_color())
axes[0].set(xlabel="eps", ylabel="F1 of pairs across modalities (needs labels)")
axes[1].set(xlabel="eps", ylabel="clusters (needs no labels)")
for axis in axes:
    axis.legend(fontsize=8)
plt.show()
