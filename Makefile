# Everything that is done to ownkey, by one name each. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
SERVER := $(VENV)/.server
DEV := $(VENV)/.dev
EMULATORS := $(VENV)/.emulators
KAMAILIO := $(VENV)/.kamailio
SYSTEM_PYTHON := /usr/bin/python3

help:  ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

demo: $(SERVER)  ## Run the main job and show it; FILE=call.wav takes your own recording
	@$(BIN)/python tools/demo.py $(if $(FILE),--file "$(FILE)")

test: $(DEV) $(EMULATORS) $(KAMAILIO)  ## Install what the tests need, and run them all; ARGS="tests/e2e -k revoke" runs those
	@tools/install_test_packages.sh
	@tools/run_tests.sh $(ARGS)

lint: $(DEV)  ## Check format, style, types, layers, protos, stubs, locks, the Dockerfile and known vulnerabilities
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd protos && ../$(BIN)/buf lint && ../$(BIN)/buf format --diff --exit-code
	$(BIN)/hadolint Dockerfile
	tools/check_generated.sh
	$(BIN)/python tools/audit.py

fix: $(DEV)  ## Mend what can be mended without thinking
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	cd protos && ../$(BIN)/buf format -w

audit: $(DEV)  ## Ask whether the locked dependencies have known vulnerabilities
	$(BIN)/python tools/audit.py $(ARGS)

sbom: $(DEV)  ## Write what a server consists of, as CycloneDX: build/sbom.json
	@tools/sbom.sh

fuzz: $(DEV)  ## Fuzz for longer: TIME=300 seconds a target, TARGET=name for one of them
	$(BIN)/python tools/run_fuzz.py --seconds $(or $(TIME),300) $(TARGET)

proto: $(DEV)  ## Generate the stubs and the server's contract from protos/
	$(BIN)/python tools/generate_proto.py

bench: $(DEV)  ## Measure, each figure as a ratio to a baseline of the same minute; writes build/bench.json
	$(BIN)/python benchmarks/run.py $(ARGS)

load: $(DEV)  ## Start a server and put load on it with ghz; prints rates, percentiles and errors
	$(BIN)/python clients/ghz/load.py $(ARGS)

lock: $(DEV)  ## Resolve the dependencies anew into the hash-locked requirements
	tools/lock.sh

clean:  ## Remove what was made here
	rm -rf $(VENV) build .demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	@tools/make_venv.sh "$(PYTHON)" "$(VENV)"

$(SERVER): $(VENV)/bin/python requirements/server.txt pyproject.toml
	@echo "installing ownkey and its server into $(VENV)"
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements/server.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(DEV): $(SERVER) requirements/dev.txt
	@echo "installing the development tools into $(VENV)"
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements/dev.txt
	@touch $@

# An environment of their own: they pin other versions of what the tests use.
$(EMULATORS): $(VENV)/bin/python requirements/emulators.txt
	@echo "installing AWS emulators into $(VENV)/emulators"
	@tools/make_venv.sh "$(PYTHON)" "$(VENV)/emulators"
	@$(VENV)/emulators/bin/python -m pip install --quiet --require-hashes -r requirements/emulators.txt
	@touch $@

# Kamailio runs the system's Python, whose packages must be made for it. A system whose Python is too old for ownkey, or not
# there, cannot run the gate: its tests then say so.
$(KAMAILIO): $(VENV)/bin/python requirements/client.txt
	@echo "installing what the SDK needs, for Kamailio's Python, into $(VENV)/kamailio"
	@tools/make_venv.sh "$(SYSTEM_PYTHON)" "$(VENV)/kamailio" \
		&& $(VENV)/kamailio/bin/python -m pip install --quiet --require-hashes -r requirements/client.txt \
		&& touch $@ || { rm -rf $(VENV)/kamailio; echo "going on without it: the tests with Kamailio are skipped" >&2; }

.PHONY: help demo test lint fix audit sbom fuzz proto bench load lock clean
