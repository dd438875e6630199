"""adaptive: runners that submit calls and wait for the first to end."""

from __future__ import annotations

import asyncio

from client_libraries import library

adaptive = library("adaptive")


def peak(x):
    return x + 0.01 / (0.01 + x**2)


def learn(executor):
    learner = adaptive.Learner1D(peak, bounds=(-1.0, 1.0))
    adaptive.BlockingRunner(learner, npoints_goal=25, executor=executor, ntasks=1, shutdown_executor=False)
    return learner.data


def test_one_task_at_a_time_learns_what_the_sequential_runner_learns(executor):
    assert learn(executor) == learn(adaptive.runner.SequentialExecutor())


def test_all_workers_at_once(executor):
    learner = adaptive.Learner1D(peak, bounds=(-1.0, 1.0))
    adaptive.BlockingRunner(learner, npoints_goal=25, executor=executor, ntasks=executor.max_workers)
    assert len(learner.data) >= 25
    assert all(y == peak(x) for x, y in learner.data.items())


def test_the_asynchronous_runner(executor):
    async def main():
        learner = adaptive.Learner1D(peak, bounds=(-1.0, 1.0))
        runner = adaptive.AsyncRunner(learner, npoints_goal=25, executor=executor, ntasks=1, shutdown_executor=False)
        await runner.task
        return learner.data

    assert asyncio.run(main()) == learn(adaptive.runner.SequentialExecutor())
