# Two commands: `make demo` and `make test`. Each sets up everything it needs in .venv; later runs reuse it.

PYTHON ?= python3
VENV ?= .venv
# Passed to every `pip install`, e.g. PIP_ARGS="--index-url ..." for a mirror or for CPU-only builds of torch.
PIP_ARGS ?=
WORKERS ?= 2
PYTEST_ARGS ?=
DEMO_ARGS ?=
MACHINES_ARGS ?=

BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check $(PIP_ARGS)

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-machines setup lint format docs bench sanitize clean

help:
	@echo "make demo    set up, then find good molecules in a library of 5,000: results.csv, report.html"
	@echo "make test    set up, then lint, types and tests"
	@echo "make test-slow    the tests that make test leaves out: some minutes"
	@echo "make test-machines    the tests on every instruction set of torch, MKL and the engine: an hour"
	@echo "make lint | format | docs | bench | sanitize | clean"

demo: $(READY)
	$(BIN)/sggp demo $(DEMO_ARGS)

# Bytecode is kept, wherever else it is not: each process would compile the library and rewrite the tests again.
test test-machines: export PYTHONDONTWRITEBYTECODE :=

test: lint
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)
	$(if $(PYTEST_ARGS),,$(BIN)/python -m tests.machines --workers $(WORKERS) --short --only lowest avx2)

test-slow: $(READY)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m slow

# MACHINES_ARGS="--only lowest avx2", "--numerical", "-- tests/solvers -k auto": see tests/machines.py
test-machines: $(READY)
	$(BIN)/python -m tests.machines --workers $(WORKERS) $(MACHINES_ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)
	$(BIN)/mkdocs build --strict

bench: $(READY)
	$(BIN)/python benchmarks/readme.py

# Needs a C++ compiler only. The thread sanitizer cannot share a build with the others.
sanitize:
	sggp/native/src/sanitize.sh address,undefined build/sanitize/address
	sggp/native/src/sanitize.sh thread build/sanitize/thread

setup: $(READY)

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# torch goes first, at the pinned version and alone: left to the resolver it may come with gigabytes of CUDA.
# Without build isolation nothing is downloaded to build, and the C++ extension sees the installed torch.
$(READY): pyproject.toml constraints.txt $(wildcard setup.py sggp/native/src/*)
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("sggp needs Python 3.11 or newer, but $(PYTHON) is %d.%d: run make PYTHON=/path/to/python3.12" % v[:2])'
	@echo "Setting up $(VENV) (a few minutes the first time)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt torch setuptools
	$(PIP) -c constraints.txt --no-build-isolation --editable ".[all,dev]"
	@touch $@
