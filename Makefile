# make demo, make test: each sets itself up first. PYTHON=python3.12 make demo picks an interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RUNS ?= runs

.DEFAULT_GOAL := help
.PHONY: help setup demo study test test-all lint clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/' | awk -F': ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(READY)  ## make .venv with everything that is needed (minutes, about 2 GB; more with CUDA)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $$($(PYTHON) --version) is too old; 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)  ## sweep, curvature and comparison table on the embedded digits: minutes on 2 cores
	@$(BIN)/python -m bench.demo runs_dir=$(RUNS) $(ARGS)

study: $(READY)  ## a registered study: tunes 4 optimizers, 8 seeds, verdicts; minutes on 2 cores
	@$(BIN)/python -m bench.main study register +sweeps=demo_study runs_dir=$(RUNS) $(ARGS)
	@$(BIN)/python -m bench.main study +sweeps=demo_study runs_dir=$(RUNS) tuned=$(RUNS)/.tuned $(ARGS)

test: $(READY) lint  ## lint, types and all but the slow tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' -n auto --dist loadfile

test-all: $(READY) lint  ## everything, with the slow end-to-end tests
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## remove .venv and caches; runs/ and data/ stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
