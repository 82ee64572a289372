# Every target sets up what it needs in .venv, so that Python 3.11 or newer is all a machine has to bring.
# On Linux the default torch wheel comes with CUDA; to use a CPU wheel from a folder instead:
#   make demo PIP_FLAGS='--find-links FOLDER'

PYTHON ?= python3
PIP_FLAGS ?=
PYTEST_FLAGS ?=
# Processes that run the tests; a worker of the tests takes about 2 GiB.
TEST_JOBS ?= $(shell $(PYTHON) -c 'import os; print(min(8, len(os.sched_getaffinity(0))))' 2>/dev/null || echo 2)
# Kinds of damaged files that are tried side by side.
FUZZ_JOBS ?= $(shell $(PYTHON) -c 'import os; print(len(os.sched_getaffinity(0)))' 2>/dev/null || echo 2)
DEMO_FLAGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt $(PIP_FLAGS)
# The tests of a file share what its fixtures make.
PARALLEL := -n $(TEST_JOBS) --dist loadfile
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))

.PHONY: help venv demo test test-all faults fuzz lint docs bench clean

help:
	@echo "make demo      train, publish, predict and evaluate on phantoms (about 6 minutes)"
	@echo "make test      the quick tests of the package and of the plugins"
	@echo "make test-all  all tests, the slow ones too, with their coverage"
	@echo "make faults    commands killed at random moments, full disks, second processes: 200 trials"
	@echo "make fuzz      damaged copies of every kind of file: 100,000 of each (2 hours on 2 cores)"
	@echo "make lint      ruff, import-linter and mypy"
	@echo "make docs      the documentation, into site/"
	@echo "make bench     the benchmarks, results into benchmarks/results/"
	@echo "make venv      only the environment for all of these"
	@echo "make clean     remove everything that these targets made"

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
	@$(PIP) --no-build-isolation -e '.[film,mesh,onnx,openvino,tensorboard,view]' --group dev $(addprefix -e ./,$(PLUGINS))
	@touch $@

venv: $(VENV)/.dev

demo: $(VENV)/.base
	$(BIN)/ctseg demo $(DEMO_FLAGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(PARALLEL) -m 'not slow' $(PYTEST_FLAGS)

test-all: $(VENV)/.dev
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=term:skip-covered $(PYTEST_FLAGS)

faults: $(VENV)/.dev
	$(BIN)/python -m tests.faults --trials 200 --seed 0

fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.hostile --executions 100000 --seed 0 --jobs $(FUZZ_JOBS)

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
