"""Memories: prototypes that follow the batches, by explicit updates. One file for each memory.

Losses read ``memory.prototypes``. Only ``memory.update`` changes it, never a backward pass. An
update replaces the tensor instead of writing to it, so that a later backward pass still sees the
prototypes of its own forward pass.

An update ignores rows of features that are not finite, as it ignores noise: without a message and
without waiting for the device. The loss of such features is NaN and makes the problem visible.
"""
