# Every target that needs Python first runs `setup`, which is instant when nothing has changed.
#
#   PYTHON=/path/to/python   use this interpreter (3.11 or newer); default: the newest that runs
#   ARGS="..."               passed on to pytest, the demo or the benchmarks

SHELL := /bin/sh
PYTHON ?=
ARGS ?=
MINUTES ?= 10
PY := .venv/bin/python
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help setup fast test demo bench bench-large bench-peers lint types lock interop formal \
	acceptance gate campaign mutants soak test-pythons clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' Makefile

setup:  ## make .venv from requirements.lock; starts nothing
	@sh tools/setup.sh

fast: setup  ## try again to add the optional speed-ups (cbrrr, uvloop)
	@$(PY) tools/setup_venv.py --fast

test: setup  ## all tests that need Python alone
	@$(PY) -m pytest -n 2 $(ARGS)

demo: setup  ## store/add from end to end, with an S3 server of its own
	@$(PY) -m examples.store_add demo $(ARGS)

bench: setup  ## the benchmarks
	@$(PY) -m benchmarks $(ARGS)

bench-large: setup  ## the benchmarks at full size
	@$(PY) -m benchmarks --large $(ARGS)

bench-peers: setup  ## stmflow beside DBOS, absurd, Restate and an outbox (needs npm)
	@$(PY) -m benchmarks.peers $(ARGS)

lint: setup  ## ruff: rules and format
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

types: setup  ## mypy, strict
	@$(PY) -m mypy

lock:  ## write requirements.lock and requirements-fast.lock anew (needs uv)
	@sh tools/lock.sh

interop: setup  ## drive the example's service with real JavaScript clients (needs Node.js)
	@sh tools/interop.sh $(ARGS)

formal: setup  ## TLC confirms what stmflow check finds, on exported models (needs Java; ARGS=--full)
	@$(PY) -m tools.formal $(ARGS)

acceptance: setup  ## the long tests against real processes and disks
	@$(PY) -m pytest -m acceptance $(ARGS)

gate: setup  ## the campaign up to what CI asks of it: seeds, crash points, images, kills
	@$(PY) -m tests.campaign --gate $(ARGS)

campaign: setup  ## the same without end, for MINUTES=10, from a number that is drawn
	@$(PY) -m tests.campaign --minutes $(MINUTES) $(ARGS)

soak: setup  ## load under kills for MINUTES=10, then all must be exact (ARGS="--store postgres")
	@$(PY) -m tests.soak --minutes $(MINUTES) $(ARGS)

mutants: setup  ## plant faults and see whether the tests notice, for MINUTES=10
	@$(PY) -m tests.mutation --minutes $(MINUTES) $(ARGS)

test-pythons: setup  ## the tests with every supported Python found here
	@sh tools/test_pythons.sh $(ARGS)

clean:  ## remove .venv and everything else that was made here
	@rm -rf .venv .venv-* .demo build dist *.egg-info
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	@rm -rf .hypothesis .coverage .coverage.*
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
