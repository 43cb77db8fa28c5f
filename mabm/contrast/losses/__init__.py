"""Losses that contrast features with prototypes: pure functions, and a module for each.

One file per loss. A loss has no memory: prototypes come from a split
(:func:`mabm.split_prototypes`), from a memory (:mod:`mabm.contrast.memories`) or from elsewhere,
and may require a gradient. Features are normalized, prototypes are used unchanged, and a
target of -1 (noise) excludes its row from the mean. A batch that is all noise has loss 0 and a
gradient of zeros.

Similarities, softmax and loss are float32 even under autocast (float64 for float64 features). Call
backward outside autocast, as PyTorch recommends for every loss. No loss reads values back from a
GPU, so none synchronizes, and each compiles as one graph.

Features that are not finite, or whose length is not (numbers of 1.8e19 or more in float32), make
the loss NaN: a gradient scaler then skips the step, as intended.
"""
