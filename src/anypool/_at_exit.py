"""What still runs when the interpreter ends: it is finished then, before the libraries below take its pools away.

And what runs when the process forks: in the child nobody will ever answer, and who waits there is told so.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Protocol

__all__ = ["finish_at_exit", "forget", "remember"]


class Ends(Protocol):
    """What can be shut down."""

    def shutdown(
        self, *, wait: bool = True, cancel_futures: bool = False, stop_running: bool = False, abandon: bool = False
    ) -> None:
        """End it; see `Dispatcher.shutdown`."""
        ...

    def leave_forked_child(self) -> None:
        """Fail what waits for an answer, in a child that was forked just now."""
        ...


# The dispatchers that run: what nobody shut down finishes its calls before the interpreter ends, as in the stdlib.
_running: set[Ends] = set()
_running_lock = threading.RLock()
_seen: set[str] = set()
_minds_forks = False


def remember(each: Ends) -> None:
    """Finish `each` at the end of the interpreter, unless it is forgotten before."""
    global _minds_forks
    with _running_lock:
        _running.add(each)
        if not _minds_forks and hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_leave_forked_child)
        _minds_forks = True


def finish_at_exit(kind: str) -> None:
    """Have the dispatchers finished before the hooks of the library run that this kind of backend has loaded.

    The youngest hook runs first, and loky makes its own with the first call: so ours comes after that, once for
    each kind. The stdlib and loky end their pools by hooks of threading's, which run before all of atexit's:
    one of those would find the pool gone, with our queue still full.
    """
    with _running_lock:
        if kind in _seen:
            return
        _seen.add(kind)
    try:
        threading._register_atexit(_finish_all)  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):  # not in this interpreter; or it has begun to end
        import atexit

        atexit.register(_finish_all)


def forget(each: Ends) -> None:
    """`each` has ended."""
    with _running_lock:
        _running.discard(each)


def _finish_all() -> None:
    stop = _was_interrupted()
    for each in list(_running):
        try:
            each.shutdown(wait=True, cancel_futures=stop, stop_running=stop, abandon=stop)
        except Exception:  # nobody is left to raise it to, and the hooks after this one must run
            sys.excepthook(*sys.exc_info())


def _leave_forked_child() -> None:
    global _running_lock
    _running_lock = threading.RLock()  # another thread may have held it, and is not here to release it
    inherited = list(_running)
    _running.clear()
    for each in inherited:
        each.leave_forked_child()


def _was_interrupted() -> bool:
    """Whether the program ends because nobody handled Ctrl-C. In a dialogue the last error is long past."""
    last = getattr(sys, "last_type", None)
    return isinstance(last, type) and issubclass(last, KeyboardInterrupt) and not hasattr(sys, "ps1")
