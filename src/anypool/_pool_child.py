"""What runs in the processes of the local pool: the worker, and the zygote that forks workers.

::

    caller ──(1 byte + descriptors)──▶ zygote ──fork──▶ worker ──replies──▶ caller
                                          └──pid, exit status──▶ caller

The zygote is a small process without threads, so forking it is safe, and quick as `anypool._worker` is imported
already. It learns of the caller's end, however it comes, by the end of its control socket, and then ends its workers.
Neither the zygote nor a spawned worker imports the caller's `__main__`: functions defined there travel by value.
"""

from __future__ import annotations

import atexit
import faulthandler
import os
import pickle
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from types import FrameType
from typing import Any, Final, NoReturn

from anypool import _pool_link
from anypool._pool_link import Message, WorkerEnd, decode, encode
from anypool._trackers import leave_trackers

__all__ = ["STATUS", "fork_workers", "run_zygote", "spawned"]

STATUS: Final = struct.Struct("<q")
"""What the zygote writes on a worker's status pipe: first its pid, at its end its exit code."""

_GRACE_SECONDS: Final = 1.0
"""How long after the caller's death a worker may take to leave by itself, before it is ended."""

_MAXIMUM_CALLS: Final = 64
"""How many unpickled callables a worker keeps; in practice it sees one."""


def spawned(descriptors: Sequence[int], datagrams: bool) -> None:
    """Be a worker in a fresh interpreter. On Windows the descriptors are handles."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "win32":
        import msvcrt

        fds = [msvcrt.open_osfhandle(handle, 0) for handle in descriptors]
    else:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        fds = list(descriptors)
        for fd in fds:
            os.set_inheritable(fd, False)
    first, second, fault, *tracker = fds
    _use_tracker(tracker)
    _work(WorkerEnd(first, second, datagrams=datagrams), fault, _watch_caller)


def run_zygote(control_fd: int, preload: Sequence[str]) -> None:
    """Be the zygote in a fresh interpreter, until the caller stops it or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.set_inheritable(control_fd, False)
    for module in preload:
        import_module(module)
    with socket.socket(fileno=control_fd) as control:
        fork_workers(control)


def fork_workers(control: socket.socket) -> None:
    """Fork a worker for each request on `control`, report their ends, until it is closed; then end them."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, _do_nothing)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    status_fds: dict[int, int] = {}
    poll = select.poll()
    poll.register(wake_read, select.POLLIN)
    poll.register(control, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if wake_read in ready:
            _drain(wake_read)
            _report_ends(status_fds)
        if control.fileno() in ready:
            request, fds, _, _ = socket.recv_fds(control, 1, 8)
            if not request:
                break
            _fork_one(request == b"d", fds, status_fds, (control.fileno(), wake_read, wake_write))
    _end_all(status_fds)
    signal.set_wakeup_fd(-1)
    os.close(wake_read)
    os.close(wake_write)


def _fork_one(datagrams: bool, fds: list[int], status_fds: dict[int, int], ours: Sequence[int]) -> None:
    pid = os.fork()
    if pid == 0:
        _be_forked_worker(datagrams, fds, [*status_fds.values(), *ours])
    status_fd, *worker_fds = fds
    for fd in worker_fds:
        os.close(fd)
    status_fds[pid] = status_fd
    _write_status(status_fd, pid)


def _be_forked_worker(datagrams: bool, fds: list[int], close: list[int]) -> NoReturn:
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        status_fd, first, second, fault, *tracker = fds
        for fd in (*close, status_fd):
            os.close(fd)
        _use_tracker(tracker)
        _work(WorkerEnd(first, second, datagrams=datagrams), fault, _watch_nothing)
        _finish()
        code = 0
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else 1
    except BaseException:
        # The end of this process: nobody above could report it, the zygote's stack is not ours.
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _do_nothing(_signal: int, _frame: FrameType | None) -> None:
    """Handle SIGCHLD, so that it wakes the loop through the wakeup descriptor."""


def _drain(fd: int) -> None:
    try:
        while os.read(fd, 4096):
            continue
    except BlockingIOError:
        return


def _write_status(fd: int, number: int) -> None:
    try:
        os.write(fd, STATUS.pack(number))
    except BrokenPipeError:
        # The caller is gone; the end of the control socket comes next.
        return


def _report_ends(status_fds: dict[int, int]) -> None:
    while status_fds:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        fd = status_fds.pop(pid, None)
        if fd is not None:
            _write_status(fd, os.waitstatus_to_exitcode(status))
            os.close(fd)


def _end_all(status_fds: dict[int, int]) -> None:
    """End workers that are still there: the caller has died. Idle ones leave by themselves at once."""
    deadline = time.monotonic() + _GRACE_SECONDS
    while status_fds and time.monotonic() < deadline:
        _report_ends(status_fds)
        time.sleep(0.02)
    for pid in status_fds:
        os.kill(pid, signal.SIGKILL)
    for pid in list(status_fds):
        os.waitpid(pid, 0)
        os.close(status_fds.pop(pid))


def _work(end: WorkerEnd, fault: int, watch: Callable[[WorkerEnd, dict[str, Any]], None]) -> None:
    """Run tasks until the pool hangs up."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.enable(fault)
    message = end.take_start()
    if message is None:
        return
    start = decode(message.parts)
    _prepare(start)
    watch(end, start)
    if hasattr(os, "register_at_fork"):
        # A process that a call forks must neither hide this worker's end from the pool nor answer in its name.
        os.register_at_fork(after_in_child=end.close)
        os.register_at_fork(after_in_child=leave_trackers)
    if not _reply(end, 0, _pool_link.READY, encode(os.getpid())):
        return
    calls: dict[bytes, Callable[[Any], Any]] = {}
    while (task := end.take()) is not None:
        number = task.number
        kind, parts = _perform(task, calls)
        del task  # its buffers must not stay while this worker waits
        if not _reply(end, number, kind, parts):
            return
        del parts


