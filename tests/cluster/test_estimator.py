"""The scikit-learn estimator behaves as scikit-learn's own."""

import numpy as np
import pytest
import sklearn
import torch
from devices import Device
from golden_files import GOLDEN
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import ParameterGrid
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer

import mabm

golden = GOLDEN[0]
expected = mabm.pseudo_labels(golden.features, golden.modality).labels


def test_fit_predict_gives_the_labels() -> None:
    estimator = mabm.ModalityDBSCAN()
    found = estimator.fit_predict(golden.features, modality=golden.modality)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(estimator.labels_, expected)
    assert estimator.labels_.dtype == np.int64
    assert estimator.n_features_in_ == golden.features.shape[1]


def test_fit_returns_itself_and_takes_tensors(device: Device) -> None:
    estimator = mabm.ModalityDBSCAN()
    features = device.put(torch.from_numpy(golden.features))
    modality = device.put(torch.from_numpy(golden.modality))
    assert estimator.fit(features, modality=modality) is estimator
    assert isinstance(estimator.labels_, np.ndarray)
    np.testing.assert_array_equal(estimator.labels_, expected)


def test_lists_of_floats_are_features() -> None:
    rows = [[1.0, 0.0]] * 5 + [[0.0, 1.0]] * 5
    assert mabm.ModalityDBSCAN(k1=5, k2=1).fit_predict(rows).tolist() == [0] * 5 + [1] * 5


def test_clone_and_parameters() -> None:
    estimator = mabm.ModalityDBSCAN(
        0.4, min_samples=3, k1=20, k2=4, preset="spcl", precision="fast"
    )
    assert clone(estimator).get_params() == estimator.get_params()
    assert clone(estimator).set_params(eps=0.5).eps == 0.5
    labels = [
        clone(estimator).set_params(**parameters).fit_predict(golden.features)
        for parameters in ParameterGrid({"eps": [0.2, 0.6]})
    ]
    assert len(labels) == 2
    assert (labels[0] != labels[1]).any()


def test_in_a_pipeline_by_step_name() -> None:
    pipeline = Pipeline([("unit", Normalizer()), ("cluster", mabm.ModalityDBSCAN())])
    found = pipeline.fit_predict(golden.features, cluster__modality=golden.modality)
    np.testing.assert_array_equal(found, expected)


def test_in_a_pipeline_by_metadata_routing() -> None:
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = mabm.ModalityDBSCAN().set_fit_request(modality=True)
        pipeline = make_pipeline(Normalizer(), estimator)
        pipeline.fit(golden.features, modality=golden.modality)
        np.testing.assert_array_equal(pipeline[-1].labels_, expected)


def test_bad_parameters_are_refused_by_fit() -> None:
    estimator = mabm.ModalityDBSCAN(eps=2.0)
    with pytest.raises(ValueError, match=r"eps must be in \[0, 1\), got 2.0"):
        estimator.fit(golden.features)
    estimator.set_params(eps=0.5, precision="half")
    with pytest.raises(ValueError, match=r"precision must be one of .* got 'half'"):
        estimator.fit(golden.features)
    assert not hasattr(estimator, "labels_")


def test_core_samples_are_those_of_scikit_learn() -> None:
    from sklearn.cluster import DBSCAN

    dense = mabm.modality_jaccard(golden.features, golden.modality)
    theirs = DBSCAN(eps=0.6, min_samples=4, metric="precomputed").fit(dense)
    ours = mabm.ModalityDBSCAN().fit(golden.features, modality=golden.modality)
    np.testing.assert_array_equal(ours.core_sample_indices_, theirs.core_sample_indices_)
    assert ours.core_sample_indices_.dtype == theirs.core_sample_indices_.dtype


def test_predict_is_that_of_the_function(device: Device) -> None:
    features = device.put(torch.from_numpy(golden.features))
    modality = device.put(torch.from_numpy(golden.modality))
    old, new = slice(0, -40), slice(-40, None)
    estimator = mabm.ModalityDBSCAN(0.5, min_samples=3, k1=20, k2=4)
    estimator.fit(features[old], modality=modality[old])
    options = {"eps": 0.5, "k1": 20, "k2": 4}
    found = mabm.pseudo_labels(features[old], modality[old], min_samples=3, **options)
    predicted = mabm.predict_labels(features[new], modality[new], features[old], found, **options)
    assert (predicted >= 0).any()
    for given in (features[new], golden.features[new], golden.features[new].tolist()):
        labels = estimator.predict(given, modality=modality[new])
        assert isinstance(labels, np.ndarray)
        np.testing.assert_array_equal(labels, device.get(predicted))


def test_predict_in_pipelines() -> None:
    old, new = slice(0, -40), slice(-40, None)
    features, modality = golden.features, golden.modality
    expected_labels = (
        mabm.ModalityDBSCAN()
        .fit(features[old], modality=modality[old])
        .predict(features[new], modality[new])
    )
    pipeline = Pipeline([("cluster", mabm.ModalityDBSCAN())])
    pipeline.fit(features[old], cluster__modality=modality[old])
    predicted = pipeline.predict(features[new], modality=modality[new])
    np.testing.assert_array_equal(predicted, expected_labels)
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = mabm.ModalityDBSCAN().set_fit_request(modality=True)
        pipeline = make_pipeline(estimator.set_predict_request(modality=True))
        pipeline.fit(features[old], modality=modality[old])
        predicted = pipeline.predict(features[new], modality=modality[new])
        np.testing.assert_array_equal(predicted, expected_labels)


def test_predict_asks_for_fit_and_for_as_many_columns() -> None:
    with pytest.raises(NotFittedError, match="ModalityDBSCAN"):
        mabm.ModalityDBSCAN().predict(golden.features)
    estimator = mabm.ModalityDBSCAN().fit(golden.features, modality=golden.modality)
    with pytest.raises(ValueError, match=r"X must have \d+ columns, as in fit, got 3"):
        estimator.predict(np.ones((2, 3), dtype=np.float32), modality=[0, 1])
