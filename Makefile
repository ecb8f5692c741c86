# `make quickstart`, `make test` and `make test-all` each do their own set-up; it takes a second when it is already there.
.PHONY: help setup setup-run lock quickstart experiment test test-all lint speed chaos docs clean

PYTHON_IN_VENV := .venv/bin/python

help:
	@echo "make quickstart   align a small vision-language model with three methods, score it on four benchmarks"
	@echo "make test         ruff, mypy and the tests that take seconds"
	@echo "make test-all     the same with the slow tests: engines, trainings, kills (what CI runs)"
	@echo "make speed        measure what the README says about time and memory"
	@echo "make chaos        kill an evaluation of 2,000 items, a training, exports and more again and again: nothing may be lost (about half an hour)"
	@echo "make experiment   three methods on three pocket worlds, as in docs/results/pocket.md (about 40 minutes on 2 cores)"
	@echo "make docs         build the documentation into site/"
	@echo "make setup        only the virtual environment (setup-run: without the tools for tests and documentation)"
	@echo "make lock         write locks/: every package of the CPU and the GPU set, with hashes (needs uv)"
	@echo "make clean        remove the virtual environment and the tools' caches (results/ stays)"

setup:
	@scripts/setup.sh dev

# What commands need, without the tools for tests and documentation: a fresh clone's quickstart waits for less.
setup-run:
	@scripts/setup.sh run

lock:
	@scripts/lock.sh

quickstart: setup-run
	@.venv/bin/harness quickstart $(ARGS)

experiment: setup-run
	@.venv/bin/harness experiment pocket $(ARGS)

lint: setup
	@.venv/bin/ruff check .
	@.venv/bin/mypy

PYTEST := OMP_NUM_THREADS=1 $(PYTHON_IN_VENV) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: lint
	@$(PYTEST) -m "not slow" $(ARGS)

test-all: lint
	@$(PYTEST) $(ARGS)

speed: setup
	@$(PYTHON_IN_VENV) -m tests.speed $(ARGS)

chaos: setup
	@$(PYTHON_IN_VENV) -m tests.chaos $(ARGS)

docs: setup
	@$(PYTHON_IN_VENV) -m mkdocs build --quiet $(ARGS)
	@echo "site/index.html"

clean:
	rm -rf .venv site .mypy_cache .ruff_cache .pytest_cache
