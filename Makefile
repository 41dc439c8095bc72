# Two commands do all the set-up on a fresh clone: `make demo` and `make test`.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PEER := $(abspath $(or $(MERGEKIT_VENV),.peer))
# A file's tests stay together, for what they share; tests/tiers.py puts the longest files first.
# Tests of servers and daemons wait for most of their time: three workers keep two cores busy.
WORKERS := --numprocesses 3 --dist loadfile --no-loadscope-reorder
# Tests that wait for nothing: one more worker would only load everything once more.
QUICK_WORKERS := --numprocesses 2 --dist loadfile --no-loadscope-reorder
NATIVE := $(wildcard merge_assets/engine/native/*.[ch])
export HF_HUB_DISABLE_TELEMETRY = 1
export DO_NOT_TRACK = 1
# Images of containers like to set it; every process that the tests start would compile the project once more.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install install-dev servers demo ui test quick thorough lint bench bench-definitions bench-start bench-s3 gpu-check fuzz strangers mutants chaos clean

help: ## Show this list.
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

install: $(VENV)/.installed ## Install the project and what it runs with into .venv.

install-dev: $(VENV)/.installed-dev ## Install what the tests need, too.

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt $(NATIVE) | $(BIN)/python
	@echo "Installing the tested set of packages into $(VENV) (a few minutes the first time) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install ## Merge, analyse, evaluate and rank the demo recipes, search for a mix; prints what came out and where to look.
	$(BIN)/merge-assets demo

ui: install ## Open the lineage graph at http://127.0.0.1:3000 (with the daemon that rebuilds on change).
	$(BIN)/merge-assets ui

# What we are compared with, in an environment of its own; the same torch, so that only the engines differ.
$(PEER)/bin/mergekit-yaml: | $(BIN)/python
	@echo "Installing mergekit 0.1.5 into $(PEER) ..."
	$(BIN)/python -m venv $(PEER)
	$(PEER)/bin/python -m pip install --quiet --disable-pip-version-check mergekit==0.1.5 $$(grep '^torch==' constraints.txt)

servers: ## Install the servers that the tests run against, as root on Debian; else say what is missing.
	@tests/install_servers.sh

test: install-dev servers lint $(PEER)/bin/mergekit-yaml ## Lint, types, floors, then all tests.
	MERGEKIT_VENV=$(PEER) $(BIN)/python -m pytest $(WORKERS)

quick: install-dev ## The tests that need no server, browser or mergekit and take no more than seconds each: two minutes.
	$(BIN)/python -m pytest $(QUICK_WORKERS) -m "not slow and not server and not browser and not peer and not long and not thorough"

thorough: install-dev servers ## The long forms of some tests, such as a kill at every step: by hand, before a release.
	$(BIN)/python -m pytest $(WORKERS) -m thorough

lint: install-dev ## Format, lint, types and the floors of the house.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: install $(PEER)/bin/mergekit-yaml ## Time the engine beside mergekit and write docs/benchmarks.md; ARGS="--only ties".
	MERGEKIT_VENV=$(PEER) $(BIN)/python -m benchmarks.run $(ARGS)

bench-definitions: install ## Time loading the definitions of 1000 recipes, and planning a diamond of 12 levels.
	$(BIN)/python benchmarks/definitions_load.py
	$(BIN)/python -m benchmarks.diamond

bench-start: install-dev servers ## Time how long a run of 300 assets takes to its first step, on Postgres.
	$(BIN)/python -m benchmarks.run_start $(ARGS)

bench-s3: install-dev servers ## Time builds into S3 beside a plain copy, and incremental rebuilds; ARGS="--only throughput".
	$(BIN)/python -m benchmarks.object_store $(ARGS)

gpu-check: install ## Ten minutes on a GPU: the CPU's bytes, the memory's bounds, speed; writes docs/gpu.md. ARGS="--dry-run" needs none.
	$(BIN)/python -m benchmarks.gpu_check $(ARGS)

fuzz: install-dev ## Look for inputs that fail: atheris, and random examples for the property tests; TIME=3600 for an hour.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt atheris
	$(BIN)/python -m tests.fuzz.run --seconds $(or $(TIME),60)

strangers: install-dev ## Take in every hostile checkpoint; ARGS="--only tokenizer".
	$(BIN)/python -m tests.strangers.run $(ARGS)

mutants: install-dev ## Change the code in 300 places and see whether a test notices; ARGS="--only plan/resolver".
	$(BIN)/python -m tests.mutants.run $(ARGS)

chaos: install-dev servers ## An hour of edits, kills and outages, then an audit; ARGS="--minutes 5 --recipes 10 --seed 2".
	$(BIN)/python -m tests.faults.chaos $(ARGS)

clean: ## Remove what was built, not the packages.
	rm -rf var .pytest_cache .mypy_cache .ruff_cache .hypothesis
