"""emcee and dynesty: samplers that take a pool."""

from __future__ import annotations

import pickle

import numpy as np
from client_libraries import library

emcee = library("emcee")
dynesty = library("dynesty")


def log_probability(theta):
    return -0.5 * float(np.sum(theta**2))


def prior(cube):
    return 10.0 * cube - 5.0


class OneByOne:
    """The pool that every other one must agree with."""

    size = 2

    def map(self, fn, items):
        return list(map(fn, items))


def chain(pool):
    start = np.random.default_rng(0).normal(size=(8, 2))
    np.random.seed(1)
    sampler = emcee.EnsembleSampler(8, 2, log_probability, pool=pool)
    sampler.run_mcmc(start, 20)
    pickle.loads(pickle.dumps(sampler))
    return sampler.get_chain()


def test_emcee_with_an_executor_and_with_its_pool(executor):
    expected = chain(None)
    np.testing.assert_array_equal(chain(executor), expected)
    np.testing.assert_array_equal(chain(executor.as_pool()), expected)


def nested(pool):
    sampler = dynesty.NestedSampler(
        log_probability, prior, 2, nlive=40, pool=pool, queue_size=2, rstate=np.random.default_rng(1)
    )
    sampler.run_nested(dlogz=2.0, print_progress=False)
    return sampler.results


def test_dynesty(executor):
    expected = nested(OneByOne())
    for pool in (executor, executor.as_pool()):
        found = nested(pool)
        np.testing.assert_array_equal(found.samples, expected.samples)
        assert found.logz[-1] == expected.logz[-1]


def test_dynesty_learns_the_size_of_the_pool(executor):
    sampler = dynesty.NestedSampler(
        log_probability, prior, 2, nlive=40, pool=executor.as_pool(), rstate=np.random.default_rng(1)
    )
    assert sampler.queue_size == executor.max_workers
