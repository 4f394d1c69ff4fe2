# Everything runs in .venv, made from requirements.lock. Needs Python 3.11 or newer with venv, and make; nothing else.
PYTHON ?= python3
# Another package index for torch, such as one with CUDA builds: make setup TORCH_INDEX=https://…
TORCH_INDEX ?=
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: setup demo test lint types contracts check benchmarks docs clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Secateur needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; set PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
ifneq ($(TORCH_INDEX),)
	$(BIN)/pip install --disable-pip-version-check --quiet --index-url $(TORCH_INDEX) $$(grep '^torch==' requirements.lock)
endif
	$(BIN)/pip install --disable-pip-version-check --quiet -r requirements.lock
	$(BIN)/pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	touch $@

demo: setup
	$(BIN)/secateur demo

# One worker per core, each on one thread: the suite is many small things.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

contracts: setup
	$(BIN)/lint-imports

check: lint types contracts test

docs: setup
	$(BIN)/python benchmarks/tables.py

clean:
	rm -rf .venv
