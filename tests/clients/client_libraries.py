"""Libraries of the dependency group `clients`: skipped where they are not installed, except where they must be."""

from __future__ import annotations

import importlib
import os
import warnings
from typing import Any

import pytest


def library(name: str) -> Any:
    """A client library. ``CLIENTS_REQUIRED`` in the environment, as `make soak` sets it, makes its absence an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as exc:
            if os.environ.get("CLIENTS_REQUIRED") or exc.name is None or not name.startswith(exc.name):
                raise
            pytest.skip(f"{name} is not installed: pip install --group clients", allow_module_level=True)
