"""Graph -> labels: clusters of all samples, how good they are, and clusters of new samples.

==================  ==============================================================================
file                what it holds
==================  ==============================================================================
``dbscan``          DBSCAN as an object, and what any clusterer of a graph must have
``pseudo_labels``   from features to labels in one call, with their statistics
``prediction``      labels of new samples
``association``     clusters of each modality alone, matched across modalities
``estimator``       the clustering as a scikit-learn estimator
``quality``         how well clusters agree with identities
==================  ==============================================================================

The public names are those of :mod:`mabm`; measures of clusters are in :mod:`mabm.cluster.quality`.
"""

from mabm.cluster import quality as quality
