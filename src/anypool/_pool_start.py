"""Starting worker processes of the local pool, watching their ends, and the three start methods.

multiprocessing would import the caller's `__main__` in each worker and in its fork server, start a resource tracker
that outlives the pool, and leave a socket file while it runs. So workers are started here: by `subprocess`, or by a
zygote of our own over a socket pair, which has no address (see `_pool_child`).

==========  =======================================================================================================
forkserver  one zygote, started afresh, shared by all pools of the process with equal settings, gone with the last
spawn       each worker is a fresh interpreter; the only method on Windows
fork        the zygote is a fork of the caller, made once when the pool starts: workers have the caller's memory as
            it was then, also those that replace a lost one, and none is ever forked beside the pool's own threads
==========  =======================================================================================================
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from multiprocessing.process import current_process
from typing import Final, NoReturn

from anypool import _pool_child
from anypool._forks import no_forks
from anypool._pool_link import START, Link, Outgoing, encode, frame
from anypool._process_tree import KNOWS_CHILDREN, kill_started_by, kill_tree

__all__ = ["WORKER_THREAD_NAME", "Starter", "WorkerProcess", "forget_zygotes", "make_starter"]

WORKER_THREAD_NAME: Final = "anypool-worker"
"""How the names of the pool's own threads begin."""

_ZYGOTE_ENDS_WITHIN: Final = 10.0

_SPAWN_CODE: Final = (
    "import sys; sys.path[:] = {path!r}; from anypool._pool_child import spawned; spawned({descriptors}, {datagrams})"
)
_ZYGOTE_CODE: Final = (
    "import sys; sys.path[:] = {path!r}; from anypool._pool_child import run_zygote; run_zygote({fd}, {preload!r})"
)


class WorkerProcess(ABC):
    """A worker's process, as far as the pool needs it.

    Attributes
    ----------
    pid : int
        Its process id.
    end_fd : int or None
        A descriptor that can be read from once it has ended; None where the system has none.
    """

    pid: int
    end_fd: int | None = None

    @abstractmethod
    def wait(self, seconds: float) -> bool:
        """Wait for its end; return whether it has ended."""

    @property
    @abstractmethod
    def exitcode(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs, or where nobody can know."""

    @abstractmethod
    def signal(self, *, kill: bool) -> None:
        """End it: with what it started, by SIGKILL, if `kill`; else by SIGTERM. Does nothing if it has ended."""

    @abstractmethod
    def close(self) -> None:
        """Let go of its descriptors, after its end."""


class Starter(ABC):
    """Starts workers by one method."""

    @abstractmethod
    def start(self, link: Link, fault_fd: int) -> WorkerProcess:
        """Start a worker at the other end of `link`."""

    @abstractmethod
    def stop(self) -> None:
        """Let go of what the method needs besides workers. Called once, after the last of them."""


def make_starter(method: str, preload: Sequence[str], environment: Mapping[str, str]) -> Starter:
    """Return the starter for ``"forkserver"``, ``"spawn"`` or ``"fork"``.

    Raises
    ------
    ValueError
        There is no such method on this system.
    """
    if method == "spawn":
        return _Spawn(environment)
    if method not in ("forkserver", "fork") or sys.platform == "win32":
        raise ValueError(f"there is no start method {method!r} on {sys.platform}")
    if method == "forkserver":
        return _SharedZygote(tuple(preload), tuple(sorted(environment.items())))
    return _ForkedZygote()


def start_message(name: str, environment: Mapping[str, str]) -> Outgoing:
    """Return the first message to a worker: what makes its process like the caller's, as of now."""
    try:
        directory: str | None = os.getcwd()
    except FileNotFoundError:
        directory = None  # the caller's own was deleted; the worker stays where it is
    start = {
        "name": name,
        "environ": {**os.environ, **environment},
        "sys_path": _import_path(),
        "argv": list(sys.argv),
        "directory": directory,
        "authkey": bytes(current_process().authkey),
        "caller": os.getpid(),
    }
    return frame(0, START, encode(start))


def _tracker_fd() -> list[int]:
    """Return the resource tracker's descriptor, for the worker, if the caller has a use for the tracker.

    A worker that attaches to a `SharedMemory` of the caller registers it, before Python 3.13 without a choice. With a
    tracker of its own it would unlink the caller's memory when it ends. multiprocessing passes it down likewise.
    """
    tracker = sys.modules.get("multiprocessing.resource_tracker")
    return [] if tracker is None or sys.platform == "win32" else [tracker.getfd()]


def _import_path() -> list[str]:
    # An empty entry means the current directory, which for `python -c` programs comes first.
    return [entry or os.getcwd() for entry in sys.path]


def _interpreter(code: str) -> list[str]:
    # The flags of this interpreter (-W, -X, -I, ...), by the stdlib's own list, as multiprocessing does it.
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [sys.executable, *flags, "-c", code]


def _popen(code: str, fds: Sequence[int], environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    if sys.platform == "win32":
        import msvcrt

        handles = [msvcrt.get_osfhandle(fd) for fd in fds]
        for handle in handles:
            os.set_handle_inheritable(handle, True)
        startup = subprocess.STARTUPINFO(lpAttributeList={"handle_list": handles})
        return subprocess.Popen(_interpreter(code), stdin=subprocess.DEVNULL, env=dict(environ), startupinfo=startup)
    # The child begins with SIGINT blocked, until it ignores it: no Ctrl-C can hit it before.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with no_forks:
            return subprocess.Popen(_interpreter(code), stdin=subprocess.DEVNULL, env=dict(environ), pass_fds=fds)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Spawn(Starter):
    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def start(self, link: Link, fault_fd: int) -> WorkerProcess:
        fds = [*link.child_fds, fault_fd, *_tracker_fd()]
        names = fds
        if sys.platform == "win32":
            import msvcrt

            names = [msvcrt.get_osfhandle(fd) for fd in fds]
        code = _SPAWN_CODE.format(path=_import_path(), descriptors=names, datagrams=link.takes_back)
        return _Spawned(_popen(code, fds, {**os.environ, **self._environment}))

    def stop(self) -> None:
        """Nothing is held."""


class _Spawned(WorkerProcess):
    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self.pid = popen.pid
        if hasattr(os, "pidfd_open"):
            self.end_fd = os.pidfd_open(popen.pid)

    def wait(self, seconds: float) -> bool:
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    @property
    def exitcode(self) -> int | None:
        return self._popen.returncode

    def signal(self, *, kill: bool) -> None:
        # Popen holds a lock between its look for the end and the signal, so no other process can be hit.
        if kill:
            if KNOWS_CHILDREN:
                self._popen.send_signal(signal.SIGSTOP)
                if self._popen.returncode is None:
                    kill_started_by(self.pid)
            self._popen.kill()
        else:
            self._popen.terminate()

    def close(self) -> None:
        if self.end_fd is not None:
            os.close(self.end_fd)


class _Zygote:
    """The control socket of a zygote process."""

    def __init__(self, control: socket.socket, process: WorkerProcess) -> None:
        self.process = process
        self._control = control
        self._sending = threading.Lock()

    def fork(self, link: Link, fault_fd: int) -> _Forked:
        """Ask for a worker, wait until it exists.

        Raises
        ------
        OSError
            The zygote is gone.
        """
        status_read, status_write = os.pipe()
        try:
            with self._sending:
                fds = [status_write, *link.child_fds, fault_fd, *_tracker_fd()]
                socket.send_fds(self._control, [b"d" if link.takes_back else b"p"], fds)
        except OSError:
            os.close(status_read)
            raise
        finally:
            os.close(status_write)
        pid = _read_status(status_read)
        if pid is None:
            os.close(status_read)
            raise ConnectionResetError("the process that forks workers is gone")
        return _Forked(pid, status_read)

    def stop(self) -> None:
        self._control.close()
        if not self.process.wait(_ZYGOTE_ENDS_WITHIN):
            self.process.signal(kill=True)
            self.process.wait(_ZYGOTE_ENDS_WITHIN)
        self.process.close()

    def forget(self) -> None:
        """Close the copy that a forked child has: it would keep the zygote from seeing the caller's end."""
        self._control.close()


def _read_status(fd: int) -> int | None:
    data = os.read(fd, _pool_child.STATUS.size)  # written at once: less than PIPE_BUF
    return _pool_child.STATUS.unpack(data)[0] if data else None


class _Forked(WorkerProcess):
    """A child of a zygote, which reports its end on a pipe."""

    def __init__(self, pid: int, status_fd: int) -> None:
        self.pid = pid
        self.end_fd = self._status_fd = status_fd
        self._exitcode: int | None = None
        self._ended = False
        self._lock = threading.Lock()

    def wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not self._look(max(0.0, deadline - time.monotonic())):
            if time.monotonic() >= deadline:
                return False
        return True

    def _look(self, seconds: float) -> bool:
        if self._ended:
            return True
        poll = select.poll()
        poll.register(self._status_fd, select.POLLIN)
        if not poll.poll(seconds * 1000):
            return False
        with self._lock:
            if not self._ended:
                self._exitcode = _read_status(self._status_fd)
                # Without a status the zygote is gone, and the system reaps the worker: look for it by its pid.
                self._ended = self._exitcode is not None or not _exists(self.pid)
            ended = self._ended
        if not ended:
            time.sleep(min(seconds, 0.01))
        return ended

    @property
    def exitcode(self) -> int | None:
        return self._exitcode

    def signal(self, *, kill: bool) -> None:
        if not self._look(0.0):
            try:
                kill_tree(self.pid) if kill else os.kill(self.pid, signal.SIGTERM)
            except ProcessLookupError:
                return  # it has just ended

    def close(self) -> None:
        self._ended = True  # whatever it is: nothing more will be heard, and the pid may be another's
        os.close(self._status_fd)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class _ForkedZygote(Starter):
    """The start method "fork"."""

    def __init__(self) -> None:
        _warn_of_threads()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()  # or each worker would write what is buffered, once more
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, from 3.12 on: ours has said more
            pid = os.fork()
        if pid == 0:
            _be_zygote(theirs, ours)
        theirs.close()
        self._zygote = _Zygote(ours, _Child(pid))
        _zygotes.append(self._zygote)

    def start(self, link: Link, fault_fd: int) -> WorkerProcess:
        return self._zygote.fork(link, fault_fd)

    def stop(self) -> None:
        _zygotes.remove(self._zygote)
        self._zygote.stop()


class _Child(WorkerProcess):
    """A forked child of this very process: the zygote of the start method "fork"."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._exitcode: int | None = None

    def wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self._exitcode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = self.pid, 255 << 8  # somebody in the caller reaped all children
            if pid:
                self._exitcode = os.waitstatus_to_exitcode(status)
            elif time.monotonic() >= deadline:
                return False
            else:
                time.sleep(0.001)  # there is no wait with a limit; `subprocess` does it so, too
        return True

    @property
    def exitcode(self) -> int | None:
        return self._exitcode

    def signal(self, *, kill: bool) -> None:
        if self._exitcode is None:
            os.kill(self.pid, signal.SIGKILL if kill else signal.SIGTERM)

    def close(self) -> None:
        """Nothing is held."""


def _warn_of_threads() -> None:
    others = [
        thread.name
        for thread in threading.enumerate()
        if thread is not threading.current_thread() and not thread.name.startswith(WORKER_THREAD_NAME)
    ]
    if others:
        warnings.warn(
            f"start_method='fork' while other threads run ({', '.join(others[:3])}): a lock that one of them holds "
            "stays locked for ever in the workers; use 'forkserver'",
            RuntimeWarning,
            stacklevel=5,
        )


def _be_zygote(control: socket.socket, callers_end: socket.socket) -> NoReturn:
    """Serve in the forked copy of the caller; never return into its frames."""
    code = 1
    try:
        callers_end.close()
        _forget_the_caller()
        _pool_child.fork_workers(control)
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _forget_the_caller() -> None:
    """Drop what belongs to the caller's process and not to a copy of it."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115, it stays for good
    atexit._clear()
    # As multiprocessing does it in its own children; else a worker's end would terminate the caller's daemons.
    process = sys.modules["multiprocessing.process"]
    process._children = set()  # type: ignore[attr-defined]
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util._finalizer_registry.clear()
        util._run_after_forkers()
        atexit.register(util._exit_function)


class _SharedZygote(Starter):
    """The start method "forkserver": a lease on the zygote that all pools with these settings share."""

    def __init__(self, preload: tuple[str, ...], environment: tuple[tuple[str, str], ...]) -> None:
        self._key = (preload, environment)
        with _leases_lock:
            _leases[self._key] = _leases.get(self._key, 0) + 1

    def start(self, link: Link, fault_fd: int) -> WorkerProcess:
        zygote = self._running()
        try:
            return zygote.fork(link, fault_fd)
        except OSError:
            self._discard(zygote)
            return self._running().fork(link, fault_fd)

    def _running(self) -> _Zygote:
        with _leases_lock:
            zygote = _shared.get(self._key)
            if zygote is None:
                zygote = _shared[self._key] = _start_zygote(*self._key)
                _zygotes.append(zygote)
            return zygote

    def _discard(self, zygote: _Zygote) -> None:
        with _leases_lock:
            if _shared.get(self._key) is not zygote:
                return
            del _shared[self._key]
            _zygotes.remove(zygote)
        zygote.stop()

    def stop(self) -> None:
        with _leases_lock:
            _leases[self._key] -= 1
            if _leases[self._key]:
                return
            del _leases[self._key]
            zygote = _shared.pop(self._key, None)
            if zygote is not None:
                _zygotes.remove(zygote)
        if zygote is not None:
            zygote.stop()


def _start_zygote(preload: tuple[str, ...], environment: tuple[tuple[str, str], ...]) -> _Zygote:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        code = _ZYGOTE_CODE.format(path=_import_path(), fd=theirs.fileno(), preload=list(preload))
        popen = _popen(code, [theirs.fileno()], {**os.environ, **dict(environment)})
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return _Zygote(ours, _Spawned(popen))


# State of the process, as it must be: one zygote serves all pools with the same settings, so that a second pool
# starts in milliseconds; and a forked child must find every control socket to close its copy.
_leases_lock = threading.Lock()
_leases: dict[tuple[tuple[str, ...], tuple[tuple[str, str], ...]], int] = {}
_shared: dict[tuple[tuple[str, ...], tuple[tuple[str, str], ...]], _Zygote] = {}
_zygotes: list[_Zygote] = []


def forget_zygotes() -> None:
    """Let a forked child of this process begin without the zygotes of its parent."""
    global _leases_lock
    _leases_lock = threading.Lock()  # a thread that is not here may have held it
    for zygote in _zygotes:
        zygote.forget()
    _leases.clear()
    _shared.clear()
    _zygotes.clear()
