# make repro   build everything: data, model, reports
# make recipe  list the settings of known jobs; make recipe NAME=mnist writes params.yaml for one
# make test    prove that it works
# make demo    the exported model as a page that runs in any browser: reports/demo/index.html
# make cloud   also install what s3:// and gs:// need, as sources and as DVC remotes
# make cluster also install what several machines need to share the work: Dask
# make export  also install what export.formats: [onnx] and the service need
# make review  compare the results with another revision: make review BASE=main
# make search  try settings, each trial an experiment of DVC: make search TRIALS=20
# make serve   answer requests over HTTP with the exported model, at http://127.0.0.1:8000
# make bench   measure what is claimed, the programs that end within ten minutes
# make lock    refresh requirements*.txt from pyproject.toml

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

BASE ?= main
TRIALS ?= 20
SPACE ?= stages/search.yaml

.PHONY: repro recipe test demo cloud cluster export review search serve bench lint format lock clean

repro: $(VENV)/.installed
	dvc repro

recipe: $(VENV)/.installed
	@python -m stages.recipe $(if $(NAME),"$(NAME)") $(if $(filter-out 0,$(FORCE)),--force)

# Without npm the tests of what it installs are skipped, except under CI=true. Each worker takes some
# 2 GB. A file of tests stays with one, as the tests of a file share what they work on.
test: $(VENV)/.installed-dev $(if $(shell command -v npm 2>/dev/null),$(VENV)/.installed-node)
	pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

demo: $(VENV)/.installed $(VENV)/.installed-node
	python -m stages.demo

cloud: $(VENV)/.installed-cloud

cluster: $(VENV)/.installed-cluster

export: $(VENV)/.installed-export

review: $(VENV)/.installed
	python -m stages.review --base "$(BASE)"

search: $(VENV)/.installed
	python -m stages.search --trials "$(TRIALS)" --space "$(SPACE)"

serve: $(VENV)/.installed-export
	@python -m stages.serve

bench: $(VENV)/.installed-dev
	for name in dvc_overhead decode memory incremental streaming \
	    trainer_speed determinism_cost report predict label_errors faults cluster; do \
	    python -m bench.$$name || exit 1; done

lint: $(VENV)/.installed-dev
	ruff check .
	ruff format --check .
	mypy

format: $(VENV)/.installed-dev
	ruff check --fix .
	ruff format .

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	    { echo "error: $(PYTHON) is not Python 3.11 to 3.13, which TensorFlow needs; try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The runtime's packages, and those plus what tests (-dev), buckets (-cloud), several
# machines (-cluster) or other runtimes (-export) need.
$(VENV)/.installed%: requirements%.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(VENV)/.installed: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

# What the demo page runs a model by.
$(VENV)/.installed-node: stages/serving/package.json stages/serving/package-lock.json | $(BIN)/python
	@command -v npm >/dev/null || \
	    { echo "error: npm is missing, which installs what the demo page runs a model by; install Node.js, for example: apt install npm"; exit 1; }
	mkdir -p $(VENV)/node
	cp stages/serving/package.json stages/serving/package-lock.json $(VENV)/node
	npm ci --prefix $(VENV)/node --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

UV_COMPILE = uv pip compile --universal --generate-hashes --quiet --python-version 3.11 \
    --custom-compile-command "make lock"

lock:
	$(UV_COMPILE) pyproject.toml -o requirements.txt
	$(UV_COMPILE) pyproject.toml --extra cloud --constraints requirements.txt -o requirements-cloud.txt
	$(UV_COMPILE) pyproject.toml --extra cluster --constraints requirements.txt -o requirements-cluster.txt
	$(UV_COMPILE) pyproject.toml --extra export --constraints requirements.txt -o requirements-export.txt
	$(UV_COMPILE) pyproject.toml --extra export --group dev --constraints requirements-export.txt -o requirements-dev.txt
	$(UV_COMPILE) --group serve --constraints requirements-export.txt -o requirements-serve.txt

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache
