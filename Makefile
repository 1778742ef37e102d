# `make demo` and `make test` set everything up on a fresh machine that has Python 3.11 to 3.13.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
VIDEO  ?=

.PHONY: help venv demo test check format clean
help:
	@echo "make demo [VIDEO=path]   install, export, serve, classify, stop"
	@echo "make test                all tests that need no GPU"
	@echo "make check               format, lint, types, layers"

venv: $(VENV)/ready
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[server,clients,export,dev]'
	@touch $@

test: venv
	$(BIN)/python -m pytest

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) bundles build
