# make steer [PROMPT="..."]   set up once, then a text pulls an image of the bundled generator
# make test                   set up once, then the tests
PYTHON ?= python3
VENV   ?= .venv
PROMPT ?= a smiling woman with red hair and sunglasses
OUT    ?= out/steer
BIN    := $(VENV)/bin
# Tests run side by side, one thread each: more threads than cores only slow each other down.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=1
# Without the variable, setuptools prints a page of advice about editable installs.
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet -c constraints.txt
export PROMPT

.DEFAULT_GOAL := help
.PHONY: help setup steer app test test-fast lint format docs bench kernels matrix clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# One virtual environment; a stamp says what was installed into it last.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "make: Python 3.10 or newer is needed, '$(PYTHON)' is older or missing; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV): a few minutes the first time, most of it is torch ..."
	@$(PIP) -e '.[app]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the tools for tests ..."
	@$(PIP) -e '.[dev]'
	@touch $@

setup: $(VENV)/.installed ## install into .venv

steer: $(VENV)/.installed ## a text steers the bundled generator: make steer PROMPT="a man with a red hat"
	@$(BIN)/sg3 steer "$$PROMPT" --network mini-faces --clip mini --outdir $(OUT)

app: $(VENV)/.installed ## the page in the browser
	@$(BIN)/sg3 app

test: $(VENV)/.installed-dev ## all tests
	$(ONE_THREAD) $(BIN)/python -m pytest -n auto --dist loadfile -q

test-fast: $(VENV)/.installed-dev ## tests that take seconds, in under 90 seconds
	$(ONE_THREAD) $(BIN)/python -m pytest -n auto --dist loadfile -q -m "not slow and not browser"

lint: $(VENV)/.installed-dev ## style, formatting, types, direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/house/test_imports.py

format: $(VENV)/.installed-dev ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-dev ## the documentation as a site: site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo "Open site/index.html"

bench: $(VENV)/.installed-dev ## measure what there is to measure
	$(BIN)/python -m benchmarks

kernels: $(VENV)/.installed ## compile the GPU kernels for sm_80, sm_90, sm_100: no GPU needed
	$(BIN)/python -W ignore -m ops_cuda.compile_kernels

matrix: ## the wheel in fresh environments of every Python that is here: gigabytes, minutes each
	.ci/matrix

clean: ## remove .venv, caches and outputs
	rm -rf $(VENV) build site *.egg-info .pytest_cache .ruff_cache out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
