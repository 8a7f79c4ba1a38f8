# The contributor's front door: `make help` lists what it can do.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
# The engine's own environment, about 3 GB; several clones may share one: make VLLM_VENV=~/vllm-cpu …
VLLM_VENV ?= .vllm
# The real vLLM that the engine tests run: the one on PATH, else the CPU build beside the project.
VLLM ?= $(shell command -v vllm || echo $(abspath $(VLLM_VENV))/bin/vllm)
PORT ?= 8000
MODEL_ARGS ?=
SEEDS ?= 2000
INPUTS ?= 1000000

.DEFAULT_GOAL := help
.PHONY: help setup vllm run test lint unit simulation process engine package states machines messages flags soak bench \
  audit constraints clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-12s %s\n", $$1, $$2 }'

setup: $(READY)  ## make the virtual environment, from pinned and hashed packages

$(READY): constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

vllm: $(READY)  ## install the CPU build of vLLM beside the project, unless there is a vllm on PATH
	@test -x "$(VLLM)" || $(BIN)/python vllm/cpu_venv.py $(VLLM_VENV)

run: vllm  ## supervise a real vLLM with a tiny model, in the foreground; MODEL_ARGS='org/name …' serves another
	@$(BIN)/python vllm/demo.py --engine $(VLLM) --port $(PORT) -- $(MODEL_ARGS)

test: lint unit simulation process engine  ## all checks and all tiers

lint: $(READY)  ## style, types, layers, generated pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/vllm-fsm states --check

# `core/` decides: every branch of it is taken by the two tiers that need no processes.
unit: $(READY)  ## pure tests
	$(BIN)/coverage run -m pytest tests/unit

simulation: $(READY)  ## seeded worlds and Hypothesis
	$(BIN)/coverage run --append -m pytest tests/simulation
	$(BIN)/coverage report --skip-covered

process: $(READY)  ## real children and real files, with a rude fake engine
	$(BIN)/python -m pytest tests/process

engine: vllm  ## the real vLLM
	VLLM_FSM_TEST_VLLM=$(VLLM) $(BIN)/python -m pytest tests/engine

package: vllm  ## the StartOS package, as StartOS runs it; needs root, Node 20 and a registry of npm
	VLLM_FSM_TEST_VLLM=$(VLLM) $(BIN)/python -m pytest tests/package

states: $(READY)  ## write states.md from the table
	$(BIN)/vllm-fsm states > states.md

machines: $(READY)  ## write docs/machines.md from the machines of the tests
	cd tests && ../$(BIN)/python -m support.machines > ../docs/machines.md

messages: $(READY)  ## write docs/messages.md from the sentences
	cd tests && ../$(BIN)/python -m support.sentences > ../docs/messages.md

# Run by the interpreter that the command's first line names: the one that has vLLM.
flags: vllm  ## write the table of vLLM's flags from its parser
	$$(sed -n '1s/^#! *//p' $(VLLM)) vllm/flag_table.py src/vllm_fsm/data

soak: $(READY)  ## many more seeds, and a million hostile inputs; SEEDS=2000 INPUTS=1000000
	$(BIN)/python benchmarks/soak.py --seeds $(SEEDS)
	$(BIN)/python benchmarks/fuzz.py --inputs $(INPUTS)

bench: vllm  ## every figure of the README, in docs/figures.md
	VLLM_FSM_TEST_VLLM=$(VLLM) $(BIN)/python benchmarks/all.py

audit: $(READY)  ## check that what is installed is what was pinned by hashes, and ask for known vulnerabilities
	cd tests && ../$(BIN)/python -m support.audit
	$(BIN)/python -m venv build/audit && build/audit/bin/pip install --quiet pip-audit
	build/audit/bin/pip-audit --strict --require-hashes --disable-pip --progress-spinner off --requirement constraints.txt

constraints:  ## take in new versions of the dependencies, with their hashes
	$(BIN)/python -m venv build/uv && build/uv/bin/pip install --quiet uv
	build/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --group dev pyproject.toml -o constraints.txt

clean:  ## remove everything that was made here
	rm -rf s9pk/node_modules s9pk/javascript s9pk/assets/lib s9pk/assets/build
	rm -rf $(VENV) .run build dist .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis
