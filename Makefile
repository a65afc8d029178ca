# One command each, on a fresh machine with Python 3.10+ and a C++17 compiler.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
# Idle OpenMP threads must not spin: on a small shared machine that costs more than the work.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test bench lint format wheel clean

demo: $(VENV)/.demo
	$(BIN)/unot-fast demo -o out/demo

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist worksteal

bench: $(VENV)/.bench
	mkdir -p out
	$(BIN)/python -m pytest bench --benchmark-only --benchmark-json=out/bench.json -p no:cacheprovider -rsf
	$(BIN)/python -m bench.report out/bench.json -o out/bench

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The wheel for H100 and H200: needs nvcc, no GPU. Without nvcc `pip wheel .` makes one for the CPU.
wheel: $(VENV)/.test
	rm -rf dist
	$(BIN)/python -m pip wheel --no-deps --no-build-isolation -w dist .
	$(BIN)/python .ci/check_wheel.py dist/unot_fast-*.whl

clean:
	rm -rf $(VENV) build dist out *.egg-info unot_fast/*.so .pytest_cache .ruff_cache .benchmarks .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch is pinned and named in every command, so that no other package can replace it.
SOURCES := setup.py pyproject.toml $(wildcard csrc/* csrc/*/*)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH) -r requirements/base.txt

$(VENV)/.demo: $(BIN)/python requirements/demo.txt $(SOURCES)
	$(BIN)/python -m pip install --quiet $(TORCH) -r requirements/demo.txt
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps -e .
	touch $@

$(VENV)/.test: $(VENV)/.demo requirements/test.txt requirements/harmonics.txt
	$(BIN)/python -m pip install --quiet $(TORCH) -r requirements/test.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -r requirements/harmonics.txt
	touch $@

$(VENV)/.bench: $(VENV)/.test requirements/peers.txt
	$(BIN)/python -m pip install --quiet $(TORCH) -r requirements/peers.txt
	touch $@

$(VENV)/.lint: $(BIN)/python requirements/lint.txt
	$(BIN)/python -m pip install --quiet -r requirements/lint.txt
	touch $@
