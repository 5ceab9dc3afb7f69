# make demo: the quick start.  make test: ruff, mypy, pytest.  make bench: benchmarks/RESULTS.md, in an hour or more.
# All set up .venv on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

# Threads spin only briefly before they sleep: on a shared machine a busy neighbour then costs its share of the time.
export GOMP_SPINCOUNT ?= 20000

.PHONY: demo test lint bench clean

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(READY)

demo: $(READY)
	$(BIN)/topocell run quickstart --out runs/demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto

bench: $(READY)
	$(BIN)/python -m benchmarks.data_path
	$(BIN)/python -m benchmarks.supernet
	$(BIN)/python -m benchmarks.fixed_network

clean:
	rm -rf .venv build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
