"""Builds the release as it would be uploaded, and uses it where the source is not.

    python tests/release.py            the sdist, the wheel made from it; installed with no extra, each extra, all
    python tests/release.py --lowest   the lowest version of each dependency that `pyproject.toml` allows

Not a test file of pytest: it makes environments, which takes a minute, and needs a package index. `make release-check`
and `make lowest` run it. The exit code is 1 where anything fails.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = METADATA["project"]
EXTRAS = [name for name in PROJECT["optional-dependencies"] if name != "all"]
LIMIT = 300.0
"""Seconds for one command; on an idle machine the longest takes twenty."""

SUITE_LIMIT = 1500.0
"""Seconds for the tests with the oldest dependencies, which on an idle machine take three minutes."""

FIRST_USE = """
import sys
import anypool
assert "site-packages" in anypool.__file__, anypool.__file__
for backend in sys.argv[1:]:
    with anypool.get_executor(backend, max_workers=2, seed=1) as ex:
        assert list(ex.map(lambda x: x * x, range(20))) == [x * x for x in range(20)], backend
for backend in {"loky", "joblib", "dask"} - set(sys.argv[1:]):
    try:
        anypool.get_executor(backend)
    except anypool.MissingExtra as exc:
        assert "pip install 'anypool[" in str(exc), exc
    except Exception as exc:
        raise AssertionError(f"{backend} is neither there nor missing") from exc
    else:
        print(backend, "came with another extra")
"""

NEEDS = {"loky": ["loky"], "joblib": ["joblib"], "dask": ["dask"]}
"""The backends that an extra brings."""

SUITE_ON = ("processes",)
"""The backend that needs most of what a wheel has to have in it. On all of them the suite runs from the source."""


SUITE_ON_LOWEST = ("executor_core", "no_guard", "registry", "context", "inner_threads", "progress", "cli", "functions")
"""What runs with the oldest dependencies: the backends, and the libraries of `threads`, `cli` and `progress`."""


def run(*command: str | Path, cwd: Path, limit: float = LIMIT) -> str:
    """Run a command away from the source; return what it printed."""
    hidden = {"PYTHONPATH", "VIRTUAL_ENV"}
    environment = {k: v for k, v in os.environ.items() if k not in hidden and not k.startswith("ANYPOOL_")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd, env=environment | {"ANYPOOL_CONFIG": "none"}, capture_output=True, text=True, timeout=limit,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def make_environment(directory: Path, *requirements: str | Path) -> Path:
    """Make an environment with these distributions, by the pip that is here; return its Python."""
    venv.create(directory)
    python = directory / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip(python, "install", "-q", "--no-compile", *requirements)
    return python


def pip(python: Path, *words: str | Path) -> str:
    """Run pip for the environment of `python`."""
    options = ("--python", python, "--disable-pip-version-check")
    return run(sys.executable, "-m", "pip", *options, *words, cwd=python.parent)


def build(directory: Path) -> Path:
    """Build the sdist, and the wheel from it; return the wheel."""
    run(sys.executable, "-m", "build", "--outdir", directory, ROOT, cwd=directory)
    (sdist,) = directory.glob("*.tar.gz")
    (wheel,) = directory.glob("*.whl")
    print(f"built {sdist.name} ({sdist.stat().st_size:,} bytes) and {wheel.name} ({wheel.stat().st_size:,} bytes)")
    return wheel


def check_extra(wheel: Path, directory: Path, extra: str | None) -> str:
    """Install the wheel with one extra or none, and use what it brings."""
    python = make_environment(directory, f"{wheel}[{extra}]" if extra else wheel)
    script = directory / "first_use.py"
    script.write_text(FIRST_USE, encoding="utf-8")
    run(python, "-W", "error", script, "serial", "threads", "processes", *NEEDS.get(extra or "", []), cwd=directory)
    if extra is None:
        names = {each["name"].lower() for each in json.loads(pip(python, "list", "--format", "json"))}
        if names != {"anypool", "cloudpickle"}:
            raise RuntimeError(f"without extras it brings {sorted(names)}")
    if extra == "cli":
        run(python, "-m", "anypool", "config", "--json", cwd=directory)
    return f"extra {extra or '(none)'}: fine"


def check_all(wheel: Path, directory: Path) -> str:
    """Install the wheel with all extras, and run the conformance suite that it has in it."""
    python = make_environment(directory, f"{wheel}[all]", "pytest", "numpy", "psutil")
    for backend in SUITE_ON:
        run(python, "-m", "anypool", "check", backend, cwd=directory)
    return f"all extras: the conformance suite of the wheel passes on {', '.join(SUITE_ON)}"


def lowest() -> list[str]:
    """The lowest version of each dependency, as exact requirements."""
    extras = [each for name in EXTRAS for each in PROJECT["optional-dependencies"][name]]
    used = [each for each in METADATA["dependency-groups"]["test"] if str(each).startswith("numpy>")]
    declared = [*PROJECT["dependencies"], *extras, *used]  # NumPy is no dependency, but its arrays travel
    return [re.sub(r">=", "==", each, count=1) for each in declared if ">=" in each]


def check_lowest(directory: Path) -> str:
    """Install the oldest dependencies, and run the tests of the core and of what each extra is for."""
    pins = lowest()
    python = make_environment(directory, f"{ROOT}[all]", *pins, "pytest", "pytest-timeout", "psutil", "hypothesis")
    chosen = [f"tests/test_{name}.py" for name in SUITE_ON_LOWEST]
    run(
        python, "-m", "pytest", "-q", "-x", "-m", "not soak", "-p", "no:cacheprovider", *chosen,
        cwd=ROOT, limit=SUITE_LIMIT,
    )  # fmt: skip
    return f"lowest versions: {', '.join(pins)}: the tests of {', '.join(SUITE_ON_LOWEST)} pass"


def main() -> int:
    """Run the checks that were asked for; tell each as it ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lowest", action="store_true", help="check the lowest versions, and nothing else")
    arguments = parser.parse_args()
    begin = time.monotonic()
    failed = False
    with tempfile.TemporaryDirectory(prefix="anypool-release-") as name, ThreadPoolExecutor(3) as pool:
        place = Path(name)
        if arguments.lowest:
            checks = [pool.submit(check_lowest, place / "lowest")]
        else:
            (place / "dist").mkdir()
            wheel = build(place / "dist")
            checks = [pool.submit(check_all, wheel, place / "all")]
            checks += [pool.submit(check_extra, wheel, place / f"extra-{each}", each) for each in (None, *EXTRAS)]
        for check in checks:
            try:
                print(check.result(), flush=True)
            except Exception as exc:
                failed = True
                print(f"FAILED: {exc}", file=sys.stderr, flush=True)
    print(f"{time.monotonic() - begin:.0f} s")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
