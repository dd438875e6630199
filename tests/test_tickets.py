"""Tickets: what a chunk has come to is known when its worker is dead, and a chunk that was given up does not begin."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import wait

import pytest

import anypool
from anypool import _tickets
from anypool._refused import Revoked
from anypool._tickets import Ticket, Tickets, open_ticket, tickets_are_possible

pytestmark = pytest.mark.skipif(not tickets_are_possible(), reason="this system has no memory without a name")


@pytest.fixture(autouse=True)
def no_stub_is_kept() -> Iterator[None]:
    """A worker keeps those that it opened; this process is none for longer than a test."""
    yield
    _tickets._stubs.clear()


def test_what_is_noted_is_read() -> None:
    ticket = Ticket()
    ref = ticket.reset()
    assert not ticket.read().begun
    ref = ticket.reset()
    stub = open_ticket(ref)
    assert stub is not None
    stub.begin(ref[-1], timed=False)
    assert stub.note(1, b"one", 1)
    assert stub.note(3, b"three", 7)
    seen = ticket.read()
    assert (seen.begun, seen.pid, seen.done, seen.running) == (True, os.getpid(), 4, 7)
    assert seen.log == [(1, b"one"), (3, b"three")]


def test_a_chunk_that_was_given_up_does_not_begin_and_goes_no_further() -> None:
    ticket = Ticket()
    ref = ticket.reset()
    stub = open_ticket(ref)
    assert stub is not None
    stub.begin(ref[-1], timed=False)
    ticket.read()
    assert not stub.note(1, b"late", 1)
    with pytest.raises(Revoked):
        stub.begin(ref[-1], timed=False)
    ticket.reset()
    with pytest.raises(Revoked):  # the ticket is another chunk's
        stub.begin(ref[-1], timed=False)


def test_of_a_chunk_with_a_limit_the_item_that_runs_is_known() -> None:
    ticket = Ticket()
    ref = ticket.reset()
    stub = open_ticket(ref)
    assert stub is not None
    stub.begin(ref[-1], timed=True)
    assert ticket.current() is None
    assert ticket.read().running == 0
    ref = ticket.reset()
    stub.begin(ref[-1], timed=True)
    stub.begin_item(0)
    current = ticket.current()
    assert current is not None
    assert current[0] == 0
    stub.note(1, b"", 1)
    assert ticket.read().running == 0  # between two items


def test_a_log_that_is_full_is_said() -> None:
    ticket = Ticket()
    ref = ticket.reset()
    stub = open_ticket(ref)
    assert stub is not None
    stub.begin(ref[-1], timed=False)
    assert not stub.note(1, b"x" * (1 << 20), 1)
    assert stub.note(1, b"x" * 1000, 1)
    assert ticket.read().done == 1


def test_a_ref_that_means_something_else_by_now_opens_nothing() -> None:
    ticket = Ticket()
    pid, number, device, inode, serial = ticket.reset()
    assert open_ticket((pid, number, device, inode + 1, serial)) is None
    with open(os.devnull, "rb") as other:
        assert open_ticket((pid, other.fileno(), device, inode + 2, serial)) is None
    code = f"from anypool._tickets import open_ticket; print(open_ticket({(pid, number, device, inode, serial)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Stub" in done.stdout  # a process of the same user


def test_tickets_are_used_again() -> None:
    tickets = Tickets()
    first = tickets.take()
    assert first is not None
    tickets.give_back(first)
    assert tickets.take() is first


def test_an_executor_has_few_tickets_however_much_it_runs() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with anypool.get_executor("processes", max_workers=2) as ex:
        wait([ex.submit(abs, -1) for _ in range(200)])
        list(ex.map(abs, range(10_000)))
        assert len(os.listdir("/proc/self/fd")) < before + 40


def test_without_descriptors_a_map_goes_on() -> None:
    script = """
        import anypool, os, resource

        with anypool.get_executor("processes", max_workers=2) as ex:
            assert list(ex.map(abs, range(10))) == list(range(10))
            held = []
            resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
            try:
                while True:
                    held.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                pass
            assert list(ex.map(abs, range(5000))) == list(range(5000))
            for descriptor in held:
                os.close(descriptor)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_was_noted_is_not_pickled_again_and_the_rest_is() -> None:
    with anypool.get_executor("processes", max_workers=1) as executor:
        mixed = executor.map(lambda item: item if item < 900 else [item], range(1000), chunksize=1000)
        assert list(mixed) == [item if item < 900 else [item] for item in range(1000)]
        refused = list(
            executor.map(
                lambda item: (each for each in ()) if item == 950 else item,
                range(1000),
                chunksize=1000,
                errors="return",
            )
        )
    assert isinstance(refused[950], anypool.SendError)
    assert refused[:950] == list(range(950))
    assert refused[951:] == list(range(951, 1000))
