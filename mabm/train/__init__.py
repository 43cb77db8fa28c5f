"""Training: the two stages of the method, and the parts they are made of.

:func:`train` runs a whole configuration. Its steps are plain functions of tensors
(:mod:`mabm.train.steps`) that can be put into another order or into another loop.
"""
