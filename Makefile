# Two words for users (demo, test), the others for developers: check, format, test-fast, test-backends, bench, bench-smoke, quality,
# quality-smoke. Each installs what it needs into .venv.
PYTHON ?= $(firstword $(shell command -v python3.11 python3 2>/dev/null))
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: demo test test-fast bench bench-smoke quality quality-smoke test-backends check format clean

demo: .venv/demo.installed
	$(BIN)/nelbo demo

# Two files at a time; fast tests first, then real training, servers and browsers. Without packages that cannot be had, some are
# skipped, which the last line of each run says. Four at a time are no faster on two cores.
PARALLEL := --numprocesses=2 --dist=loadfile
test: .venv/test.installed
	-.ci/packages
	$(BIN)/pytest $(PARALLEL) -m "not slow"
	$(BIN)/pytest $(PARALLEL) -m slow

# Three minutes of the fast tests: the folders where little or nothing is trained, no command runs and no server starts.
FAST := test_imports test_docs data detectors vae_core/network vae_core/linear flows/options
test-fast: .venv/test.installed
	$(BIN)/pytest $(PARALLEL) -m "not slow" $(foreach name,$(FAST),$(wildcard tests/$(name) tests/$(name).py)) nelbo/data nelbo/detectors

# Every table of docs/benchmarks.md that issue from one machine: hours. The small run only sees that none is broken;
# it is a part of `make test`.
BENCHMARKS := speed.limits speed.scoring speed.end_to_end peers.compare speed.scale
bench: .venv/test.installed
	for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name || exit 1; done

bench-smoke: .venv/test.installed
	$(BIN)/pytest --numprocesses=2 --dist=load tests/benchmarks

# How well it sees real defects: the tables of docs/benchmarks.md, a night's work, and the one of docs/sensitivity.md; what is done
# already is kept in RESULTS. MTD names the folder of the magnetic tiles. The small run is a part of `make test`.
RESULTS ?= quality-results
quality: .venv/test.installed
	for script in quality heads simulated; do \
	    $(BIN)/python -m benchmarks.detection.$$script --results $(RESULTS) $(addprefix --mtd ,$(MTD)) || exit 1; \
	done

quality-smoke: .venv/test.installed
	$(BIN)/pytest tests/benchmarks/test_quality.py tests/benchmarks/test_simulated.py

# All of vae_core on each backend that it is written for. Goldens need JAX's 64-bit numbers. JAX compiles for most of the
# time, many tests the same networks: what it compiled is kept.
BACKENDS := tensorflow jax
BACKEND_TESTS := tests/vae_core nelbo/vae_core
test-backends: export JAX_COMPILATION_CACHE_DIR := $(CURDIR)/.venv/jax-cache
test-backends: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS := 0
test-backends: export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES := -1
test-backends: .venv/test.installed
	for backend in $(BACKENDS); do \
	    KERAS_BACKEND=$$backend JAX_ENABLE_X64=1 $(BIN)/pytest $(PARALLEL) $(BACKEND_TESTS) || exit 1; \
	done

check: .venv/check.installed .venv/test.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest --quiet tests/test_imports.py

format: .venv/check.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/demo.installed: EXTRAS := cpu,demo
.venv/test.installed: EXTRAS := cpu,jax,onnx,demo,cluster,test
.venv/check.installed: EXTRAS := check
.venv/%.installed: pyproject.toml constraints.txt | .venv/bin/pip
	$(INSTALL) '.[$(EXTRAS)]'
	touch $@
