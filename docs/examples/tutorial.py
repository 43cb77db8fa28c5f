"""
Tutorial: from images to a training step
========================================

Images of two modalities become features, features become clusters, clusters become prototypes, and
prototypes train the encoder. Everything runs on a CPU in about half a minute. The images are
drawings, not photographs: color emoji play the visible camera, monochrome ones the infrared camera.
"""

import matplotlib.pyplot as plt
import torch

import mabm
from mabm import data, models
from mabm.cluster import quality

# %%
# Images
# ------
#
# Emoji-XM ships with mabm. Here are 20 identities, about ten images of each in each modality. The
# identities are for the pictures and scores on this page; training never reads them.

frames = data.render_identities(data.identity_splits().unlabeled[:20])
images, modality = torch.from_numpy(frames.images), torch.from_numpy(frames.modality)
identity = torch.from_numpy(frames.identity)
print(f"{len(images)} images of {tuple(images.shape[1:])}: {(modality == 0).sum()} visible")


def show(rows, titles):
    """Shows images, a row of the picture for each list."""
    width = max(map(len, rows))
    axes = plt.subplots(
        len(rows), width, figsize=(0.7 * width, 0.95 * len(rows)), squeeze=False, layout="tight"
    )[1]
    for line, members, title in zip(axes, rows, titles, strict=True):
        for axis in line:
            axis.axis("off")
        for axis, member in zip(line, members, strict=False):
            axis.imshow(frames.images[member].transpose(1, 2, 0))
        line[0].set_title(title, loc="left", fontsize=8)
    plt.show()


first = torch.nonzero(identity == identity[0]).flatten()
show(
    [first[modality[first] == 0][:10], first[modality[first] == 1][:10]],
    ["visible", "infrared"],
)

# %%
# Images to features
# ------------------
#
# An encoder turns each image into a vector. The one that ships has learned to tell other emoji
# apart and has never seen a pair across modalities. Your own encoder serves as well: all that
# follows takes an (N, D) tensor.

encoder = models.load_pretrained()
features = models.extract(encoder, images, modality)
print(features.shape)

# %%
# Features to labels
# ------------------
#
# :func:`mabm.pseudo_labels` clusters the samples by their modality-aware Jaccard distance: two
# samples are near if their nearest neighbors, *taken from each modality*, are the same. Clusters
# are numbered from 0; -1 is noise. :doc:`choosing` shows how eps, k1 and k2 are chosen without
# labels.

found = mabm.pseudo_labels(features, modality, eps=0.5, k1=24, k2=3)
print(found.summary())
pairs = quality.cross_modality_pairs(found.labels, identity, modality)
print(f"pairs across modalities: precision {pairs.precision:.2f}, recall {pairs.recall:.2f}")

# %%
# Some of the largest clusters, visible images first:

largest = torch.bincount(found.labels[found.labels >= 0]).argsort(descending=True)[:3]
members = [torch.nonzero(found.labels == cluster).flatten() for cluster in largest]
members = [rows[modality[rows].argsort(stable=True)] for rows in members]
show(
    [rows[torch.linspace(0, len(rows) - 1, min(len(rows), 14)).long()] for rows in members],
    [
        f"cluster {cluster}: {len(rows)} images"
        for cluster, rows in zip(largest, members, strict=True)
    ],
)

# %%
# Labels to prototypes
# --------------------
#
# A prototype is the mean of the features of a cluster. Each cluster is split: one prototype for its
# visible samples and one for its infrared ones. Training pulls a sample to *both*, which is how it
# learns to match across modalities.

split = mabm.split_prototypes(features, found)
print(split.summary())

# %%
# Prototypes to a memory
# ----------------------
#
# The encoder changes with each step, so prototypes must follow. A memory keeps them and moves them
# toward the features of each batch. A hybrid memory keeps two: the mean, and the hardest sample.

memory = mabm.HybridMemory(split, momentum=0.1)
print(memory)

# %%
# Batches to steps
# ----------------
#
# A batch has some images of each of its clusters: here all clusters, so that losses can be compared
# from step to step. The loss compares every image with all prototypes: those of its own cluster, in
# either modality, should be the most similar ones. Noise (target -1) is never drawn.

sampler = mabm.IdentityBatchSampler(
    found, num_identities=found.num_clusters, num_instances=4, num_batches=8, seed=0
)
optimizer = torch.optim.Adam((p for p in encoder.parameters() if p.requires_grad), lr=3.5e-4)
encoder.train()
losses = []
for batch in sampler:
    output, targets = encoder(images[batch], modality[batch]), split.targets[batch]
    loss = mabm.split_contrast_loss(output, targets, memory)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    memory.update(output, targets)
    losses.append(loss.item())
encoder.eval()
print(" ".join(f"{loss:.2f}" for loss in losses))

figure, axes = plt.subplots(figsize=(5, 2.6), layout="constrained")
axes.plot(range(1, len(losses) + 1), losses, "o-")
axes.set(xlabel="step", ylabel="loss", ylim=(0, None))
plt.show()

# %%
# Around again
# ------------
#
# The next epoch extracts features with the better encoder and clusters them again.

features = models.extract(encoder, images, modality)
again = mabm.pseudo_labels(features, modality, eps=0.5, k1=24, k2=3)
pairs_again = quality.cross_modality_pairs(again.labels, identity, modality)
print(again)
print(
    f"pairs across modalities: precision {pairs.precision:.2f} -> {pairs_again.precision:.2f}, "
    f"recall {pairs.recall:.2f} -> {pairs_again.recall:.2f}"
)

# %%
# That is the whole method, except for augmentation and a first stage within each modality.
# ``mabm train`` runs all of it (:doc:`/guide/training`), and :doc:`/guide/own_loop` puts these
# steps into a loop of your own.
