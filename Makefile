# What people, hooks and CI call. `make help` lists it.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo up down clean test lint format types imports unit e2e bench lock

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup:
	@$(PYTHON) pipelines_lib/bootstrap.py

setup-dev:
	@$(PYTHON) pipelines_lib/bootstrap.py --dev

demo: setup ## From this clone to a trained, deployed, monitored and retrained model, with links to every page
	@$(BIN)/sluice demo

up: setup ## Start Airflow and MLflow
	@$(BIN)/sluice up

down: ## Stop everything that was started
	@if [ -x $(BIN)/sluice ]; then $(BIN)/sluice down; fi

clean: down ## Stop everything and forget its state (data, models, runs); .venv stays
	@rm -rf .sluice
	@echo "forgot .sluice"

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
	@$(BIN)/lint-imports --no-cache | tail -8

unit: setup-dev ## Unit, DAG and integration tests
	@$(BIN)/pytest -m "not e2e"

e2e: setup-dev ## The end-to-end test: a real Airflow on this machine
	@$(BIN)/pytest -m e2e

bench: setup ## All benchmarks, into benchmarks/results.json
	@for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

bench-%: setup ## One benchmark, such as bench-parse
	@$(BIN)/python benchmarks/bench_$*.py

lock: setup ## Renew the lock and the lists of single roles made from it
	@$(BIN)/python docker/requirements/lock.py
