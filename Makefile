# recdiv: `make demo` and `make test` are all a newcomer needs; `make help` lists the rest.
# Every target that needs the environment makes it first, once.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

PYTHON ?= python3
INSTALLER ?= uv
PORT ?= 5000
BENCH ?= $(filter-out __init__ axis_fronts bare_training completejourney export gpu lifts models month month_arm month_metrics nightly sequence_models tastes,$(basename $(notdir $(wildcard benchmarks/*.py))))

# the tests start hundreds of processes: where no bytecode is kept, each compiles all modules
export PYTHONDONTWRITEBYTECODE :=

READY := .venv/.ready
PY := .venv/bin/python

.PHONY: setup demo test nightly check fmt lint type test-cluster test-faults golden bench docs gpu dashboard help

setup: $(READY)  ## make the environment in .venv (PYTHON=python3.12, INSTALLER=pip)

$(READY): pyproject.toml constraints.txt environment.py
	@$(PYTHON) environment.py $(INSTALLER)
	@touch $@

demo: $(READY)  ## the main job on the built-in shop: click log -> front in MLflow
	@$(PY) -m pipelines.prepare --preset demo
	@$(PY) -m pipelines.tune --preset demo --space tradeoff
	@$(PY) -m pipelines.report --preset demo

test: $(READY)  ## unit tests, then the tests that start a local Ray cluster and kill nothing
	@$(PY) -m pytest --quiet -n auto --dist loadfile
	@$(PY) -m pytest --quiet -m "ray and not slow and not faults" tests/cluster

test-cluster: $(READY)  ## only the tests that start a local Ray cluster
	@$(PY) -m pytest --quiet -m ray tests/cluster

test-faults: $(READY)  ## the tests that kill a process or cut a connection; the long ones are in nightly
	@$(PY) -m pytest --quiet -m "faults and not slow" tests/cluster

nightly: $(READY)  ## all tests without a GPU, with the slow ones, and the fuzz test at 1,000 inputs
	@RECDIV_FUZZ=1000 $(PY) -m pytest --quiet -n auto --dist loadfile -m "not ray and not gpu"
	@$(PY) -m pytest --quiet -m ray tests/cluster

check: lint type test test-faults  ## lint, types and all tests of CI: what a change must pass

fmt: $(READY)  ## format the code and apply safe fixes
	@$(PY) -m ruff check --quiet --fix .
	@$(PY) -m ruff format --quiet .

lint: $(READY)  ## lint and formatting, without changing anything
	@$(PY) -m ruff check --quiet .
	@$(PY) -m ruff format --quiet --check .

type: $(READY)  ## static types
	@$(PY) -m pyright

golden: $(READY)  ## write the golden files in tests/golden again; explain the diff in the commit
	@RECDIV_GOLDEN=write $(PY) -m pytest --quiet tests -k golden

bench: $(READY)  ## measure against other libraries; one JSON line each (BENCH=rerank runs one)
	@for name in $(BENCH); do $(PY) -m benchmarks.$$name; done

docs: $(READY)  ## write docs/settings.md from recdiv_core/config.py
	@$(PY) -m pipelines --settings > docs/settings.md

gpu:  ## run the GPU tests and time a step; needs torch alone (PYTHON=/path/to/python), no .venv
	@$(PYTHON) -m benchmarks.gpu

dashboard: $(READY)  ## serve MLflow and print the link of the newest sweep (PORT=5001)
	@$(PY) -m pipelines.dashboard --port $(PORT)

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*  ## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 22
