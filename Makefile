# make demo       install into .venv, run the benchmark on the embedded digits, and make a report of it
# make test       install what is missing, lint, type-check, and run the tests
# make test-slow    the tests that take more than three seconds each
# make test-costly  the tests that take minutes each
# make docs       build the documentation as a site: docs/_build/html/index.html
# make faults     provoke each fault that the suite claims to survive, and write docs/faults.md

PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-costly docs faults lint clean

help:
	@sed -n 's/^# //p' Makefile

.venv/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/.installed-test: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

.venv/.installed-docs: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

install: .venv/.installed

demo: install
	$(BIN)/bench run --seeds 2 --jobs 2 --steps 1000 --set beta.beta=1.5 --out results/demo --report

lint: .venv/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m 'not slow and not costly'

test-slow: .venv/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m 'slow and not costly'

test-costly: .venv/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m costly

## The first build runs the notebooks in docs/examples (minutes); later builds run those that changed.
docs: .venv/.installed-docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

faults: .venv/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m fault --faults=docs/faults.md tests

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache docs/_build
