# Two commands on a fresh machine: 'make epoch' runs one whole human-feedback epoch, 'make test' passes the tests.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= configs/demo.yaml
RUN ?= runs/demo
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: help install epoch test quick check lint types lock services-down clean model

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */  make \1\t/' | expand -t 22

install: $(VENV)/.installed  ## the Python environment, from the pinned versions
$(VENV)/.installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "expected $(PYTHON) on the PATH; next: make $(MAKECMDGOALS) PYTHON=python3.11 (or 3.12)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

epoch: install  ## one whole epoch on the bundled model: services up, generate, judge (simulated), train, before/after
	@$(BIN)/d3po services up
	@$(BIN)/d3po init $(CONFIG)
	@PREFECT_LOGGING_LEVEL=WARNING $(BIN)/prefect deployment run epoch/epoch -p config=$(CONFIG)
	@$(BIN)/d3po annotate $(RUN) --simulate --wait 300
	@$(BIN)/d3po status $(RUN) --wait-for seal --timeout 600
	@$(BIN)/d3po report $(RUN)

test: install system-packages  ## all tests, against a real Label Studio, Prefect server, browser, S3 server, PostgreSQL
	$(BIN)/ruff check .
	$(BIN)/mypy
	@# Four processes, as they wait for servers half of the time; a file's tests stay together, as they share services,
	@# and files keep the order that tests/conftest.py gives them: the longest first.
	$(BIN)/python -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder --durations 25

quick: install  ## the tests that take less than ten seconds each
	$(BIN)/python -m pytest -m 'not slow' -x

check: install  ## what CI runs before the tests: style and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

.PHONY: system-packages
system-packages:  ## Chromium and PostgreSQL for the tests, from Debian, where they are missing
	@missing=""; command -v chromium >/dev/null || missing="$$missing chromium"; \
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$$missing postgresql"; \
	if [ -n "$$missing" ]; then $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends $$missing fonts-dejavu-core >/dev/null; fi

model: install  ## make the bundled model again from nothing (about an hour on two cores)
	$(BIN)/python -m assets.shapes_world.make_model --out assets/shapes

lock: install  ## write constraints.txt again from this environment
	{ grep '^#' constraints.txt; $(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//' | grep -vE '^(pip|setuptools|wheel)=='; } > constraints.new && mv constraints.new constraints.txt

services-down:  ## stop Label Studio, the Prefect server and the worker
	$(BIN)/d3po services down

clean: ## remove what the tests and tools leave; runs and services stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis test-artifacts build *.egg-info
