# make demo: from a fresh machine to a verdict.   make test: every test.   make help: the rest.
SHELL := /bin/bash
VENV ?= .venv
PYTHON ?= python3.11
BIN := $(abspath $(VENV))/bin
WORKERS ?= 2
export PATH := $(BIN):$(PATH)

.PHONY: help setup demo test faults guide lint bench screenshots ui server clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 10

setup: $(VENV)/.complete ## the environment, exactly as locked; fast the second time

$(VENV)/.complete: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "setup: $(PYTHON) is not on this machine; install Python 3.11, or pass PYTHON=path/to/python3.11"; exit 1; }
	@echo "Installing the locked packages into $(VENV) (a few minutes the first time) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## the whole experiment on the built-in lab model, CPU only
	@python -m skippy.tracking.store
	mlflow run . --env-manager local --experiment-name skippy
	@echo "Look at it: make ui"

# One thread a worker, since those of two would fight for two cores; a file stays on one worker, long ones first (tests/conftest.py).
test: setup ## every test, the whole pipeline among them
	OMP_NUM_THREADS=1 python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder tests

faults: setup ## kill every stage at every call and at random moments, some 200 times, and look what is left
	OMP_NUM_THREADS=1 SKIPPY_FAULTS=all python -m pytest -n $(WORKERS) --dist worksteal tests/faults

guide: setup ## walk docs/guide.md and, with it, the demo and the rows of its table that need nothing else (a quarter of an hour)
	SKIPPY_GUIDE=all python -m pytest tests/docs

lint: setup ## ruff and mypy
	ruff check .
	ruff format --check .
	mypy

bench: setup ## every speed and accuracy figure, as ratios taken in one process
	python -m benchmarks

screenshots: setup ## pictures of page, model card and MLflow's views, in build/screenshots (needs Chromium)
	SKIPPY_SCREENSHOTS=build/screenshots python -m pytest -q -rs tests/report/test_screenshots.py

ui: setup ## the MLflow UI on http://127.0.0.1:5000
	@python -m skippy.tracking.store
	mlflow server --host 127.0.0.1 --port 5000 --backend-store-uri $${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db} --default-artifact-root mlartifacts

server: setup ## a team's tracking server on http://127.0.0.1:5000: PostgreSQL, accounts (docs/server.md)
	skippy server $(SERVER)

clean: ## remove the environment and unfinished work; runs and models stay
	rm -rf $(VENV) .skippy build *.egg-info
