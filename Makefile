# Everything a developer does, one word each. Needs git, make and python3 (3.11 or newer, with venv); the rest is set up in .venv.
#
#   make PYTHON=python3.12 test      with another interpreter
#   make test ARGS="-k spawn -x"     options for pytest
#   make test TESTS=tests/unit       a part of the tests

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_PYTHON_VERSION_WARNING=1 $(BIN)/python -m pip --quiet
CONSTRAINTS := requirements/constraints.txt
TESTS ?= tests
ARGS ?=
WORKERS ?= 2

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

.PHONY: help
help: ## Show this list
	@echo "make TARGET, where TARGET is one of:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | while IFS='|' read -r name text; do printf '  %-8s  %s\n' "$$name" "$$text"; done

.PHONY: demo
demo: $(VENV)/.installed ## Run a job on a local server, and see it vanish
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/demo.sh

.PHONY: test
test: $(VENV)/.installed ## Build the wheel, install it, and run the tests against it
	@PILEUS_TEST_INSTALLED=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS) $(TESTS)

.PHONY: check
check: $(VENV)/.installed ## Check format, lint and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

.PHONY: format
format: $(VENV)/.dev ## Format the code and mend what lint can mend
	@$(BIN)/ruff check --quiet --fix --exit-zero .
	@$(BIN)/ruff format --quiet .

.PHONY: bench
bench: $(VENV)/.installed ## Measure, and print a table
	@$(BIN)/python bench/run.py $(ARGS)

.PHONY: docs
docs: $(VENV)/.installed $(VENV)/.docs ## Build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs --quiet build --strict --site-dir site
	@echo "documentation: site/index.html"

.PHONY: clean
clean: ## Remove everything that make made
	@rm -rf $(VENV) dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find src tests bench examples -name __pycache__ -type d -prune -exec rm -rf {} +

# --- what the targets stand on; each stamp is a file in .venv, so that removing .venv starts afresh ---

$(VENV)/.made: requirements/check_python.py
	@command -v "$(PYTHON)" >/dev/null || { echo "no $(PYTHON) here: install Python 3.11 or newer, or say make PYTHON=..." >&2; exit 1; }
	@"$(PYTHON)" requirements/check_python.py
	@echo "setting up $(VENV) (once)"
	@rm -rf $(VENV)
	@"$(PYTHON)" -m venv $(VENV)
	@touch $@

$(VENV)/.dev: $(VENV)/.made requirements/dev.txt $(CONSTRAINTS)
	@$(PIP) install -r requirements/dev.txt -c $(CONSTRAINTS)
	@touch $@

$(VENV)/.docs: $(VENV)/.dev requirements/docs.txt
	@$(PIP) install -r requirements/docs.txt -c $(CONSTRAINTS)
	@touch $@

# The list of sources is kept as a file that changes only when the list does: so that a file removed leads to a new wheel, too.
$(VENV)/.sources: $(VENV)/.made FORCE
	@find src -type f ! -name '*.pyc' | LC_ALL=C sort >$@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

$(VENV)/.wheel: $(VENV)/.dev $(VENV)/.sources pyproject.toml README.md LICENSE $(shell find src -type f ! -name '*.pyc')
	@rm -rf dist
	@$(PIP) wheel --no-build-isolation --no-deps --wheel-dir dist .
	@touch $@

$(VENV)/.installed: $(VENV)/.wheel $(CONSTRAINTS)
	@$(PIP) --quiet uninstall --yes pileus
	@$(PIP) install -c $(CONSTRAINTS) dist/pileus-*.whl
	@touch $@

.PHONY: FORCE
FORCE:
