"""scipy, pymoo, DEAP, nevergrad and optuna: optimizers that evaluate many points."""

from __future__ import annotations

import copy
import pickle
import random

import numpy as np
import pytest
from client_libraries import library

import anypool

library("scipy.optimize")
library("pymoo.core.problem")
library("deap")
nevergrad = library("nevergrad")
optuna = library("optuna")
from deap import algorithms, base, creator, tools  # noqa: E402
from pymoo.algorithms.moo.nsga2 import NSGA2  # noqa: E402
from pymoo.core.problem import ElementwiseProblem  # noqa: E402
from pymoo.optimize import minimize  # noqa: E402
from pymoo.parallelization.starmap import StarmapParallelization  # noqa: E402
from scipy.integrate import quad_vec  # noqa: E402
from scipy.optimize import brute, differential_evolution  # noqa: E402


def bowl(x):
    return float(np.sum((np.asarray(x) - 0.5) ** 2))


def test_scipy(executor):
    def solve(workers):
        return differential_evolution(
            bowl, [(-2, 2)] * 3, workers=workers, updating="deferred", seed=1, maxiter=5, popsize=5
        ).x

    np.testing.assert_array_equal(solve(executor.map), solve(map))


def test_whatever_of_scipy_takes_a_map(executor):
    def search(workers):
        return brute(bowl, [slice(-2, 2, 0.5)] * 2, workers=workers, finish=None)

    np.testing.assert_array_equal(search(executor.map), search(1))
    assert quad_vec(np.sin, 0, 1, workers=executor.map)[0] == quad_vec(np.sin, 0, 1)[0]


class Curve(ElementwiseProblem):
    def __init__(self, **options):
        super().__init__(n_var=2, n_obj=2, xl=-2.0, xu=2.0, **options)

    def _evaluate(self, x, out, *args, **kwargs):
        out["F"] = [float(np.sum(x**2)), bowl(x)]


def evolve(problem):
    return minimize(problem, NSGA2(pop_size=12), ("n_gen", 3), seed=1).F


def test_pymoo(executor):
    expected = evolve(Curve())
    problem = Curve(elementwise_runner=executor.as_runner())
    np.testing.assert_array_equal(evolve(problem), expected)
    np.testing.assert_array_equal(evolve(copy.deepcopy(problem)), expected)
    starmap = StarmapParallelization(executor.as_pool().starmap)
    np.testing.assert_array_equal(evolve(Curve(elementwise_runner=starmap)), expected)


def test_a_runner_of_pymoo_travels_as_its_specification(executor):
    copied = pickle.loads(pickle.dumps(executor.as_runner()))
    with copied._executor:
        assert copied(bowl, [[0.5], [1.5]]) == [0.0, 1.0]


def make_classes():
    """DEAP's classes live in a module that is filled when the program runs: each worker needs them, too."""
    if not hasattr(creator, "Individual"):
        creator.create("Fitness", base.Fitness, weights=(-1.0,))
        creator.create("Individual", list, fitness=creator.Fitness)


def evaluate(individual):
    return (bowl(individual),)


def population(parallel_map):
    make_classes()
    random.seed(1)
    toolbox = base.Toolbox()
    toolbox.register("individual", tools.initRepeat, creator.Individual, random.random, n=3)
    toolbox.register("evaluate", evaluate)
    toolbox.register("mate", tools.cxTwoPoint)
    toolbox.register("mutate", tools.mutGaussian, mu=0, sigma=0.3, indpb=0.5)
    toolbox.register("select", tools.selTournament, tournsize=3)
    toolbox.register("map", parallel_map)
    start = tools.initRepeat(list, toolbox.individual, n=12)
    found, _ = algorithms.eaSimple(start, toolbox, cxpb=0.5, mutpb=0.5, ngen=3, verbose=False)
    return [list(each) for each in found]


@pytest.mark.parametrize("backend", ["processes", "threads"])
def test_deap(backend):
    expected = population(map)
    with anypool.get_executor(backend, max_workers=2, initializer=make_classes) as ex:
        assert population(ex.map) == expected


def test_nevergrad(executor):
    def solve(executor):
        optimizer = nevergrad.optimizers.TwoPointsDE(parametrization=2, budget=24, num_workers=4)
        optimizer.parametrization.random_state = np.random.RandomState(1)
        return optimizer.minimize(bowl, executor=executor, batch_mode=True).value

    with anypool.get_executor("serial") as serial:
        np.testing.assert_array_equal(solve(executor), solve(serial))


def test_optuna(executor):
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def solve(parallel_map):
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=1))
        for _ in range(3):
            trials = [study.ask({"x": optuna.distributions.FloatDistribution(-2, 2)}) for _ in range(4)]
            values = parallel_map(bowl, [[trial.params["x"]] for trial in trials])
            for trial, value in zip(trials, values, strict=True):
                study.tell(trial, value)
        return study.best_params

    assert solve(executor.map) == solve(map)


def objective(trial):
    return bowl([trial.suggest_float("x", -2, 2)])


def test_optuna_with_a_study_in_a_file(executor, tmp_path):
    """Processes share a study by its storage; each call is a worker of the study."""
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "study")))
    study = optuna.create_study(storage=storage)
    list(executor.map(run_trials, [str(tmp_path / "study")] * 2, [study.study_name] * 2))
    assert len(optuna.load_study(study_name=study.study_name, storage=storage).trials) == 6


def run_trials(path, name):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(path))
    optuna.load_study(study_name=name, storage=storage).optimize(objective, n_trials=3)
