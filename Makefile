# From a bare machine with Python 3.11 or newer: `make demo`, `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# In the order of tests/conftest.py, which puts what takes longest first.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
DEMO := --config=configs/shapes_sta.py --workdir=runs/demo

.DEFAULT_GOAL := help
.PHONY: help venv demo test fast coverage lint bench notebook docs clean

help:
	@echo "make demo   make a small dataset, train STAN, track the held-out videos"
	@echo "make test   all tests        make fast   all but the slow ones"
	@echo "make coverage   all tests, and which lines they run"
	@echo "make lint   ruff and ty      make venv   only install    make clean"
	@echo "make docs   the pages in docs/ as a site"
	@echo "make bench  time frame and training step, against the last time on this machine"
	@echo "make notebook   notebooks/stan.ipynb from its .py, and run"

venv: $(VENV)/.has-core

# Level 3: a busy machine is no "Very slow compile" to report to the compiler's authors.
demo: export TF_CPP_MIN_LOG_LEVEL ?= 3
demo: $(VENV)/.has-tb
	$(BIN)/python -m stan_jax.shapes --out=data/shapes
	$(BIN)/python train.py $(DEMO)
	$(BIN)/python eval.py --workdir=runs/demo

test: $(VENV)/.has-test
	$(PYTEST) --durations=15 $(ARGS)

# A target of its own: tests that trace take 1.4 times as long with every line watched.
coverage: ARGS += --cov=stan_jax --cov-report=term:skip-covered
coverage: test

fast: $(VENV)/.has-test
	$(PYTEST) -m "not slow" $(ARGS)

# What tests and notebook need is installed as well: ty looks into the optional packages.
lint: $(VENV)/.has-test $(VENV)/.has-notebook $(VENV)/.has-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check

# The first time there is nothing to hold it against: build/speed.json is made.
bench: venv
	mkdir -p build
	$(BIN)/python benchmarks/compare.py \
		$(if $(wildcard build/speed.json),--rounds=3 --against,--json)=build/speed.json

# The notebook in the repository has no outputs; what it shows is in build/.
notebook: $(VENV)/.has-notebook
	$(BIN)/jupytext --quiet --to ipynb --update notebooks/stan.py
	mkdir -p build
	$(BIN)/jupyter execute --timeout=900 --output=../build/stan.ipynb notebooks/stan.ipynb

# Warnings are errors.
docs: $(VENV)/.has-docs
	$(BIN)/python -m sphinx -q -W --keep-going -j 2 docs build/docs
	@echo "build/docs/index.html"

clean:
	rm -rf $(VENV) .venv312 build dist *.egg-info .coverage .pytest_cache .ruff_cache .hypothesis
	find stan_jax tests -name __pycache__ -type d -exec rm -rf {} +

# One stamp for each set of extras; older than setup.cfg means: install again.
$(VENV)/.has-core: setup.cfg pyproject.toml | $(BIN)/python
	@echo "installing stan_jax into $(VENV) ..."
	$(PIP) install -e .
	@touch $@

$(VENV)/.has-%: setup.cfg pyproject.toml | $(BIN)/python
	@echo "installing stan_jax[$*] into $(VENV) ..."
	$(PIP) install -e '.[$*]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
	  f"Python 3.11 or newer is needed, this is {v[0]}.{v[1]}: set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
