# `make` or `make help` lists what there is. Every target sets up the environment it needs.

VENV := .venv
BIN := $(VENV)/bin
STATE := .dataplatform

# Extra arguments:  make test ARGS="-k manifest -x"   make run ARGS="--help"
ARGS ?=
# What pytest leaves out unless asked: tiers that need servers, a cluster or a browser.
TIERS ?= not stack and not kubernetes and not browser and not images and not ansible
TESTS ?= dataplatform_tests

# Some images set it; every process would then compile Dagster anew, which takes longer than running.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# ---- set-up: each step runs again only when what it reads has changed ----

$(VENV)/.locked: constraints.txt requirements-bootstrap.txt tools/setup-venv
	@tools/setup-venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.locked pyproject.toml
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-index --no-deps --no-build-isolation --editable .
	@touch $@

# Dagster reads dagster.yaml from its home only; a link keeps the one in the repository in force.
$(STATE)/dagster/dagster.yaml:
	@mkdir -p $(@D)
	@ln -sfn ../../dagster.yaml $@

.PHONY: setup
setup: $(VENV)/.installed $(STATE)/dagster/dagster.yaml  ## Set up .venv from the lock (the others do it when needed)

# ---- use ----

.PHONY: run
run: setup  ## Build everything: API (or recordings) → raw → tables → views, then a summary
	@$(BIN)/dp run $(ARGS)

.PHONY: ui
ui: setup  ## Open Dagster's UI with schedules and sensors
	@$(BIN)/dp ui $(ARGS)

.PHONY: stack
stack: setup  ## Bring up the real servers on this machine; end them with .venv/bin/dp stack down
	@$(BIN)/dp stack up $(ARGS)

.PHONY: doctor
doctor: setup  ## Say what is wrong with Java, Spark, store, catalog or API, and what to do
	@$(BIN)/dp doctor $(ARGS)

# ---- develop ----

.PHONY: test
test: setup  ## Run the tests (not those that need servers, a cluster or a browser)
	@$(BIN)/python -m pytest -m "$(TIERS)" $(TESTS) $(ARGS)

.PHONY: test-browser
test-browser: setup  ## Run the tests of the UI (needs Chromium)
	@$(BIN)/python -m pytest -m browser $(TESTS) $(ARGS)

.PHONY: test-stack
test-stack: setup  ## Run the tests on the real servers; ARGS="-m faults" those that disturb them
	@$(BIN)/python -m pytest -m "stack and not faults" $(TESTS) $(ARGS)

.PHONY: test-kubernetes
test-kubernetes: setup  ## Run the tests on a real Kubernetes node (as root; the first time builds it)
	@$(BIN)/python -m pytest -m kubernetes $(TESTS) $(ARGS)

.PHONY: test-images
test-images: setup  ## Build the container images, run and push them (Debian, root, Buildah)
	@$(BIN)/python -m pytest -m images $(TESTS) $(ARGS)

.PHONY: test-ansible
test-ansible: setup  ## Run the tests of Kubespray's runner, by its Ansible (the first time installs it)
	@$(BIN)/python -m pytest -m ansible $(TESTS) $(ARGS)

.PHONY: lint lint-style lint-shell lint-types lint-definitions
lint: lint-style lint-shell lint-types lint-definitions  ## Check style, types and that the code location loads
lint-style: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
lint-shell: setup
	@$(BIN)/shellcheck $$(grep -rlE '^#!.*sh$$' .ci infra tools)
lint-types: setup
	@$(BIN)/ty check
lint-definitions: setup
	@$(BIN)/dagster definitions validate --log-level warning -m dataplatform.definitions

.PHONY: format
format: setup  ## Rewrite the code in the project's style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: bench
bench: setup  ## Measure against the baselines in benchmarks/
	@$(BIN)/python -m benchmarks $(ARGS)

.PHONY: docs
docs: setup  ## Write anew what derives from the declarations: data dictionary, view of freshness
	@$(BIN)/dp docs $(ARGS)

.PHONY: lock
lock: setup  ## Lock the dependencies anew; ARGS="--upgrade" raises them
	@tools/lock $(ARGS)

.PHONY: clean
clean:  ## Remove .venv and caches; the data in .dataplatform stays
	@rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .coverage build dist spark-warehouse metastore_db derby.log
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help:  ## Show this list
	@awk 'BEGIN {FS = ":.*## *"; print "make TARGET [ARGS=...]\n"} \
		/^[a-z-]+:.*##/ {printf "  \033[1m%-14s\033[0m%s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
