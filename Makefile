# make demo | test | test-fast | test-long | lint | format | clean
#
#   PYTHON=python3.12 make test        another interpreter (at least 3.11)
#   make test-fast PYTHON=python3.12 VENV=.venv312      and an environment beside .venv
#   make test EXTRAS=test,parity       with the reference implementation (torch)
#   make test PYTEST_ARGS="-k quantile"

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= test
# One process per core, at most 8; tests of a file share what it compiled.
PYTEST_ARGS ?= -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

BIN := $(VENV)/bin
# Installed once for each set of extras, and again when setup.py changes.
INSTALLED := $(VENV)/.installed-$(EXTRAS)

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-long lint format clean

help:
	@echo "make demo       train the Countdown demo on the CPU, show what it learnt"
	@echo "make test       the whole test suite"
	@echo "make test-fast  without the tests marked slow: about half of the time"
	@echo "make test-long  whole data sets, hostile sweeps, several processes"
	@echo "make lint       ruff check and ruff format --check"
	@echo "make format     let ruff mend what it can"
	@echo "make clean      remove the environment and caches; runs/ stays"

demo: $(INSTALLED)
	$(BIN)/hapo-train --config=configs/countdown.py --workdir=runs/demo

test: $(INSTALLED)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-fast: $(INSTALLED)
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m "not slow and not long"

test-long: $(INSTALLED)
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m long

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(INSTALLED): setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "hapo_jax needs Python 3.11 or newer, and PYTHON=$(PYTHON) is" \
	    "$$($(PYTHON) --version 2>&1 || true). Set it: make PYTHON=/path/to/python3.11" >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
