"""The contract as tests: subclass `ExecutorTests`, name a backend, and run pytest.

::

    from anypool.testing import ExecutorTests

    class TestMine(ExecutorTests):
        backend = "mine"
        options = {"max_workers": 2}

Every test carries the clause of the contract that it checks (`clause`), and what of anypool it asks for beyond
the `concurrent.futures` interface (`needs`), so that executors of other libraries can be held against the
contract too: what they do not offer is skipped as "not offered", never failed.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

# Where each public name lives. Loaded when it is first asked for: the pytest plugin imports this package at
# every start of pytest, and the calls of the tests import it on every worker, which may have no pytest.
_HOMES = {
    "CLAUSES": "_clauses",
    "FAULTS": "_fault_kinds",
    "Fault": "_fault_kinds",
    "Faults": "_faults",
    "Invocation": "_faults",
    "chaos": "_chaos",
    "ExecutorTests": "suite",
    "FEATURES": "_clauses",
    "Gate": "_effects",
    "Subject": "_subject",
    "Tally": "_effects",
    "clause": "_clauses",
    "needs": "_clauses",
    "offers": "_clauses",
}
_NEED_PYTEST = frozenset({"_subject", "suite"})

if TYPE_CHECKING:
    from anypool.testing._chaos import chaos as chaos
    from anypool.testing._clauses import CLAUSES as CLAUSES
    from anypool.testing._clauses import FEATURES as FEATURES
    from anypool.testing._clauses import clause as clause
    from anypool.testing._clauses import needs as needs
    from anypool.testing._clauses import offers as offers
    from anypool.testing._effects import Gate as Gate
    from anypool.testing._effects import Tally as Tally
    from anypool.testing._fault_kinds import FAULTS as FAULTS
    from anypool.testing._fault_kinds import Fault as Fault
    from anypool.testing._faults import Faults as Faults
    from anypool.testing._faults import Invocation as Invocation
    from anypool.testing._subject import Subject as Subject
    from anypool.testing.suite import ExecutorTests as ExecutorTests

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'anypool.testing' has no attribute {name!r}")
    if home in _NEED_PYTEST:
        for library in ("pytest", "psutil"):
            if importlib.util.find_spec(library) is None:
                from anypool.errors import MissingExtra

                raise MissingExtra(f"anypool.testing needs: pip install {library}")
    value = getattr(importlib.import_module(f"anypool.testing.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
