"""Graph -> labels: clusters of all samples, how good they are, and clusters of new samples.

The public names are those of :mod:`mabm`; measures of clusters are in :mod:`mabm.cluster.quality`.
"""

from mabm.cluster import quality as quality
