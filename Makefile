# Everything a developer runs; `make` alone lists it.
#
# Needs only Python 3.11 or newer with pip, and the network the first time. Nothing is installed outside `.venv`.
# ARGS="…" is handed on, for example: make test ARGS="-k ledger -x"

BIN := .venv/bin
STAMP := .venv/.installed
COMPILE := $(BIN)/uv --quiet pip compile --generate-hashes --no-header --no-annotate --python-version 3.11 $(ARGS)

# Tests make and sync thousands of small files: where memory can serve as a disk, it does.
SHM := $(shell test -d /dev/shm -a -w /dev/shm && echo /dev/shm)
test test-long test-live matrix: export TMPDIR := $(or $(SHM),$(TMPDIR),/tmp)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo standins test test-long test-live matrix bench lint format docs lock clean

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## make .venv with everything pinned; does nothing if it is up to date

$(STAMP): requirements.lock requirements-build.lock pyproject.toml
	@PYTHON="$(PYTHON)" .ci/setup
	@touch $@

demo: setup ## the whole story on real data, in one command
	@$(BIN)/isthmus demo $(ARGS)

standins: setup ## the servers that stand in for cloud warehouses, each in its own environment
	@$(BIN)/python -m isthmus.testing.standins

test: setup lint standins ## everything that must hold before a change is taken
	@echo "· tests"
	@$(BIN)/pytest -n auto --dist worksteal -m "not long" $(ARGS)

test-long: setup standins ## the slower proofs
	@$(BIN)/pytest -m long $(ARGS)

test-live: setup ## the conformance suite against a real account: KIND=snowflake, its fields in ISTHMUS_LIVE_<FIELD>
	@ISTHMUS_LIVE_KIND="$(KIND)" $(BIN)/pytest -rs -p no:cacheprovider tests/live $(ARGS)

matrix: setup standins ## the conformance suite of every kind, written to docs/warehouses/matrix.md
	@$(BIN)/pytest -n auto --dist worksteal -p isthmus.testing.conformance.matrix --matrix docs/warehouses/matrix.md \
		tests/warehouses -m "not long" $(ARGS)

bench: setup standins ## how fast, how much memory: measured here, now
	@$(BIN)/python bench/run.py $(ARGS)

lint: setup ## style, types, and who may import whom
	@echo "· style"
	@$(BIN)/ruff check --quiet --output-format concise .
	@$(BIN)/ruff format --quiet --check .
	@echo "· types"
	@$(BIN)/mypy --no-error-summary
	@echo "· layers"
	@$(BIN)/lint-imports > .venv/layers.txt || { cat .venv/layers.txt; exit 1; }

format: setup ## put the code in shape
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

docs: setup ## write the generated pages of docs/reference again
	@$(BIN)/python docs/generate.py

lock: setup ## write down, with hashes, the versions that pyproject.toml asks for (ARGS=--upgrade: the newest)
	@$(COMPILE) --all-extras --group dev pyproject.toml -o requirements.lock > /dev/null
	@$(COMPILE) --constraint requirements.lock requirements-build.in -o requirements-build.lock > /dev/null
	@for each in src/isthmus/testing/standins/requirements/*.in; do \
		$(BIN)/uv --quiet pip compile --generate-hashes --no-header --no-annotate $$(sed -n 's/^# uv: //p' $$each) $(ARGS) \
			$$each -o $${each%.in}.lock > /dev/null || exit 1; done

clean: ## remove .venv and all caches, but no data
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build
	@find src tests docs bench -name __pycache__ -prune -exec rm -rf {} + 2> /dev/null || true
