"""Labels -> prototypes -> memories -> losses, and the sampler that draws batches for them.

The public names are those of :mod:`mabm`.
"""
