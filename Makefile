# Two words for users (demo, test), three for developers (check, format, test-backends). Each installs what it needs
# into .venv.
PYTHON ?= $(firstword $(shell command -v python3.11 python3 2>/dev/null))
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: demo test test-backends check format clean

demo: .venv/demo.installed
	$(BIN)/nelbo demo

# Fast tests first, two files at a time; then real training, servers and browsers, which need the machine for themselves.
PARALLEL := --numprocesses=2 --dist=loadfile
test: .venv/test.installed
	$(BIN)/pytest $(PARALLEL) -m "not slow"
	$(BIN)/pytest -m slow

# All of vae_core on each backend that it is written for. Goldens need JAX's 64-bit numbers.
BACKENDS := tensorflow jax
test-backends: .venv/test.installed
	for backend in $(BACKENDS); do \
	    KERAS_BACKEND=$$backend JAX_ENABLE_X64=1 $(BIN)/pytest $(PARALLEL) tests/vae_core vae_core || exit 1; \
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
.venv/test.installed: EXTRAS := cpu,jax,demo,cluster,dashboard,test
.venv/check.installed: EXTRAS := check
.venv/%.installed: pyproject.toml constraints.txt | .venv/bin/pip
	$(INSTALL) '.[$(EXTRAS)]'
	touch $@
