"""Features -> ranks -> neighbors -> encoding -> Jaccard distance, dense or as a graph.

==================  ==============================================================================
file                what it holds
==================  ==============================================================================
``presets``         the published distances as choices of one pipeline
``options``         a preset, its list lengths and a precision as one record
``centering``       each modality's mean removed first, if that is wanted
``ranking``         exact neighbor lists (``candidates`` and ``products`` make them fast)
``neighbors``       k-reciprocal neighbor sets
``encoding``        neighbor sets as weighted rows, and query expansion over them
``rows``            the two kinds of ragged rows that the stages hand on
``jaccard``         the distance itself, dense or pruned to a graph; the whole chain in one call
``graph``           the sparse distance that clusterers take
``reranking``       the distance between queries and a gallery
==================  ==============================================================================

The public names are those of :mod:`mabm`.
"""
