"""Graph -> labels: clusters of all samples, their quality, and clusters of new samples.

==================  ==============================================================================
file                content
==================  ==============================================================================
``dbscan``          DBSCAN as an object, and the protocol of clusterers
``pseudo_labels``   from features to labels in one call, with statistics
``prediction``      labels of new samples
``association``     clusters within each modality, matched across modalities
``estimator``       the clustering as a scikit-learn estimator
``quality``         how well clusters agree with identities
==================  ==============================================================================

The public names are those of :mod:`mabm`; measures of clusters are in :mod:`mabm.cluster.quality`.
"""

from mabm.cluster import quality as quality
