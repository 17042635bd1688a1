# What people, hooks and CI call. `make help` lists it.
# The first Python that is new enough; `make PYTHON=/path/to/python3.12 demo` names another.
ifeq ($(origin PYTHON),undefined)
PYTHON := $(firstword $(foreach python,python3 python3.14 python3.13 python3.12 python3.11,$(shell $(python) -c 'import sys; sys.version_info >= (3, 11) and print("$(python)")' 2>/dev/null)) python3)
endif
BIN := .venv/bin
# Tests by file, so that what a file prepares is made once; in the order of the files, in which the longest come early.
SPREAD := --numprocesses=logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder
# Where this is set, Python compiles every library anew in each of the many processes: starting them takes three times as long.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help python setup setup-dev demo up down clean test lint format types imports unit e2e cluster-test bench lock kind-up kind-down

help: ## List the commands
	@grep -hE '^[a-z0-9%-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: python
	@$(PYTHON) pipelines_lib/bootstrap.py

python:
	@command -v $(PYTHON) >/dev/null || { echo "sluice: no Python 3.11 or newer was found (looked for $(PYTHON)); install one, or name it: make PYTHON=/path/to/python3.12 demo" >&2; exit 1; }

setup-dev: python
	@$(PYTHON) pipelines_lib/bootstrap.py --dev

demo: setup ## From this clone to a trained, deployed, monitored and retrained model, with links to every page
	@$(BIN)/sluice demo

up: setup ## Start Airflow and MLflow
	@$(BIN)/sluice up

down: ## Stop everything that was started
	@if [ -x $(BIN)/sluice ]; then $(BIN)/sluice down; fi

clean: ## Stop everything and forget its state (data, models, runs); .venv stays
	@if [ -x $(BIN)/sluice ]; then $(BIN)/sluice clean; fi

test: lint types imports unit e2e ## The whole suite

lint: setup-dev ## Style
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: setup-dev ## Mend the style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: setup-dev ## Types
	@$(BIN)/mypy

imports: setup-dev ## The boundary between the two worlds, and the layers
	@$(BIN)/lint-imports --no-cache

unit: setup-dev ## Unit, DAG and integration tests
	@$(BIN)/pytest -m "not e2e" $(SPREAD)

e2e: setup-dev ## The end-to-end test: a real Airflow on this machine
	@$(BIN)/pytest -m "e2e and not cluster"

cluster-test: setup-dev ## The same test on the Kubernetes cluster that KUBECONFIG names (docs/cluster-test.md)
	@$(BIN)/pytest -m cluster tests/e2e

bench: setup ## All benchmarks, into benchmarks/results.json
	@for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

bench-%: setup ## One benchmark, such as bench-parse
	@$(BIN)/python benchmarks/bench_$*.py

lock: setup ## Renew the lock and the lists of single roles made from it
	@$(BIN)/python docker/requirements/lock.py

kind-up: ## All of Sluice in a Kubernetes cluster on this machine (needs Docker, kind, kubectl, Helm)
	@docker/kind.sh up

kind-down: ## Take that cluster away
	@docker/kind.sh down
