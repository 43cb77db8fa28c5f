"""Features -> ranks -> neighbors -> encoding -> Jaccard distance, dense or as a graph.

==================  ==============================================================================
file                content
==================  ==============================================================================
``presets``         the published distances as configurations of one pipeline
``options``         a preset, its list lengths and a precision as one record
``centering``       each modality's mean removed first, if that is wanted
``ranking``         exact neighbor lists (``candidates`` and ``products`` make them fast)
``approximate``     neighbor lists from an approximate search, with their recall
``search``          the protocol of such a search; adapters of faiss, cuVS and certex
``neighbors``       k-reciprocal neighbor sets
``encoding``        neighbor sets as weighted rows, and query expansion over them
``rows``            the ragged rows that stages pass to each other
``jaccard``         the distance itself, dense or pruned to a graph; all stages in one call
``graph``           the sparse distance that clusterers take
``reranking``       the distance between queries and a gallery
==================  ==============================================================================

The public names are those of :mod:`mabm`.
"""
