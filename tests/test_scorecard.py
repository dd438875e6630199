"""`check_executor`, `anypool check` and the score card: what the suite found is told, hangs and deaths included."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from anypool.cli import main
from anypool.errors import ConfigError, MissingExtra, UnknownBackend
from anypool.testing import CLAUSES, _subjects, scorecard
from anypool.testing._check import Checked, TestOutcome, check_executor

CARD = Path(__file__).parent.parent / "docs" / "scorecard.md"
SMALL = "bad payloads"  # of which threads that are not ours have one test

FACTORIES = """
import os
import threading
from concurrent.futures import ThreadPoolExecutor

from anypool.backend import Traits

class Hangs(ThreadPoolExecutor):
    def submit(self, fn, /, *args, **kwargs):
        threading.Event().wait()

class Dies(ThreadPoolExecutor):
    def submit(self, fn, /, *args, **kwargs):
        os._exit(3)

def hangs():
    return Hangs(2)

def dies():
    return Dies(2)

def right():
    return ThreadPoolExecutor(2)

number = 3
for factory in (hangs, dies, right):
    factory.traits = Traits(shares_memory=True, in_caller=True, concurrent_in_process=True)
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with `factories.py`, which is the working directory."""
    (tmp_path / "factories.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("factories", None)


@pytest.fixture(scope="module")
def two() -> list[Checked]:
    """Two columns of a small card."""
    return [check_executor(spec, clauses=[SMALL, "nesting"], limit=120) for spec in ("serial", "stdlib-threads")]


def test_what_holds_fails_and_is_not_offered_is_counted(two: list[Checked]) -> None:
    ours, stdlib = two
    assert ours.holds
    assert stdlib.holds
    assert sum(ours.counts(SMALL)) == sum(stdlib.counts(SMALL))  # the same tests
    assert ours.counts("nesting")[0] > stdlib.counts("nesting")[0]
    assert stdlib.counts("nesting")[2] > 0
    assert ours.counts("values") == (0, 0, 0)  # not asked for


def test_the_card_has_a_cell_for_each_clause_and_executor_and_a_fold_for_each_test(two: list[Checked]) -> None:
    card = scorecard.render(two)
    table = [line for line in card.splitlines() if line.startswith("| ") and not line.startswith("| `")]
    assert table[0] == "| clause | `serial` | stdlib `ThreadPoolExecutor` |"
    assert table[1].startswith(f"| {SMALL} | ")
    passed, failed, absent = two[1].counts(SMALL)
    assert table[1].endswith(f"| {passed} / {failed} / {absent} |")
    assert [line.split("|")[1].strip() for line in table[1:4]] == [SMALL, "nesting", "*all*"]
    assert card.count("<details>") == card.count("</details>") == 2
    for outcome in two[0].outcomes:
        assert f"| `{outcome.test}` | {outcome.outcome} |" in card


def test_the_card_tells_nothing_of_the_machine(two: list[Checked]) -> None:
    card = scorecard.render(two)
    for word in (str(Path.home()), os.getcwd(), sys.prefix, os.uname().nodename if hasattr(os, "uname") else "\0"):
        assert word == "/" or word not in card


def test_failures_and_hangs_are_marked_in_card_and_table() -> None:
    column = Checked(
        subject="mine",
        outcomes=(
            TestOutcome(test="test_a", clause="values", outcome="passed"),
            TestOutcome(test="test_b[x|y]", clause="values", outcome="failed", why="AssertionError: no"),
            TestOutcome(test="test_c", clause="once", outcome="hang"),
        ),
    )
    assert not column.holds
    assert column.counts("values") == (1, 1, 0)
    assert column.counts("once") == (0, 1, 0)
    card = scorecard.render([column])
    assert "| values | 1 / **1** / 0 |" in card
    assert "| `test_b[x\\|y]` | **failed** |" in card
    assert "| `test_c` | **failed** (hang) |" in card
    text = str(column)
    assert "failed: test_b[x|y] (values): AssertionError: no" in text
    assert "hang: test_c (once)" in text


def test_nothing_of_a_factorys_file_stays_in_the_callers_process(factories: Path) -> None:
    before = (sys.path[:], "<factories>" in sys.modules, cloudpickle.list_registry_pickle_by_value())
    with pytest.raises(ConfigError, match="no factory"):
        check_executor("factories.py:number")
    assert (sys.path, "<factories>" in sys.modules, cloudpickle.list_registry_pickle_by_value()) == before


def test_a_hang_is_bounded_and_the_other_tests_run(factories: Path) -> None:
    checked = check_executor("factories.py:hangs", clauses=[SMALL], limit=4)
    hanging = [each for each in checked.outcomes if each.outcome == "hang"]
    assert len(hanging) == 1
    assert hanging[0].why == "not within 4 s"
    assert checked.counts(SMALL)[2] == len(checked.outcomes) - 1


def test_a_test_that_ends_the_process_has_failed_and_the_other_tests_run(factories: Path) -> None:
    checked = check_executor("factories.py:dies", clauses=[SMALL], limit=120)
    (failed,) = (each for each in checked.outcomes if each.has_failed)
    assert (failed.outcome, failed.why) == ("failed", "its process died: 3")
    assert checked.counts(SMALL)[2] == len(checked.outcomes) - 1


def test_the_command_prints_a_table_and_json(factories: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "factories.py:right", "-k", SMALL]) == 0
    text = capsys.readouterr().out
    assert text.startswith("factories.py:right\nclause")
    assert main(["check", "factories.py:dies", "-k", SMALL, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["holds"] is False
    assert told["clauses"][SMALL]["failed"] == 1
    assert {"test", "clause", "outcome", "why"} == set(told["tests"][0])


@pytest.mark.parametrize(
    ("spec", "clauses", "error", "told"),
    [
        ("thraeds", (), UnknownBackend, "did you mean 'threads'"),
        ("serial", ("speed",), ConfigError, "no clause 'speed'"),
        ("factories.py:number", (), ConfigError, "no factory"),
        ("factories.py:none", (), ConfigError, "has no 'none'"),
    ],
)
def test_what_cannot_be_checked_is_refused(
    factories: Path, spec: str, clauses: tuple[str, ...], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        check_executor(spec, clauses=clauses)


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    absent: Any = _subjects.Foreign(module="no_such_library", make=lambda: None, traits=_subjects.Traits(), features=())
    monkeypatch.setitem(_subjects.FOREIGN, "absent", absent)
    with pytest.raises(MissingExtra, match="pip install no_such_library"):
        check_executor("absent")


@pytest.mark.parametrize("command", ["check", "verify"])
def test_the_commands_explain_themselves(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Examples:" in text
    assert "Exit status:" in text


def test_the_generator_writes_the_card(
    two: list[Checked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        scorecard, "check_executor", lambda spec, **_: next(each for each in two if each.subject == spec)
    )
    path = tmp_path / "card.md"
    assert scorecard.main(["--write", str(path), "--on", "serial,stdlib-threads"]) == 0
    assert path.read_text(encoding="utf-8") == scorecard.render(two)
    assert capsys.readouterr().out == ""


def test_the_card_in_the_docs_lists_exactly_the_clauses_of_the_suite() -> None:
    lines = CARD.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| clause |"))
    table = lines[start + 2 : lines.index("", start)]
    assert [line.split("|")[1].strip() for line in table] == [*CLAUSES, "*all*"]
    assert [
        line.removeprefix("<details><summary>").removesuffix("</summary>") for line in lines if "<summary>" in line
    ] == [*CLAUSES]
    columns = [cell.strip() for cell in lines[start].split("|")[2:-1]]
    assert columns == [scorecard._title(each) for each in (*scorecard.OURS, *scorecard.OTHERS)]
