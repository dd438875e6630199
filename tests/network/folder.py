"""A folder that somebody else serves, as on a network: over FUSE, which the kernel speaks with whoever has its device.

    python folder.py LOCKS BACKING MOUNTED COMMAND...

runs a command while BACKING is there as MOUNTED too, in a mount namespace of this program's own. Each step of the
command on a file is a request that another process answers. LOCKS is "kept"; or "refused", as by an NFS server without
its lock daemon; or "read-only", of the whole folder. When a file `cut` is in BACKING the server is killed: what a cut
cable is to a mount that gives up.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import stat
import struct
import subprocess
import sys
from collections.abc import Callable

_HEADER = struct.Struct("=IIQQIIIHH")
_ATTRIBUTES = struct.Struct("=QQQQQQIIIIIIIIII")
_LONGEST = 1 << 16
_ROOT = 1
_POSIX_LOCKS = 1 << 1
_SIZE_IS_SET = 1 << 3
_DIRECT = 1  # each read and write comes to the server
_NEW_MOUNTS, _RECURSIVE_PRIVATE, _READ_ONLY, _DETACH = 0x20000, 0x44000, 1, 2


def why_not() -> str | None:
    """Why there can be no such folder here; None if there can."""
    if sys.platform != "linux" or os.geteuid() != 0 or not os.access("/dev/fuse", os.W_OK):
        return "a FUSE mount needs Linux and root"
    return None


class Server:
    """Answers the requests for one folder without folders in it.

    Parameters
    ----------
    device : int
        Of the mount.
    backing : str
        Where the files are.
    keeps_locks : bool
        Leave locks to the kernel; or refuse them.
    """

    def __init__(self, device: int, backing: str, *, keeps_locks: bool) -> None:
        self._device = device
        self._backing = backing
        self._keeps_locks = keeps_locks
        self._names = {_ROOT: ""}
        self._answers: dict[int, Callable[[int, bytes], bytes]] = {
            1: self._look_up, 3: self._get, 4: self._set, 10: self._unlink, 14: self._open, 15: self._read,
            16: self._write, 17: self._space, 18: self._release, 20: self._sync, 25: self._nothing, 26: self._begin,
            27: self._open_folder, 29: self._nothing, 30: self._nothing, 31: self._lock, 32: self._lock,
            33: self._lock, 35: self._create,
        }  # fmt: skip

    def serve(self) -> None:
        """Answer until the folder is taken down, or the cable is cut."""
        while True:
            try:
                request = os.read(self._device, _LONGEST + 4096)
            except OSError as exc:
                if exc.errno == errno.ENODEV:
                    return
                raise
            if os.path.exists(os.path.join(self._backing, "cut")):
                os.kill(os.getpid(), signal.SIGKILL)
            _, kind, number, node, *_ = _HEADER.unpack_from(request)
            if kind in (2, 36, 42):  # is told, and asks nothing
                continue
            answer, error = b"", 0
            try:
                answer = self._answers.get(kind, self._unknown)(node, request[_HEADER.size :])
            except OSError as exc:
                error = -(exc.errno or errno.EIO)
            os.write(self._device, struct.pack("=IiQ", 16 + len(answer), error, number) + answer)

    def _path(self, node: int) -> str:
        return os.path.join(self._backing, self._names[node])

    def _attributes(self, path: str) -> bytes:
        found = os.lstat(path)
        times = (int(found.st_atime), int(found.st_mtime), int(found.st_ctime), 0, 0, 0)
        owner = (found.st_mode, found.st_nlink, found.st_uid, found.st_gid, 0, 4096, 0)
        return _ATTRIBUTES.pack(found.st_ino, found.st_size, found.st_blocks, *times, *owner)

    def _entry(self, name: str) -> bytes:
        attributes = self._attributes(os.path.join(self._backing, name))
        node = next((node for node, known in self._names.items() if known == name), None)
        if node is None:
            node = max(self._names) + 1
            self._names[node] = name
        return struct.pack("=QQQQII", node, 0, 0, 0, 0, 0) + attributes

    def _begin(self, _node: int, data: bytes) -> bytes:
        _, _, ahead, _ = struct.unpack_from("=IIII", data)
        flags = 0 if self._keeps_locks else _POSIX_LOCKS
        return struct.pack("=IIIIHHIIHHI7I", 7, 31, ahead, flags, 12, 9, _LONGEST, 1, 0, 0, 0, *[0] * 7)

    def _look_up(self, _node: int, data: bytes) -> bytes:
        return self._entry(data.rstrip(b"\0").decode())

    def _get(self, node: int, _data: bytes) -> bytes:
        return struct.pack("=QII", 0, 0, 0) + self._attributes(self._path(node))

    def _set(self, node: int, data: bytes) -> bytes:
        valid, _, _, size = struct.unpack_from("=IIQQ", data)
        if valid & _SIZE_IS_SET:
            os.truncate(self._path(node), size)
        return self._get(node, data)

    def _unlink(self, _node: int, data: bytes) -> bytes:
        name = data.rstrip(b"\0").decode()
        os.unlink(os.path.join(self._backing, name))
        self._names = {node: known for node, known in self._names.items() if known != name}
        return b""

    def _open(self, node: int, data: bytes) -> bytes:
        flags = struct.unpack_from("=I", data)[0] & (os.O_ACCMODE | os.O_TRUNC)
        return struct.pack("=QIi", os.open(self._path(node), flags), _DIRECT, 0)

    def _create(self, _node: int, data: bytes) -> bytes:
        flags, mode = struct.unpack_from("=II", data)
        name = data[16:].rstrip(b"\0").decode()
        file = os.open(os.path.join(self._backing, name), flags & (os.O_ACCMODE | os.O_CREAT | os.O_EXCL), mode)
        return self._entry(name) + struct.pack("=QIi", file, _DIRECT, 0)

    def _read(self, _node: int, data: bytes) -> bytes:
        file, offset, size = struct.unpack_from("=QQI", data)
        return os.pread(file, size, offset)

    def _write(self, _node: int, data: bytes) -> bytes:
        file, offset, size = struct.unpack_from("=QQI", data)
        return struct.pack("=II", os.pwrite(file, data[40 : 40 + size], offset), 0)

    def _sync(self, _node: int, data: bytes) -> bytes:
        os.fsync(struct.unpack_from("=Q", data)[0])
        return b""

    def _release(self, _node: int, data: bytes) -> bytes:
        os.close(struct.unpack_from("=Q", data)[0])
        return b""

    def _space(self, _node: int, _data: bytes) -> bytes:
        return struct.pack("=QQQQQIIII6I", 1 << 20, 1 << 19, 1 << 19, 1 << 20, 1 << 19, 4096, 255, 4096, 0, *[0] * 6)

    def _open_folder(self, _node: int, _data: bytes) -> bytes:
        return struct.pack("=QIi", 0, 0, 0)

    def _lock(self, _node: int, _data: bytes) -> bytes:
        raise OSError(errno.ENOLCK, "no locks")

    def _nothing(self, _node: int, _data: bytes) -> bytes:
        return b""

    def _unknown(self, _node: int, _data: bytes) -> bytes:
        raise OSError(errno.ENOSYS, "not served")


def _checked(done: int, what: str) -> None:
    if done:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def main(locks: str, backing: str, mounted: str, *command: str) -> int:
    """The exit code of the command."""
    system = ctypes.CDLL(None, use_errno=True)
    _checked(system.unshare(_NEW_MOUNTS), "unshare")
    _checked(system.mount(None, b"/", None, _RECURSIVE_PRIVATE, None), "mount")
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode={stat.S_IFDIR:o},user_id=0,group_id=0"
    flags = _READ_ONLY if locks == "read-only" else 0
    _checked(system.mount(b"anypool", mounted.encode(), b"fuse", flags, options.encode()), "mount")
    server = os.fork()
    if server == 0:
        try:
            Server(device, backing, keeps_locks=locks != "refused").serve()
        finally:
            os._exit(0)
    os.close(device)
    try:
        return subprocess.run(command, check=False).returncode
    finally:
        system.umount2(mounted.encode(), _DETACH)  # the server ends with it
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