def _reply(end: WorkerEnd, number: int, kind: int, parts: Sequence[Any]) -> bool:
    """Send a reply; False if the pool is gone, with its process, so that there is nobody to tell."""
    try:
        end.reply(number, kind, parts)
    except ConnectionError:
        return False
    return True


def _use_tracker(fds: Sequence[int]) -> None:
    for fd in fds:  # one, or none
        tracker: Any = import_module("multiprocessing.resource_tracker")
        tracker._resource_tracker._fd = fd


def _prepare(start: dict[str, Any]) -> None:
    """Make this process like the caller's: what is set here is seen by every import of the user's."""
    for variable in os.environ.keys() - start["environ"].keys():
        del os.environ[variable]
    os.environ.update(start["environ"])
    sys.path[:] = start["sys_path"]
    sys.argv[:] = start["argv"]
    if start["directory"] is not None:
        os.chdir(start["directory"])
    process = import_module("multiprocessing").current_process()
    process.name = start["name"]
    # Proxies of a multiprocessing manager, a common argument, authenticate with it.
    process.authkey = start["authkey"]


def _perform(task: Message, calls: dict[bytes, Callable[[Any], Any]]) -> tuple[int, Sequence[Any]]:
    try:
        pickled = bytes(task.parts[0])
        call = calls.get(pickled)
        if call is None:
            if len(calls) >= _MAXIMUM_CALLS:
                calls.clear()
            call = calls[pickled] = pickle.loads(pickled)
        parts: Sequence[Any] = encode(call(decode(task.parts[1:])))
        kind = _pool_link.DONE
    except BaseException as exc:
        # Also SystemExit and KeyboardInterrupt: the pool decides when a worker ends, and the future must know.
        kind, parts = _pool_link.FAILED, _encode_error(exc)
    _flush()
    return kind, parts


def _encode_error(exc: BaseException) -> Sequence[Any]:
    import traceback

    trace = "".join(traceback.format_exception(exc))
    try:
        parts = encode((exc, trace))
        decode(parts)
    except Exception as why:
        parts = encode((RuntimeError(f"{type(exc).__qualname__}: {exc} (it cannot be sent: {why})"), trace))
    return parts


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except OSError:
            # A closed terminal or a full disk must not fail the call; the next print of the user's reports it.
            continue


def _finish() -> None:
    """Do what the end of an interpreter does, in a forked process, which ends with `os._exit`."""
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join()
    atexit._run_exitfuncs()
    _flush()


def _watch_nothing(_end: WorkerEnd, _start: dict[str, Any]) -> None:
    """The zygote watches the caller for its workers, which so have no thread besides the calls' own."""


def _watch_caller(end: WorkerEnd, start: dict[str, Any]) -> None:
    """End this process soon after the caller's, also in the middle of a call."""

    def watch() -> None:
        _wait_for_caller(end.reply_fd, start["caller"])
        time.sleep(_GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="anypool-watch", daemon=True).start()


def _wait_for_caller(reply_fd: int, pid: int) -> None:
    if sys.platform == "win32":
        import _winapi

        handle = _winapi.OpenProcess(0x00100000, False, pid)  # SYNCHRONIZE
        _winapi.WaitForSingleObject(handle, _winapi.INFINITE)
        return
    poll = select.poll()
    poll.register(reply_fd, 0)  # errors and hang-ups only
    poll.poll()
