"""Memories: prototypes that are updated explicitly with each batch. One file per memory.

Losses read ``memory.prototypes``. Only ``memory.update`` changes it, never a backward pass. An
update replaces the tensor instead of writing to it, so that a later backward pass still sees the
prototypes of its own forward pass.

An update silently ignores features that are not finite, like noise, without waiting for the device.
The loss of such features is NaN, which makes the problem visible.
"""
