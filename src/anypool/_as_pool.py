"""`anypool.Pool`: a `multiprocessing.Pool` on any backend, with an executor of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anypool._as_pool_view import PoolView
from anypool._executor import get_executor
from anypool.errors import Unsupported

__all__ = ["Pool"]


class Pool(PoolView):
    """A `multiprocessing.Pool` on any backend, started.

    All that a `multiprocessing.Pool` has, and nothing of what its processes are: no ``__main__`` guard, lambdas and
    closures can be sent, and a worker that dies fails its own call instead of leaving the pool waiting.

    Parameters
    ----------
    processes : int, optional
        How many calls run at once, >= 1. Default: what the CPU budget allows (`available_cpus`).
    initializer : callable, optional
        ``initializer(*initargs)`` is run once on each worker, before its first call.
    initargs : tuple
        Its arguments.
    maxtasksperchild : None
        Only None: no backend replaces workers by age.
    context : multiprocessing context, optional
        Its start method becomes the option `start_method` of the backend.
    backend : str, mapping, Backend or backend class, optional
        As for `get_executor`.
    **options
        Options of the backend, and settings, as for `get_executor`.

    Raises
    ------
    ConfigError
        The choice cannot be carried out as written; also a `ValueError`, as in the standard library.
    Unsupported
        `maxtasksperchild` is given.

    Examples
    --------
    >>> import anypool
    >>> with anypool.Pool(processes=2, backend="serial") as pool:
    ...     pool.map(abs, [-1, -2, -3])
    [1, 2, 3]
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        maxtasksperchild: None = None,
        context: Any = None,
        *,
        backend: Any = None,
        **options: Any,
    ) -> None:
        if maxtasksperchild is not None:
            raise Unsupported(
                f"maxtasksperchild={maxtasksperchild!r}: no backend replaces a worker after so many calls; "
                "leave it out, and free memory in the function"
            )
        if context is not None:
            options["start_method"] = context.get_start_method()
        if initializer is not None:
            options |= {"initializer": initializer, "initargs": tuple(initargs)}
        super().__init__(get_executor(backend, max_workers=processes, **options), owned=True)
