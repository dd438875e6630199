# `make demo` and `make test` need only Python >= 3.11 (with venv) and make; each sets up what it needs, once.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# What nobody imports need not be compiled; what is imported is then, in more processes than one.
PIP    := $(BIN)/python -m pip install -q --no-compile

# Every test that starts an interpreter would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test quick lint types doctest soak faults reliability bench performance-docs gate docs site groups release-check lowest verify-types clean

demo: $(READY)
	$(BIN)/python examples/run_all.py
	$(BIN)/anypool backends
	$(BIN)/anypool compare examples/tokenize_stdlib.py:count_tokens examples/tokenize_stdlib.py:sample_files

# All but the soak tests, in a few processes: much of a test here is waiting for other processes. By tests/run.py, which
# gives the few that failed a second chance, alone, and says so at the end.
test: lint
	$(MAKE) --jobs=2 types doctest
	$(BIN)/python tests/run.py -q -m "not soak" -n 4 --dist loadscope

# What takes minutes: the standard library's own executor tests on every backend, and the like. Two CPUs were busy for
# less than half of the time of three processes.
soak: $(VENV)/.clients-group
	CLIENTS_REQUIRED=1 $(BIN)/python tests/run.py -q -m soak -n 4 --dist loadscope

# The core of the fault suite, so often in a row: `make faults RUNS=200`.
RUNS ?= 1
faults: $(READY)
	$(BIN)/python tests/faults/again.py $(RUNS)

# Every fault on every executor, ours and others', and the page that tells of it: minutes.
reliability: $(VENV)/.bench-group
	$(BIN)/python tests/faults/reliability.py

quick: $(READY)
	$(BIN)/python -m pytest -q -x -m "not soak" tests/test_executor_core.py tests/test_pool.py tests/test_layers.py \
	    tests/test_conformance.py -k "not Dask and not Joblib and not Loky"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

doctest: $(READY)
	$(BIN)/python -m pytest -q --doctest-modules src/anypool

# The site, with its generated tables. Warnings are errors: a dead link, a name that does not exist.
docs: $(READY)
	$(BIN)/python docs/generate.py
	$(MAKE) site

site: $(VENV)/.docs-group
	$(BIN)/python -m sphinx -q -W --keep-going -n -b html docs docs/_build/html

# The built wheel where the source is not: no extra, each extra, all with the conformance suite.
release-check: $(VENV)/.release-group
	$(BIN)/python tests/release.py

lowest: $(READY)
	$(BIN)/python tests/release.py --lowest

verify-types: $(VENV)/.release-group
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/pyright --verifytypes anypool --ignoreexternal  # it overlooks --pythonpath here

# All workloads on all peers and backends, a quarter of an hour on a machine that does nothing else: table, record, plots, pages.
bench: $(VENV)/.bench-group
	$(BIN)/python benchmarks/run.py --json benchmarks/records/performance.json
	$(BIN)/python benchmarks/cpu_or_io.py --json benchmarks/records/cpu_or_io.json
	$(BIN)/python benchmarks/performance_docs.py
	$(BIN)/python benchmarks/cpu_or_io.py --pages

# The pages and the plots again, from the records that are there.
performance-docs: $(VENV)/.bench-group
	$(BIN)/python benchmarks/performance_docs.py
	$(BIN)/python benchmarks/cpu_or_io.py --pages

# What a call costs, counted and not timed, against its limits; a part of `make test`.
gate: $(READY)
	$(BIN)/python benchmarks/gate.py

# What the site and the release need, one after the other, for whoever makes both at once.
groups: $(VENV)/.docs-group $(VENV)/.release-group

# Stamps, so that a second run takes no time.
$(VENV)/.%-group: $(READY)
	$(PIP) --group $*
	touch $@

$(READY): pyproject.toml
	$(PYTHON) -c "import sys; sys.version_info >= (3, 11) or sys.exit('anypool needs Python 3.11 or newer')"
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) --editable . --group dev
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist docs/_build
