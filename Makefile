# Every target makes what it needs, the virtual environment included.
# Knobs: PYTHON=/path/to/python3  VENV=.venv  PYTEST="-k name"  ATTACKS="F9 P1"  KILLS=10000
#        MACHINES="--release 6.1 --caller user" for test-kernels

SHELL := /bin/sh
.DEFAULT_GOAL := help

VENV ?= .venv
# Resolved only by the rule that needs it, so that `make help` works anywhere.
PYTHON ?= $(shell tools/find-python)
PYTEST ?=
ATTACKS ?=
KILLS ?= 10000
CHAOS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check -q install
# compat: the finder that setuptools installs otherwise is asked last, after a
# directory named evalbox (the clone itself) has become a namespace package.
EDITABLE := --no-build-isolation --config-settings editable_mode=compat -e
C_FILES := $(wildcard csrc/*.c csrc/*.h)
C_TESTS := $(wildcard bench/*.c tests/c/*.[ch] tests/fuzz/*.[ch])
# Sanitizer runtimes do not survive leak checks inside an interpreter.
ASAN_ENV = ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0 UBSAN_OPTIONS=print_stacktrace=1
# Absolute: tests start interpreters in other directories.
ASAN_LIB := $(CURDIR)/build/asan/lib
# Safe path: `python -c` would look in the current directory, the other build, first.
ASAN_PATH := PYTHONSAFEPATH=1 PYTHONPATH=$(ASAN_LIB) EVALBOX_EXPECT_FROM=$(ASAN_LIB)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---- environment and build ---------------------------------------------------

$(BIN)/.base: tools/find-python
	@test -n "$(PYTHON)"
	@command -v gcc >/dev/null || command -v cc >/dev/null || command -v clang >/dev/null || \
	    { echo "No C compiler. On Debian or Ubuntu: apt-get install gcc libc6-dev"; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	$(PIP) 'setuptools>=77' 'cffi>=1.16'
	@touch $@

$(BIN)/.installed: $(BIN)/.base pyproject.toml
	$(PIP) $(EDITABLE) .
	@touch $@

$(BIN)/.built: $(BIN)/.installed setup.py csrc/sources.py csrc/ffi_build.py $(C_FILES)
	$(BIN)/python setup.py -q build_ext --inplace
	@touch $@

# One rule for the extras: .venv/bin/.extra-test installs what [test] lists.
$(BIN)/.extra-%: $(BIN)/.installed pyproject.toml
	$(PIP) $(EDITABLE) '.[$*]'
	@touch $@

.PHONY: venv build
venv: $(BIN)/.base ## make the virtual environment
build: $(BIN)/.built ## compile evalbox._core and the launcher in place

# ---- use ---------------------------------------------------------------------

.PHONY: demo
demo: $(BIN)/.built $(BIN)/.extra-cli $(BIN)/.extra-data ## grade a real data set in real sandboxes
	$(BIN)/python tools/demo.py

# ---- tests -------------------------------------------------------------------

TEST_READY := $(BIN)/.built $(BIN)/.extra-test $(BIN)/.extra-cli $(BIN)/.extra-data

.PHONY: test test-long test-all test-c test-asan test-security exposure chaos docs-test
test: $(TEST_READY) ## the suite in at most 8 minutes
	$(BIN)/pytest -m "not long" $(PYTEST)

test-long: $(TEST_READY) ## only the long suites: stress, fuzz, 10 000 runs
	$(BIN)/pytest -m long --timeout 3600 $(PYTEST)

test-all: $(TEST_READY) ## everything
	$(BIN)/pytest --timeout 3600 $(PYTEST)

test-security: $(TEST_READY) ## attack x caller x tier (ATTACKS="F9", ATTACKS=--write for the docs)
	PYTHONPATH=$(CURDIR):$(CURDIR)/tests $(BIN)/python -m security.table $(ATTACKS)

exposure: $(TEST_READY) ## what a program can reach, beside bubblewrap (EXPOSURE=--write for the docs)
	PYTHONPATH=$(CURDIR):$(CURDIR)/tests $(BIN)/python -m security.exposure $(EXPOSURE)

chaos: $(TEST_READY) ## SIGKILLs under load (KILLS=10000, CHAOS="--seed 1 --tiers process")
	PYTHONPATH=$(CURDIR):$(CURDIR)/tests $(BIN)/python -m chaos.drive --kills $(KILLS) $(CHAOS)

docs-test: $(TEST_READY) ## run the code blocks of README and docs
	$(BIN)/pytest tests/test_docs.py $(PYTEST)

test-c: $(BIN)/.base ## the C tests (tests/c), with sanitizers
	BUILD=build/c EVALBOX_SANITIZE=1 tools/test-c $(BIN)/python

test-asan: $(TEST_READY) test-c ## the C tests and the core paths on a sanitized build
	rm -rf build/asan
	EVALBOX_SANITIZE=1 $(BIN)/python setup.py -q build --build-base build/asan --build-lib $(ASAN_LIB)
	$(ASAN_ENV) $(ASAN_PATH) LD_PRELOAD="$$(gcc -print-file-name=libasan.so)" \
	    $(BIN)/pytest -m core -p no:cacheprovider $(PYTEST)

# ---- kernels -------------------------------------------------------------------

KERNELS := build/kernels
RELEASES := 6.1 6.12

# Whatever is there is used again: `rm -r build/kernels` for newer kernels.
$(KERNELS)/%/vmlinuz:
	tools/kernels/fetch $(KERNELS) $*

$(KERNELS)/root.ext4: tools/kernels/system.py tools/kernels/init $(filter-out %.built,$(TEST_READY))
	$(BIN)/python tools/kernels/system.py $(VENV) $@

.PHONY: test-kernels
test-kernels: $(TEST_READY) $(RELEASES:%=$(KERNELS)/%/vmlinuz) $(KERNELS)/root.ext4 ## suites on Debian's 6.1 and 6.12, emulated
	nice -n 10 $(BIN)/python tools/kernels/run.py $(MACHINES)

# ---- fuzzing -----------------------------------------------------------------

FUZZ_SECONDS ?= 10
CALLS ?= 5000000
TIER ?= auto

.PHONY: fuzz fuzz-keep fuzz-syscalls
fuzz: $(BIN)/.base ## libFuzzer on each C target (FUZZ_SECONDS=10, FUZZ="filter job")
	tools/fuzz $(BIN)/python $(FUZZ_SECONDS) $(FUZZ)

fuzz-keep: fuzz ## the same, and add to tests/fuzz/corpus what it found
	for target in $$($(BIN)/python tests/fuzz/targets.py names); do \
	    build/fuzz/$$target -merge=1 tests/fuzz/corpus/$$target build/fuzz/corpus/$$target; done

fuzz-syscalls: $(TEST_READY) ## random system calls from inside (CALLS=5000000, TIER=auto)
	$(BIN)/python tests/fuzz/run_syscalls.py $(CALLS) $(TIER)

# ---- quality -----------------------------------------------------------------

LINT_READY := $(BIN)/.built $(BIN)/.extra-lint $(BIN)/.extra-test $(BIN)/.extra-cli

.PHONY: lint lint-python lint-c check-child format
lint: lint-python lint-c check-child ## every static check

lint-python: $(LINT_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lint-c: $(LINT_READY)
	$(BIN)/clang-format --dry-run -Werror $(C_FILES) $(C_TESTS)
	tools/lint-c $(BIN)/python gcc clang

check-child: $(BIN)/.base ## what the code between clone and exec may call
	tools/check-child $(BIN)/python

format: $(LINT_READY) ## rewrite Python and C in the project's layout
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(C_FILES) $(C_TESTS)

# ---- measurements ------------------------------------------------------------

# Other sandboxes that are Python packages, in an environment of their own: no
# dependency of the project.  One that cannot be installed is named in the results.
PEERS := build/peers
PEER_PACKAGES := sandlock dmoj

.PHONY: bench bench-peers bench-compare bench-deadlines bench-scale bench-micro profile
bench: $(BIN)/.built $(BIN)/.extra-test ## cost of a run against the C floor, as a page (BENCH="--quick")
	$(BIN)/python bench/run.py $(BENCH)

bench-peers: ## install what bench compares with and is a Python package
	"$(PYTHON)" -m venv $(PEERS)
	for package in $(PEER_PACKAGES); do \
	    $(PEERS)/bin/pip --disable-pip-version-check -q install $$package > $(PEERS)/$$package.log 2>&1 || \
	    echo "$$package cannot be installed, see $(PEERS)/$$package.log"; done

bench-compare: $(BIN)/.built ## measure again; exit 1 if a ratio is worse than stored (BENCH="--only latency")
	$(BIN)/python bench/compare.py $(BENCH)

profile: $(BIN)/.built ## what a run costs by step, in us and as shares of the floor (BENCH="--rounds 5")
	$(BIN)/python bench/steps.py $(BENCH)

bench-deadlines: $(BIN)/.built ## from a deadline to the last process dead (BENCH="--runs 40")
	$(BIN)/python bench/deadlines.py $(BENCH)

bench-scale: $(BIN)/.built ## what one costs among 1 to 1000 others (BENCH="--rounds 5")
	$(BIN)/python bench/scale.py $(BENCH)

bench-micro: $(BIN)/.built $(BIN)/.extra-test ## time per operation of single parts
	$(BIN)/pytest bench/micro -o python_files='bench_*.py' -o python_functions='bench_*' $(PYTEST)

.PHONY: clean
clean: ## remove what the other targets made
	rm -rf $(VENV) build dist *.egg-info evalbox/_launcher evalbox/*.so evalbox/_core.c
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
