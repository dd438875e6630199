"""The field: who takes part in a run, as what, and who has shown enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from statistics import median

from measure import Outcomes
from report import Role
from subjects import IMPORTS, PEERS, RAW, Bare, Subject, anypool_subjects, make_subject
from workloads import Workload

__all__ = ["Field", "choose"]

_REPEATED = 2
"""So many of the best peers are measured in every round, the others in one."""


@dataclass(kw_only=True)
class Field:
    """Who takes part.

    Attributes
    ----------
    makers : mapping of str to callable
        How to make each subject that is installed.
    roles : mapping of str to str
        What each is.
    raw_of : mapping of str to tuple of str
        The native pools below each subject of anypool.
    left_out : dict of str to str
        Why others are not here.
    """

    makers: Mapping[str, Callable[[], Subject]]
    roles: Mapping[str, Role]
    raw_of: Mapping[str, tuple[str, ...]]
    left_out: dict[str, str]

    def only(self, names: Iterable[str]) -> dict[str, Callable[[], Subject]]:
        """How to make those of `names` that are here."""
        return {name: self.makers[name] for name in names if name in self.makers}

    @cached_property
    def subjects(self) -> dict[str, Subject]:
        """One of each, not started."""
        return {name: make() for name, make in self.makers.items()}

    def is_wanted(self, work: Workload, name: str, outcomes: Outcomes) -> bool:
        """Whether to measure that subject on that workload, after what the rounds so far have shown.

        What no goal is about is measured in one round: peers far from the best, native pools and threads on work that
        they are not compared on.
        """
        subject, role = self.subjects[name], self.roles[name]
        if work.kind not in subject.kinds:
            return False
        if not outcomes[name].seconds or role == "bare" or name in work.rivals:
            return True
        is_compared_to_raw = any(name in (ours, *pools) for ours, pools in self.raw_of.items())
        if work.is_held_to_raw and is_compared_to_raw:
            return True
        if subject.place != "processes" and not work.is_held_to_raw:
            return role == "anypool" and subject.place == "threads" and work.is_per_item
        return role == "anypool" or (role == "peer" and self._is_among_the_best(name, outcomes))

    def _is_among_the_best(self, name: str, outcomes: Outcomes) -> bool:
        rivals = {
            each: median(outcome.seconds) / max(1, outcome.items)
            for each, outcome in outcomes.items()
            if outcome.seconds and self.roles[each] == "peer" and self.subjects[each].place == self.subjects[name].place
        }
        return sum(other < rivals[name] for other in rivals.values()) < _REPEATED


def choose(backends: Iterable[str], peers: Iterable[str]) -> Field:
    """Who is installed of the peers, of anypool on these backends, and of the native pools below them."""
    makers: dict[str, Callable[[], Subject]] = {Bare.name: Bare, **{name: PEERS[name] for name in peers}}
    makers.update({name: partial(make_subject, name) for name in IMPORTS})
    roles: dict[str, Role] = {Bare.name: "bare", **dict.fromkeys(peers, "peer"), **dict.fromkeys(IMPORTS, "bare")}
    raw_of = {}
    for backend in backends:
        for raw in RAW[backend]:
            makers.setdefault(raw.name, raw)
            roles.setdefault(raw.name, "raw")
        raw_of[f"anypool/{backend}"] = tuple(raw.name for raw in RAW[backend])
    makers.update(anypool_subjects(backends))
    roles.update(dict.fromkeys(raw_of, "anypool"))
    left_out = {}
    for name, make in list(makers.items()):
        missing = make().missing()
        if missing is not None:
            left_out[name] = f"{missing} is not installed"
            del makers[name]
    return Field(makers=makers, roles=roles, raw_of=raw_of, left_out=left_out)
