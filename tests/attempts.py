"""What another program on the machine may spoil, measured up to three times."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["least_of_three"]


def least_of_three(measure: Callable[[], float], enough: float) -> float:
    """The first of up to three measurements that is less than `enough`, else the least.

    A busy machine is slow at times; a program that is wrong is so each time.
    """
    least = float("inf")
    for _ in range(3):
        least = min(least, measure())
        if least < enough:
            break
    return least
