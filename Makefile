# Two words for users (demo, test), two for developers (check, format). Each installs what it needs into .venv.
PYTHON ?= $(firstword $(shell command -v python3.11 python3 2>/dev/null))
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: demo test check format clean

demo: .venv/demo.installed
	$(BIN)/nelbo demo

test: .venv/test.installed
	PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1 $(BIN)/pytest

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
.venv/test.installed: EXTRAS := cpu,demo,test
.venv/check.installed: EXTRAS := check
.venv/%.installed: pyproject.toml constraints.txt | .venv/bin/pip
	$(INSTALL) '.[$(EXTRAS)]'
	touch $@
