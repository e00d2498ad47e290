# make check   install into .venv and run the main job on real data
# make test    the tests and every docstring example
# make lint    ruff, mypy and the contract of the layers
# make planted        plant every fault of the tables in tests/planted; SLICE=10 plants ten of them
# make mutants        mutation run over the rigorous code, resumable; writes results/mutants.json
# make test-portable  the tests as other processors would run them, resumable
# make fuzz           10,000 command lines and 10,000 damaged files, resumable
# make stress         100,000 steps of the sigma_min tracker, each checked exactly, resumable
# make clean   remove .venv and caches
#
# PYTHON     which interpreter makes the environment (3.11 or newer)
# PIP_FLAGS  more options for pip, e.g. an index that has CPU builds of torch
# WORKERS    test processes

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
PIP_FLAGS ?=
TESTFLAGS ?= -m "not slow"
SLICE ?= 0

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
INPUTS := setup.cfg pyproject.toml constraints.txt

# Small matrices: one thread per process, or threads wait for one another.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export NUMBA_NUM_THREADS ?= 1

.PHONY: check test lint planted mutants test-portable fuzz stress clean
.DELETE_ON_ERROR:

check: $(VENV)/.installed
	$(BIN)/python -m experiments.full_gd_on_digits

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(TESTFLAGS)

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check --output-format concise .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

planted: $(VENV)/.installed-test
	$(BIN)/python tests/planted/plant.py --slice $(SLICE) --jobs $(WORKERS)

mutants: $(VENV)/.installed-mutants
	$(BIN)/python tests/planted/mutants.py --jobs $(WORKERS)

test-portable: $(VENV)/.installed-test
	$(BIN)/python tests/portable.py --workers $(WORKERS)

fuzz: $(VENV)/.installed-test
	$(BIN)/python tests/fuzz/run.py --workers $(WORKERS)

stress: $(VENV)/.installed-test
	$(BIN)/python tests/stress_tracking.py --steps 100000

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "gdconv needs Python 3.11 or newer and '$(PYTHON)' is not that: name one, as in 'make check PYTHON=python3.12'." >&2; \
	  exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed: install your system's venv package (python3-venv on Debian)." >&2; \
	  exit 1; }
	@touch $@

$(VENV)/.installed: $(VENV)/.made $(INPUTS)
	@echo "Installing gdconv into $(VENV) (torch is large: this can take some minutes) ..."
	@$(PIP) install -c constraints.txt $(PIP_FLAGS) -e .
	@touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	@echo "Installing what 'make $*' needs into $(VENV) ..."
	@$(PIP) install -c constraints.txt $(PIP_FLAGS) -e '.[$*]'
	@touch $@
