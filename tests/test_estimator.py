"""The scikit-learn estimator behaves as scikit-learn's own."""

import numpy as np
import pytest
import sklearn
import torch
from devices import Device
from golden_files import GOLDEN
from sklearn.base import clone
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
