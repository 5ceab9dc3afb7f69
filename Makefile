# make demo: the quick start.  make test: ruff, mypy, pytest.  make bench: benchmarks/RESULTS.md, in an hour or more.
# make faults: kills, full disks, damaged files, malformed input, small shapes; docs/reliability.md, within an hour.
# make dist: wheel and source archive.  make install-test: the wheel in an empty environment of each Python (PYTHONS names
# them).  make docs: the pages that are made from the code, and the site of all pages, build/site.
# make soak: half an hour in which memory, open files and checkpoints must stay flat.  make photos: half an hour of whole runs on
# thousands of photos, killed and resumed.  All set up .venv on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

# Threads spin only briefly before they sleep: on a shared machine a busy neighbour then costs its share of the time.
export GOMP_SPINCOUNT ?= 20000

# The processes that tests start need not compile the sources each time, whatever the user's own settings.
export PYTHONDONTWRITEBYTECODE :=

# Of coverage-guided fuzzing in `make faults`.
FUZZ_MINUTES ?= 10

# Archives of one commit are the same bytes: their files bear its time.
COMMIT_TIME = $(shell git log -1 --format=%ct 2>/dev/null || echo 1580601600)
PYTHONS ?=

.PHONY: demo test lint bench faults audit soak photos dist install-test docs clean

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(READY)

demo: $(READY)
	$(BIN)/topocell run quickstart --out runs/demo

LINT := $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

lint: $(READY)
	$(LINT)

# Beside each other: types are checked by one process alone, which would leave the other cores idle.
test: $(READY)
	($(LINT)) & lint=$$!; failed=0; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal || failed=1; \
	wait $$lint && exit $$failed

bench: $(READY)
	$(BIN)/python -m benchmarks.all

# Goes on after a failure, so that the table shows it; the exit code is that of the whole.
faults: export TOPOCELL_FAULTS = full
faults: export TOPOCELL_FAULT_RECORD = $(CURDIR)/build/faults.jsonl
faults: $(READY)
	$(BIN)/python -m pip install --quiet --editable ".[dev-fuzz]" || true
	mkdir -p build && rm -f "$(TOPOCELL_FAULT_RECORD)"
	failed=0; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 tests/faults tests/fuzz tests/unit/nn/test_sweep.py || failed=1; \
	if $(BIN)/python -c "import atheris" 2>/dev/null; \
	then $(BIN)/python -m tests.fuzz.parsers_atheris --minutes $(FUZZ_MINUTES) || failed=1; \
	else echo "coverage-guided fuzzing is left out: atheris cannot be installed here"; fi; \
	$(BIN)/python -m tests.faults.soak --minutes 3 || failed=1; \
	$(BIN)/python -m tests.faults.table "$(TOPOCELL_FAULT_RECORD)" docs/reliability.md && exit $$failed

# Known vulnerabilities of what is installed, and patterns in the sources that usually are some.
audit: $(READY)
	$(BIN)/python -m pip install --quiet --editable ".[dev-audit]"
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive src
	$(BIN)/pip-audit --skip-editable

soak: $(READY)
	$(BIN)/python -m tests.faults.soak --minutes 30

photos: $(READY)
	$(BIN)/python -m tests.helpers.image_tree build/photos
	$(BIN)/python -m tests.faults.large_images build/photos --out build/photos-runs

dist: $(READY)
	rm -rf dist
	SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$(COMMIT_TIME)} $(BIN)/python -m build --no-isolation --outdir dist .

install-test: dist
	$(BIN)/python .ci/install_test.py dist/*.whl $(PYTHONS)

# The commands and Python blocks of all pages run in `make test`; this writes pages anew, and fails where a link or anchor
# of the site leads nowhere.
docs: $(READY)
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	$(BIN)/python -m topocell.config.reference > docs/recipe-keys.md
	$(BIN)/python -m tests.helpers.pages
	$(BIN)/python -m tests.helpers.site gather
	$(BIN)/zensical build --strict --clean
	$(BIN)/python -m tests.helpers.site detach

clean:
	rm -rf .venv build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
