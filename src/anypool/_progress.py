"""How far a map is, as plain data: what a progress callable gets."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Note", "Progress"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """What a running call said last, by `anypool.report`.

    Attributes
    ----------
    item : int
        The index of its item.
    text : str
        Its words.
    fraction : float or None
        How much of the call is done, 0 to 1.
    """

    item: int
    text: str
    fraction: float | None = None

    def __str__(self) -> str:
        percent = "" if self.fraction is None else f"{self.fraction:.0%}"
        return f"item {self.item}: {' '.join(part for part in (self.text, percent) if part)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a map is.

    Attributes
    ----------
    done : int
        Items whose calls have ended, by a result or by an error. It never falls.
    total : int or None
        How many there will be; None while the input has not said so.
    elapsed : float
        Seconds since the call of `map`.
    failed : int
        How many of `done` raised.
    notes : tuple of Note
        What the running calls said last, the newest first; at most sixteen of them.
    name : str
        The function's.
    is_over : bool
        The map has ended: with all of its items, with an error, or because nobody reads on.

    Examples
    --------
    >>> import anypool
    >>> seen = []
    >>> with anypool.get_executor("serial", progress=seen.append) as ex:
    ...     list(ex.map(abs, [-1, -2, -3]))
    [1, 2, 3]
    >>> seen[-1].done, seen[-1].total, seen[-1].is_over
    (3, 3, True)
    """

    done: int
    total: int | None
    elapsed: float
    failed: int = 0
    notes: tuple[Note, ...] = ()
    name: str = ""
    is_over: bool = False

    @property
    def left(self) -> float | None:
        """About how many seconds are left, from the mean until now; None while that is not known."""
        if not self.total or not self.done:
            return None
        return max(0, self.total - self.done) * self.elapsed / self.done
