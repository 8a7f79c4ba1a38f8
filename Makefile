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
MINUTES ?= 30
CHANGES ?= 300
INPUTS ?= 1000000

.DEFAULT_GOAL := help
.PHONY: help setup vllm run test lint unit simulation process engine package states machines messages flags soak \
  situations mutations chaos bench compare audit constraints clean

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

# Much of the last three tiers is waiting, for which one core after the other would be idle.
test: lint unit simulation vllm  ## all checks and all tiers
	@echo "The tiers engine, process and package follow, two at a time: ten minutes; each shows its output when it is done."
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target engine process package

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

# What it cannot do here, without root or without Node, it skips and says why.
package: vllm  ## the StartOS package, as StartOS runs it; needs root, Node 20, and the registries of npm and Python
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

soak: vllm  ## events in seeded worlds for at most MINUTES=30, INPUTS=1000000 hostile ones, CHANGES=300 of the package
	$(BIN)/python benchmarks/soak.py --minutes $(MINUTES)
	$(BIN)/python benchmarks/fuzz.py --inputs $(INPUTS)
	VLLM_FSM_TEST_VLLM=$(VLLM) VLLM_FSM_TEST_CHANGES=$(CHANGES) $(BIN)/python -m pytest -rP tests/package/test_life.py \
	  -k no_change_is_lost

situations: $(READY)  ## visit every situation that can be reached, at most MINUTES=30
	$(BIN)/python benchmarks/situations.py --minutes $(MINUTES)

mutations: $(READY)  ## make deliberate defects in core/; which tier finds each
	$(BIN)/python benchmarks/mutations.py

chaos: vllm  ## a thousand cycles of random acts on a real controller, and ten with the real vLLM
	VLLM_FSM_TEST_VLLM=$(VLLM) $(BIN)/python benchmarks/chaos.py

bench: vllm  ## every figure of the README, in docs/figures.md
	VLLM_FSM_TEST_VLLM=$(VLLM) $(BIN)/python benchmarks/all.py

compare: $(READY)  ## other supervisors at the same job, in docs/comparison.md; installs them below build/
	$(BIN)/python benchmarks/compare.py

audit: $(READY)  ## check that what is installed is what was pinned by hashes, and ask for known vulnerabilities
	cd tests && ../$(BIN)/python -m support.audit
	$(BIN)/python -m venv build/audit && build/audit/bin/pip install --quiet pip-audit
	build/audit/bin/pip-audit --strict --require-hashes --disable-pip --progress-spinner off --requirement constraints.txt

constraints:  ## take in new versions of the dependencies, with their hashes
	$(BIN)/python -m venv build/uv && build/uv/bin/pip install --quiet uv
	build/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --group dev pyproject.toml -o constraints.txt
	build/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --resolution lowest-direct --only-binary :all: pyproject.toml -o tests/package/lowest.txt \
	  --no-emit-package nvidia-ml-py --no-emit-package six --no-emit-package structlog --no-emit-package transitions

clean:  ## remove everything that was made here
	rm -rf s9pk/node_modules s9pk/javascript s9pk/assets/lib s9pk/assets/build s9pk/assets/needs vllm/source vllm/docker
	rm -rf $(VENV) .run build dist .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis
