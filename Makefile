# `make` alone lists the targets. Everything is installed into .venv, from hashes in the repository.

PYTHON ?= python3
ARCHITECTURE ?= arm64
SEEDS ?= 200
KILLS ?= 100
SECONDS_CPU ?= 60
TARGET ?= farebox
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --no-input install --require-hashes --no-deps
export PYTHONPATH := layers/farebox:.

.DEFAULT_GOAL := help
.PHONY: help dev test check audit build deploy bench-cold race cutoff agents bounds simulate mutants kills fuzz adversary lock clean

help:  ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

dev: $(VENV)/.local  ## run the gateway on 127.0.0.1:8787 (PORT moves it) with an embedded store and a simulated OpenRouter
	@exec $(BIN)/python -m local.dev

test: $(VENV)/.dev  ## run all tests; 100 % branch coverage of the modules that decide, or it fails
	@$(BIN)/python -m pytest -n 4 --dist worksteal --cov --cov-report=term

check: $(VENV)/.dev  ## lint, format and type checks, and the audit
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(MAKE) --no-print-directory audit

audit: $(VENV)/.dev  ## known vulnerabilities of what requirements.lock pins (AUDIT=required fails where nobody can tell)
	@$(BIN)/python -m local.audit $(if $(filter required,$(AUDIT)),--required)

race: $(VENV)/.dev  ## the full race: 500 calls at 50 and 200 at once against a budget of 1.00 USD
	@$(BIN)/python -m tests.race

cutoff: $(VENV)/.dev  ## 1,000 lowered limits and revoked keys: whether the very next call obeys
	@$(BIN)/python -m tests.cutoff

agents: $(VENV)/.dev  ## a coding agent's calls against a budget of 5 USD, one and 20 at once, until the first refusal
	@$(BIN)/python -m tests.agents

bounds: $(VENV)/.dev  ## 100,000 random priced requests: each bound beside its bill
	@$(BIN)/python -m tests.bounds

simulate: $(VENV)/.dev  ## worlds of functions, sweeps and faults, one a seed, with the books checked after every step (SEEDS=10000)
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS)

mutants: $(VENV)/.dev  ## the same with broken ledgers: each must be caught
	@$(BIN)/python -m tests.simulation.mutants

kills: $(VENV)/.dev  ## gateways killed with SIGKILL under load, swept, and their books beside the bill (KILLS=1000)
	@$(BIN)/python -m tests.kills --kills $(KILLS)

fuzz: $(VENV)/.dev  ## mutated requests and answers, for so many seconds of CPU time (SECONDS_CPU=60)
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS_CPU)

adversary: $(VENV)/.dev  ## attacks on a budget: on this gateway, or on one at URL=... with KEY=... (TARGET=litellm starts one)
	@$(BIN)/python -m tests.adversary --target $(TARGET) $(if $(URL),--url $(URL) --key $(KEY))

bench-cold: $(VENV)/.dev  ## the proxy's cold start beside a bare script's: at most 1.3 times its CPU time, or it fails
	@$(BIN)/python -m local.bench_cold

build: $(VENV)/.dev  ## `sam build` for Lambda into .aws-sam/build, with sizes (ARCHITECTURE=x86_64 for the other one)
	@$(BIN)/python -m local.build --architecture $(ARCHITECTURE)

deploy: build  ## build, then `sam deploy`; it asks the first time, until samconfig.toml has your answers
	@$(BIN)/sam deploy $$(grep -q '^parameter_overrides' samconfig.toml || echo --guided)

lock: $(VENV)/.dev  ## write requirements.lock and its subsets again, with the newest versions
	$(BIN)/uv pip compile -q --upgrade --universal --generate-hashes --python-version 3.11 --no-annotate --no-header \
		pyproject.toml --extra cli --group dev -o requirements.lock
	$(BIN)/uv pip compile -q --universal --generate-hashes --python-version 3.11 --no-annotate --no-header \
		-c requirements.lock pyproject.toml --extra cli --group local -o local/requirements.txt
	$(BIN)/uv pip compile -q --universal --generate-hashes --python-version 3.11 --no-annotate --no-header \
		-c requirements.lock pyproject.toml -o layers/dependencies/requirements.txt

clean:  ## remove what the other targets made
	rm -rf $(VENV) .cache .aws-sam .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@echo "[1/2] making $(VENV) with $$($(PYTHON) --version 2>&1)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Farebox needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "$(PYTHON) cannot make virtual environments: install its venv module (Debian: python3-venv)"; exit 1; }

$(VENV)/.local: local/requirements.txt | $(VENV)/bin/python
	@echo "[2/2] installing $$(grep -c == $<) pinned packages"
	@$(PIP) --progress-bar off -r $<
	@touch $@

$(VENV)/.dev: requirements.lock | $(VENV)/bin/python
	@echo "[2/2] installing $$(grep -c == $<) pinned packages"
	@$(PIP) --progress-bar off -r $<
	@touch $@ $(VENV)/.local
