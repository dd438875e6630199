"""Where CPython's own tests are, and how workers can import what is in them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _debian_folder() -> Path:
    return Path(f"/usr/lib/python{sys.version_info.major}.{sys.version_info.minor}/test")


def find_tests(module: str) -> tuple[str, str | None]:
    """The name under which one of CPython's test modules can be imported, and the folder to import it from, if any.

    The folder is a place to import top-level modules from, not more of the package ``test``: workers are told
    of ``sys.path``, and of nothing else. Where the tests are not installed, the module that asks is skipped.
    """
    for name, folder in (f"test.{module}", None), (module, str(_debian_folder())):
        before = list(sys.path)
        sys.path += [folder] if folder else []
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as exc:
            if exc.name is None or not name.startswith(exc.name):
                raise
        else:
            return name, folder
        finally:
            sys.path[:] = before
    pytest.skip(
        f"CPython's test suite is not installed (Debian: libpython3.{sys.version_info.minor}-testsuite)",
        allow_module_level=True,
    )


@contextmanager
def workers_find(folder: str | None) -> Iterator[None]:
    """A block in which calls can use what was imported from `folder`."""
    if folder is None:
        yield
        return
    sys.path.append(folder)
    yield
    sys.path.remove(folder)
