# Works on a fresh machine that has only Python (3.11 or newer) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := constraints.txt
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS)

.PHONY: demo test test-deep test-oldest lint clean

demo: $(VENV)/.demo
	$(BIN)/adue demo

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(WARNINGS)  # a thread for each process

test-deep: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "" -p randomly --hypothesis-profile=deep \
	  tests adue_sklearn benchmarks/test_reproduce.py

# What pyproject.toml admits at the least, in an environment of its own; old versions warn of much.
test-oldest:
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt WARNINGS="-W default"

lint: $(VENV)/.test
	$(BIN)/deptry .
	$(BIN)/lint-imports --no-logo
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "adue-sklearn needs Python 3.11 or newer; name one with 'make PYTHON=/path/to/python ...'" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml $(CONSTRAINTS)
	$(INSTALL) -e '.[demo]'
	@touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml $(CONSTRAINTS)
	$(INSTALL) -e '.[demo,data,onnx,test]'
	@touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) .venv-oldest .pytest_cache .mypy_cache .ruff_cache
