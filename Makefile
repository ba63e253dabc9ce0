# Every target works from a fresh clone: the first one that needs Python makes .venv.
# Variables: PYTHON (interpreter for .venv), TORCH_INDEX_URL (where torch comes from), OMP_NUM_THREADS (tests),
#            ARGS (handed to pytest by `make test` and `make oldest`, or to the command by `make demo`).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: setup demo test oldest check format bench docs build clean help

PYTHON ?= python3
# Empty: the default index. On Linux without a GPU, https://download.pytorch.org/whl/cpu saves gigabytes.
TORCH_INDEX_URL ?=
# One thread: tests of this size are slowed down by more, and float32 sums stay reproducible.
OMP_NUM_THREADS ?= 1
ARGS ?=

VENV := .venv
CONSTRAINTS := constraints.txt
VENV_PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.evodraft-installed
# Twice quiet: one line per step from here; pip still reports errors.
PIP := $(VENV_PYTHON) -m pip --quiet --quiet --disable-pip-version-check
TORCH = $(shell grep '^torch==' $(CONSTRAINTS))
BENCH := $(VENV_PYTHON) -m evodraft bench run domains --prompts-per-group 5 --max-new-tokens 96
RESULTS := benchmarks/results
# An untested line in one of these can change what a model says.
FULLY_COVERED := src/evodraft/verifiers/*,src/evodraft/sampling.py,src/evodraft/session.py

$(STAMP): pyproject.toml $(CONSTRAINTS) demo/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "evodraft needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1); set PYTHON=..."; exit 1; }
	@echo "setup 1/3: $(VENV) ($$($(PYTHON) -V))"
	@$(VENV_PYTHON) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "setup 2/3: $(TORCH) from $(or $(TORCH_INDEX_URL),the default index) (large; may take minutes)"
	@$(PIP) install $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) $(TORCH)
	@echo "setup 3/3: evodraft with its development tools, and evodraft-demo"
	@$(PIP) install --constraint $(CONSTRAINTS) --editable '.[dev]' --editable ./demo
	@touch $@

setup: $(STAMP)  ## make .venv and install everything into it

demo: $(STAMP)  ## generate with the bundled models, plainly and speculatively, and compare
	@$(VENV_PYTHON) -m evodraft demo $(ARGS)

test: $(STAMP)  ## run the test suite and check coverage (ARGS="-k engine": some tests, no coverage)
	@OMP_NUM_THREADS=$(OMP_NUM_THREADS) $(VENV_PYTHON) -m pytest $(or $(ARGS),--cov)
ifeq ($(ARGS),)
	@echo "coverage of the parts that must be complete:"
	@$(VENV_PYTHON) -m coverage report --include='$(FULLY_COVERED)' --fail-under=100
endif

.venv-oldest/constraints.txt: pyproject.toml constraints.txt tools/oldest.py
	@mkdir -p $(@D)
	@$(PYTHON) tools/oldest.py > $@

oldest: .venv-oldest/constraints.txt  ## run the suite with the oldest dependencies that pyproject.toml accepts
	@$(MAKE) --no-print-directory test VENV=.venv-oldest CONSTRAINTS=$< ARGS='$(or $(ARGS),--quiet)'

check: $(STAMP)  ## formatting, lint and types, without changing a file
	@$(VENV_PYTHON) tools/check_files.py
	@$(VENV_PYTHON) -m ruff format --check .
	@$(VENV_PYTHON) -m ruff check .
	@$(VENV_PYTHON) -m mypy

format: $(STAMP)  ## rewrite files the way `make check` wants them
	@$(VENV_PYTHON) -m ruff check --fix .
	@$(VENV_PYTHON) -m ruff format .

# A noisy machine ends it: its figures would prove nothing.
bench: $(STAMP)  ## measure the demo models as stored and in float32 (half an hour), and fill the tables of README
	@$(BENCH) --method auto --method ngram --json $(RESULTS)/domains.json
	@$(BENCH) --json $(RESULTS)/domains_float32.json --dtype float32 --condition T=0.7 --condition T=0 --method auto
	@$(VENV_PYTHON) tools/bench_tables.py

docs: $(STAMP)  ## check the documentation: links, names of tests, examples
	@OMP_NUM_THREADS=$(OMP_NUM_THREADS) $(VENV_PYTHON) -m pytest tests/docs

# Each wheel is made from the sdist, so that the sdist is known to be complete and nothing stale can come along.
build: $(STAMP)  ## build evodraft and evodraft-demo into dist/, check the wheels and try them in a clean environment
	@rm -rf dist
	@$(VENV_PYTHON) -m build --quiet --outdir dist .
	@$(VENV_PYTHON) -m build --quiet --outdir dist demo
	@$(VENV_PYTHON) tools/check_wheels.py dist
	@$(VENV_PYTHON) tools/try_wheels.py dist $(if $(TORCH_INDEX_URL),--torch-index-url $(TORCH_INDEX_URL))

clean:  ## remove what was built or cached (.venv stays; delete it to start afresh)
	@rm -rf build demo/build dist .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find src demo tests -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10
