# make run        set up on first use, then start the app; options for it go into ARGS:  make run ARGS="--port 8000"
# make test       the same set-up, tools for the tests, then all tests
# make test-fast  a minute of tests for daily work: none in a browser, none that needs fetched models or trains whole runs
# make check      style, types, who imports whom, packaging, and whether the commands in README and docs are real
# make clean      remove the virtual environment and caches in this folder; fetched models and your own runs stay
# make help       print these lines
#
# Needs Python 3.11 or newer with venv, make and git. Another Python:  make run PYTHON=python3.12

PYTHON ?= python3
ARGS ?=
VENV := .venv
PIP := $(VENV)/bin/python -m pip install --no-input --disable-pip-version-check

.PHONY: run test test-fast check clean help browser backbone
.NOTPARALLEL:

run: $(VENV)/.installed
	$(VENV)/bin/python app.py $(ARGS)

test: $(VENV)/.installed-dev browser backbone
	$(VENV)/bin/python -m pytest -q

test-fast: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -n auto -m "not browser and not slow and not weights"

check: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/python -m pytest -q tests/test_packaging.py

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

# Stamps are written last: an interrupted installation is taken up again by the next call.
$(VENV)/.installed: requirements.txt
	@scripts/make-venv "$(PYTHON)" "$(VENV)"
	$(PIP) -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(PIP) -r requirements-dev.txt
	@touch $@

browser: $(VENV)/.installed-dev
	@scripts/get-browser "$(VENV)/bin/python"

backbone: $(VENV)/.installed
	@$(VENV)/bin/python -m gistdemo.model.embedded || { \
	  echo; echo "*** The embedded backbone could not be fetched (reason above). Tests that need it will be SKIPPED. ***"; echo; }
