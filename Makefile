# Needs Python >= 3.11, make and a network; everything else lands in .venv.
# `make PYTHON=/path/to/python ...` chooses the interpreter for .venv.

VENV := .venv
BIN := $(VENV)/bin
MADE := $(VENV)/.made
RUNNING := $(VENV)/.running
INSTALLED := $(VENV)/.installed
# Modules are compiled when they are first imported: compiling all of torch and transformers takes half of the installation.
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

export PYTHONHASHSEED ?= 0
export MPLBACKEND ?= Agg
export TOKENIZERS_PARALLELISM ?= false
# Small tensors gain nothing from many threads, and a large machine would give them all of its cores.
export OMP_NUM_THREADS ?= 2

# Processes that share the tests; each computes on one thread. `make test WORKERS=8` suits a larger machine.
WORKERS ?= 2
PYTEST := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest
# The tests of one file stay together: they share what it builds once.
PARALLEL := $(PYTEST) -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help install demo docs test test-all test-faults doctest audit check check-all static fresh format bench clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

install: $(INSTALLED)  ## create .venv and install the package with its tools

# A failed installation leaves no stamp, so the next make tries again.
$(MADE):
	@chosen=""; \
	for candidate in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python); do \
	  if $$candidate -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    chosen=$$candidate; break; \
	  fi; \
	done; \
	if [ -z "$$chosen" ]; then \
	  echo "error: no Python >= 3.11 with venv and ensurepip found (tried: $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python)); install one or run make PYTHON=/path/to/python" >&2; \
	  exit 2; \
	fi; \
	echo "creating $(VENV) with $$($$chosen --version) and installing into it"; \
	$$chosen -m venv $(VENV)
	@touch $@

$(INSTALLED): $(MADE) pyproject.toml constraints.txt
	$(PIP) -e ".[dev,docs]"
	@touch $@ $(RUNNING)

# What running needs, without the developers' tools.
$(RUNNING): $(MADE) pyproject.toml constraints.txt
	$(PIP) -e .
	@touch $@

demo: $(RUNNING)  ## explain a prompt, write a report, check the theorems
	$(BIN)/iclens demo --out iclens-out

docs: $(INSTALLED)  ## the documentation as a site, in site/index.html; a broken link fails
	$(BIN)/python .docs/build.py --out site

test: $(INSTALLED)  ## every test but the slow ones and the long fault suite
	$(PARALLEL) -m "not slow and not faults"

test-all: $(INSTALLED)  ## every test but the long fault suite; every type of every signature is checked
	$(PARALLEL) -p tests.typed -m "not faults" --jaxtyping-packages=iclens,tests.typed.check

test-faults: $(INSTALLED)  ## kills, full disks, damaged files, lost machines; ten times as much fuzzing
	$(PYTEST) -m faults
	ICLENS_FUZZ_LONG=1 $(PYTEST) tests/fuzz

audit: $(INSTALLED)  ## known vulnerabilities of what is installed
	$(BIN)/python .ci/audit.py

doctest: $(INSTALLED)  ## the examples in docstrings
	$(PYTEST) -p tests.shapes --doctest-modules src/iclens

static: $(INSTALLED)  ## format, lint, types, import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fresh: $(INSTALLED)  ## install the wheel in a new environment and use it from an empty folder
	$(BIN)/python .ci/fresh_install.py

check: static test doctest docs fresh  ## what CI runs

check-all: static test-all test-faults doctest docs fresh audit  ## the same with the slow tests, faults and audit

bench: $(INSTALLED)  ## every benchmark, against the peers that are installed
	$(BIN)/iclens bench --out iclens-out/bench

format: $(INSTALLED)  ## format the code and sort its imports
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove .venv, caches and outputs
	rm -rf $(VENV) build dist site src/*.egg-info iclens-out .*_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
