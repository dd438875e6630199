# `make demo` and `make test` need only Python >= 3.11 (with venv) and make; each sets up what it needs, once.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test quick lint types doctest soak bench docs clean

demo: $(READY)
	$(BIN)/python examples/run_all.py
	$(BIN)/anypool backends
	$(BIN)/anypool compare examples/tokenize_stdlib.py:count_tokens examples/tokenize_stdlib.py:sample_files

test: lint types doctest
	$(BIN)/python -m pytest

quick: $(READY)
	$(BIN)/python -m pytest -q -x -m "not soak" --anypool-backend serial --anypool-backend threads --anypool-backend processes

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

doctest: $(READY)
	$(BIN)/python -m pytest -q --doctest-modules src/anypool

bench: $(READY)
	$(BIN)/python -m pip install -q --group bench
	$(BIN)/python benchmarks/run.py

# A stamp, so that a second run takes no time.
$(READY): pyproject.toml
	$(PYTHON) -c "import sys; sys.version_info >= (3, 11) or sys.exit('anypool needs Python 3.11 or newer')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q --editable . --group dev
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
