"""Where the workers of a local Dask cluster are forked from: a process that has imported distributed, once for all.

Importing distributed takes most of a second of a CPU, and an interpreter that did takes as long again to end: each
worker, and each that takes the place of a lost one. So the cluster's process forks while it is still of one thread, and
the fork serves as multiprocessing's fork server, by that module's own code. Its forks begin where it is, and end
without the end of an interpreter.

multiprocessing would start its server as an interpreter of its own, which imports from another `sys.path`.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import signal
import socket
import sys
from multiprocessing import connection, forkserver, get_start_method, util
from typing import Any, NoReturn

__all__ = ["ENVIRONMENT", "begin_as_fork", "exit_now", "start_fork_server"]

ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""What distributed sets before it starts a worker (`distributed.nanny.pre-spawn-environ`), unless it is set already.

It has to be there before NumPy is imported, and for malloc even before the interpreter is.
"""

_LONGEST_ADDRESS = 100
"""Bytes of the name of a socket; some systems take a few more."""

# What else a worker imports when it starts, and for its first call.
_WORKERS_IMPORT = ("tornado.platform.asyncio", "anypool.backends._dask_worker", "anypool._worker")

_SERVER: Any = forkserver._forkserver
_ATTRIBUTES = ("_forkserver_address", "_forkserver_alive_fd", "_forkserver_pid")


def start_fork_server(*, folder: str, keeps_from: int) -> bool:
    """Fork the server off, where that can be done; return whether it was. distributed is imported then.

    Parameters
    ----------
    folder : str
        Where its socket is, which nobody else may reach: whoever connects to it can run code.
    keeps_from : int
        A descriptor of this process that the other end must not see open in any other.
    """
    import dask
    import distributed

    for name in _WORKERS_IMPORT:
        importlib.import_module(name)
    distributed.versions.get_versions()  # which each tells the scheduler; they are remembered
    for name, value in dask.config.get("distributed.nanny.pre-spawn-environ").items():
        if value is not None:
            os.environ.setdefault(name, str(value))
    # macOS has libraries that do not stand a fork.
    if sys.platform != "linux" or len(os.listdir("/proc/self/task")) > 1:
        return False
    if not all(hasattr(_SERVER, name) for name in _ATTRIBUTES):  # another Python has it otherwise
        return False
    with socket.socket(socket.AF_UNIX) as listener:
        address = os.path.join(folder, "fork-server")  # which is removed however all of this ends
        if len(os.fsencode(address)) > _LONGEST_ADDRESS:
            address = connection.arbitrary_address("AF_UNIX")  # type: ignore[attr-defined]
        listener.bind(address)
        listener.listen()
        alive_read, alive_write = os.pipe()
        gc.freeze()  # so that no fork copies what it only looks at
        pid = os.fork()
        if pid == 0:
            os.close(keeps_from)
            os.close(alive_write)
            _serve(listener.detach(), alive_read)
    os.close(alive_read)
    for name, value in zip(_ATTRIBUTES, (address, alive_write, pid), strict=True):
        setattr(_SERVER, name, value)
    # It would have its own server import more, and therefore import it here.
    distributed.utils._forkserver_preload_set = True
    dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
    return True


def _serve(listener: int, alive: int) -> NoReturn:
    """Fork workers until the cluster's process is gone; never return into the frames of that process."""
    try:
        forkserver.main(listener, alive, [])
    except SystemExit:
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def begin_as_fork() -> None:
    """Make a worker that was forked like one that was not. Does nothing in one that was not."""
    if get_start_method(allow_none=True) != "forkserver":
        return
    generators: Any = sys.modules.get("numpy.random")  # NumPy 1 imports it with itself
    if generators is not None:
        generators.seed()  # else all workers would draw the same numbers; `random` sees to that itself
    if sys.version_info < (3, 13):  # a fork ended without what was registered with `atexit`
        util.Finalize(None, atexit._run_exitfuncs, exitpriority=0)


def exit_now() -> NoReturn:
    """End this process without the end of an interpreter, and its fork server; all else that there was is closed."""
    atexit._run_exitfuncs()
    server = getattr(_SERVER, "_forkserver_pid", None)
    if server is not None:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
