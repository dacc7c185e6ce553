# Targets for users: demo, test. For developers: check, format, test-fast, test-backends, docs, bench, bench-smoke, quality,
# quality-smoke, readme, release-check. Each installs what it needs into .venv.
PYTHON ?= $(firstword $(shell command -v python3.11 python3 2>/dev/null))
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: demo readme test test-fast bench bench-smoke quality quality-smoke test-backends docs release-check check format clean

demo: .venv/demo.installed
	$(BIN)/nelbo demo

# The figures and the picture of README.md.
readme: .venv/test.installed
	$(BIN)/python -m benchmarks.readme

# Two files at a time, in the order of tests/conftest.py: files of fast tests first, then real training, servers and browsers.
# If packages cannot be installed, some tests are skipped, which the last line says. Four files at a time are no faster on two
# cores.
PARALLEL := --numprocesses=2 --dist=loadfile --no-loadscope-reorder
test: .venv/test.installed
	-.ci/packages
	$(BIN)/pytest $(PARALLEL)

# Three minutes of fast tests: the folders where little or nothing is trained, no command runs and no server starts.
FAST := test_imports test_docs test_words data detectors vae_core/network vae_core/linear flows/options
test-fast: .venv/test.installed
	$(BIN)/pytest $(PARALLEL) -m "not slow" $(foreach name,$(FAST),$(wildcard tests/$(name) tests/$(name).py)) nelbo/data nelbo/detectors

# Every table of docs/evidence/benchmarks.md that one machine can make: takes hours. The small run only checks that no script is
# broken; it is a part of `make test`.
BENCHMARKS := speed.limits speed.scoring speed.end_to_end speed.decoders speed.flagged speed.rows peers.compare peers.folders speed.scale
bench: .venv/test.installed
	for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name || exit 1; done

bench-smoke: .venv/test.installed
	$(BIN)/pytest --numprocesses=2 --dist=load tests/benchmarks

# How well nelbo sees real defects: the tables of docs/evidence/benchmarks.md, which take a night, and that of
# docs/explanation/sensitivity.md. RESULTS keeps what is done. MTD names the folder of the magnetic tiles. The small run is a part
# of `make test`.
RESULTS ?= quality-results
quality: .venv/test.installed
	for script in quality heads simulated precision; do \
	    $(BIN)/python -m benchmarks.detection.$$script --results $(RESULTS) $(addprefix --mtd ,$(MTD)) || exit 1; \
	done

quality-smoke: .venv/test.installed
	$(BIN)/pytest tests/benchmarks/test_quality.py tests/benchmarks/test_simulated.py

# All of vae_core on each backend that it is written for. Goldens need JAX's 64-bit numbers. JAX compiles most of the time, and
# many tests share networks, so a cache keeps what it has compiled.
BACKENDS := tensorflow jax
BACKEND_TESTS := tests/vae_core nelbo/vae_core
test-backends: export JAX_COMPILATION_CACHE_DIR := $(CURDIR)/.venv/jax-cache
test-backends: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS := 0
test-backends: export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES := -1
test-backends: .venv/test.installed
	for backend in $(BACKENDS); do \
	    KERAS_BACKEND=$$backend JAX_ENABLE_X64=1 $(BIN)/pytest $(PARALLEL) $(BACKEND_TESTS) || exit 1; \
	done

# Builds the site from docs/ and docstrings into site/; a broken link or anchor is an error.
docs: .venv/docs.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Checks wheel and sdist, each in an empty environment: the demo runs, versions agree, licences are known. It takes some minutes
# and a gigabyte of packages.
release-check: .venv/release.installed
	$(BIN)/python -m release.check

check: .venv/check.installed .venv/test.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/pytest --quiet tests/test_imports.py tests/test_words.py

format: .venv/check.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/demo.installed: EXTRAS := cpu,demo
.venv/test.installed: EXTRAS := cpu,jax,onnx,demo,cluster,docs,test
.venv/check.installed: EXTRAS := check
.venv/docs.installed: EXTRAS := docs
.venv/release.installed: EXTRAS := release
.venv/%.installed: pyproject.toml constraints.txt | .venv/bin/pip
	$(INSTALL) '.[$(EXTRAS)]'
	touch $@
