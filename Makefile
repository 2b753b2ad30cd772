# make repro   build everything: data, model, reports
# make test    lint-free proof that it works
# make review  compare the results with another revision: make review BASE=main
# make search  try settings, each trial an experiment of DVC: make search TRIALS=20
# make lock    refresh requirements*.txt from pyproject.toml

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

BASE ?= main
TRIALS ?= 20
SPACE ?= stages/search/space.yaml

.PHONY: repro test review search lint format lock clean

repro: $(VENV)/.installed
	dvc repro

test: $(VENV)/.installed-dev
	pytest

review: $(VENV)/.installed
	python -m stages.review --base "$(BASE)"

search: $(VENV)/.installed
	python -m stages.search --trials "$(TRIALS)" --space "$(SPACE)"

lint: $(VENV)/.installed-dev
	ruff check .
	ruff format --check .

format: $(VENV)/.installed-dev
	ruff check --fix .
	ruff format .

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "error: $(PYTHON) is older than Python 3.11; try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

UV_COMPILE = uv pip compile --universal --generate-hashes --no-emit-index-url \
    --no-emit-find-links --custom-compile-command "make lock" --quiet --python-version 3.11 pyproject.toml

lock:
	$(UV_COMPILE) -o requirements.txt
	$(UV_COMPILE) --group dev -o requirements-dev.txt

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
