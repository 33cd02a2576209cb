# Every target sets itself up: python3 with venv is all a fresh machine needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOWEST := .venv-lowest
LOWEST_READY := $(LOWEST)/.ready

.DEFAULT_GOAL := help
.PHONY: help install demo test test-lowest check format bench clean

help: ## print the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

install: $(READY) ## make .venv and install abaw into it (done once; the others call it)

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $(READY)

demo: $(READY) ## the whole system on rendered faces, in ./demo
	$(BIN)/abaw demo demo

test: $(READY) ## the test suite
	$(BIN)/python -m pytest -q -n auto --dist loadfile

test-lowest: $(LOWEST_READY) ## the test suite on the lowest versions that pyproject.toml allows
	$(LOWEST)/bin/python -m pytest -q -n auto --dist loadfile

# Packages that pyproject.toml names are at their lower bound, the ones that those need at their newest. The bounds
# are those of Python 3.11; on a newer one, the lowest version that has a wheel for it is installed.
$(LOWEST_READY): pyproject.toml
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct \
		--only-binary :all: --editable . --group dev
	@touch $(LOWEST_READY)

check: $(READY) ## ruff, format, mypy --strict, the import arrows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## rewrite the sources in house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## the benchmarks, as ratios measured side by side, and which bars they miss
	$(BIN)/python benchmarks/run_all.py

clean: ## remove .venv, .venv-lowest, caches and the demo
	rm -rf $(VENV) $(LOWEST) demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
