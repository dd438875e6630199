"""scikit-learn through joblib: search, forests and scores, with loky's own pool beside."""

from __future__ import annotations

from collections.abc import Iterator

import joblib
import numpy as np
import pytest
from client_libraries import library

import anypool
from joblib_end import end_of_joblib

library("sklearn")
from sklearn.datasets import make_classification  # noqa: E402
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier  # noqa: E402
from sklearn.inspection import permutation_importance  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402

X, Y = make_classification(n_samples=120, n_features=6, random_state=0)


def search(n_jobs):
    return GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0, 10.0]}, cv=3, n_jobs=n_jobs).fit(X, Y)


class TestOnAnypool:
    @pytest.fixture(scope="class", params=["processes", "threads", "loky"])
    @classmethod
    def workers(cls, request: pytest.FixtureRequest) -> Iterator[str]:
        """The name of a backend whose workers stay from one test to the next: they import scikit-learn but once."""
        anypool.register_joblib()
        with joblib.parallel_config(backend="anypool", anypool_backend=request.param, max_workers=2):
            yield request.param
        anypool.close_idle()

    def test_grid_search(self, workers):
        serial, parallel = search(1), search(None)
        assert parallel.best_params_ == serial.best_params_
        np.testing.assert_array_equal(parallel.cv_results_["mean_test_score"], serial.cv_results_["mean_test_score"])

    def test_random_forest(self, workers):
        def fit(n_jobs):
            return RandomForestClassifier(n_estimators=12, random_state=0, n_jobs=n_jobs).fit(X, Y)

        serial, parallel = fit(1), fit(2)
        np.testing.assert_array_equal(parallel.feature_importances_, serial.feature_importances_)
        np.testing.assert_allclose(parallel.predict_proba(X), serial.predict_proba(X), rtol=1e-12)

    def test_permutation_importance_of_boosted_trees(self, workers):
        trees = HistGradientBoostingClassifier(max_iter=5, random_state=0).fit(X, Y)

        def importances(n_jobs):
            return permutation_importance(trees, X, Y, n_repeats=3, random_state=0, n_jobs=n_jobs).importances

        np.testing.assert_array_equal(importances(2), importances(1))

    def test_cross_val_score(self, workers):
        def score(n_jobs):
            return cross_val_score(LogisticRegression(), X, Y, cv=4, n_jobs=n_jobs)

        np.testing.assert_array_equal(score(2), score(1))

    def test_with_lokys_own_pool_beside(self, workers):
        from joblib.externals.loky import get_reusable_executor

        expected = search(1).cv_results_["mean_test_score"]
        try:
            for _ in range(2):
                with joblib.parallel_config(backend="loky"):
                    np.testing.assert_array_equal(search(2).cv_results_["mean_test_score"], expected)
                np.testing.assert_array_equal(search(2).cv_results_["mean_test_score"], expected)
        finally:
            get_reusable_executor().shutdown(wait=True)
            end_of_joblib()

    def test_the_error_of_an_estimator_is_its_own(self, workers):
        with pytest.raises(ValueError, match="fits failed"):
            GridSearchCV(LogisticRegression(), {"C": [-1.0]}, cv=2, n_jobs=2, error_score=np.nan).fit(X, Y)
        with pytest.raises(ValueError, match="'C' parameter"):
            GridSearchCV(LogisticRegression(), {"C": [-1.0]}, cv=2, n_jobs=2, error_score="raise").fit(X, Y)


def test_random_forest_in_shared_memory():
    anypool.register_joblib()
    forest = RandomForestClassifier(n_estimators=12, random_state=0).fit(X, Y)
    expected = forest.predict_proba(X)
    with anypool.get_executor("threads", max_workers=2) as ex:
        with joblib.parallel_config(backend="anypool", anypool_backend=ex):
            forest.n_jobs = 2
            np.testing.assert_allclose(forest.predict_proba(X), expected, rtol=1e-12)
