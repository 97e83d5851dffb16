# make demo   install into .venv, run the benchmark on the embedded digits, and make a report of it
# make test   install what is missing, lint, type-check, and run the tests

PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow faults lint clean

help:
	@sed -n 's/^# //p' Makefile

.venv/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/.installed-test: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

install: .venv/.installed

demo: install
	$(BIN)/bench run --seeds 2 --jobs 2 --steps 1000 --out results/demo
	$(BIN)/bench report results/demo

lint: .venv/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m 'not slow'

test-slow: lint
	$(BIN)/python -m pytest -n 2 --dist loadgroup

# make faults  make each fault, and write docs/faults.md
faults: .venv/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m fault --faults=docs/faults.md tests

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
