# Every target sets up what it needs in .venv, so that Python 3.11 or newer is all a machine has to bring.
# On Linux the default torch wheel comes with CUDA; to use a CPU wheel from a folder instead:
#   make demo PIP_FLAGS='--find-links FOLDER'

PYTHON ?= python3
PIP_FLAGS ?=
PYTEST_FLAGS ?=
DEMO_FLAGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt $(PIP_FLAGS)
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))

.PHONY: help venv demo test lint docs bench clean

help:
	@echo "make demo    train, publish, predict and evaluate on phantoms (about 6 minutes)"
	@echo "make test    the tests of the package and of the plugins, with their coverage"
	@echo "make lint    ruff, import-linter and mypy"
	@echo "make docs    the documentation, into site/"
	@echo "make bench   the benchmarks, results into benchmarks/results/"
	@echo "make venv    only the environment for all of these"
	@echo "make clean   remove everything that these targets made"

# The package alone: what 'make demo' needs. torch comes first and by itself, so that nothing that depends on it
# can choose another build of it.
$(VENV)/.base: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "ctseg needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1);" \
		"name another one: make PYTHON=python3.11" >&2; exit 2; }
	@echo "Setting up $(VENV) (once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --upgrade pip
	@$(PIP) torch
	@$(PIP) hatchling editables
	@$(PIP) --no-build-isolation -e .
	@touch $@

# What the tests, the linters and the docs need besides.
$(VENV)/.dev: $(VENV)/.base $(addsuffix /pyproject.toml,$(PLUGINS))
	@echo "Adding the tools for development to $(VENV) (once)"
	@$(PIP) --no-build-isolation -e '.[tensorboard]' --group dev $(addprefix -e ./,$(PLUGINS))
	@touch $@

venv: $(VENV)/.dev

demo: $(VENV)/.base
	$(BIN)/ctseg demo $(DEMO_FLAGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered $(PYTEST_FLAGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/mypy

docs: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV)/.dev
	$(BIN)/python docs/generate.py --check
	$(BIN)/python docs/peers.py --check
	$(BIN)/mkdocs build --strict

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) site dist build demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	rm -f .coverage .coverage.* coverage.xml
	find ctseg tests plugins benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +
