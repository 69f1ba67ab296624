# unibert. `make` lists the targets. Nothing is installed, built or cached outside this folder.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup dev demo test lint readme clean distclean

PYTHON ?= python3
BIN := .venv/bin
UNIBERT := $(BIN)/unibert

# ninja, deepspeed and mpirun are found by name at run time.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DS_BUILD_OPS := 0
export PIP_CACHE_DIR := $(CURDIR)/.cache/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export HF_HOME := $(CURDIR)/.cache/huggingface
export TORCH_HOME := $(CURDIR)/.cache/torch
export TORCH_EXTENSIONS_DIR := $(CURDIR)/.cache/torch_extensions
export TORCHINDUCTOR_CACHE_DIR := $(CURDIR)/.cache/inductor
export TRITON_CACHE_DIR := $(CURDIR)/.cache/triton
export MPLCONFIGDIR := $(CURDIR)/.cache/matplotlib
export PYRIGHT_PYTHON_CACHE_DIR := $(CURDIR)/.cache/pyright
export RUFF_CACHE_DIR := $(CURDIR)/.cache/ruff
export XDG_CACHE_HOME := $(CURDIR)/.cache/xdg
# npm (one source of text comes by it) keeps its own cache.
export npm_config_cache := $(CURDIR)/.cache/npm

# Two ranks; on a machine with GPUs at most as many as it has. DeepSpeed is told when there is none.
GPUS := $(shell nvidia-smi -L 2>/dev/null | grep -c '^GPU')
ifeq ($(GPUS),0)
export DS_ACCELERATOR ?= cpu
endif
NPROC ?= $(if $(filter 1,$(GPUS)),1,2)
# A free port for each launch, so that two checkouts can train side by side.
FREE_PORT = $$($(BIN)/python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
TRAIN = OMP_NUM_THREADS=1 $(BIN)/deepspeed --num_gpus $(NPROC) --master_port $(FREE_PORT) --module unibert train

help: ## This list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 20

setup: .venv/.installed ## The environment: .venv with everything, and the command .venv/bin/unibert

.venv/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "make setup: '$(PYTHON)' is not Python 3.11 or newer ($$($(PYTHON) --version 2>&1 | head -n 1))."; \
	  echo "Install one (Debian: apt install python3 python3-venv) or name it: make setup PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "make setup: $$($(PYTHON) --version) cannot make virtual environments (no venv or ensurepip)."; \
	  echo "Debian and Ubuntu keep it in a package of its own: apt install python3-venv"; exit 1; }
	@printf '\n== setup 1/4: a virtual environment in .venv\n'
	$(PYTHON) -m venv .venv
	@printf '\n== setup 2/4: torch, alone and first\n'
	$(BIN)/python -m pip install "$$(grep -E '^torch==' requirements.txt)"
	@printf '\n== setup 3/4: everything else in requirements.txt (DeepSpeed with no operator built)\n'
	$(BIN)/python -m pip install -r requirements.txt
	@printf '\n== setup 4/4: unibert itself, editable\n'
	$(BIN)/python -m pip install --no-deps --editable .
	@touch $@
	@printf '\n== the environment is ready: .venv/bin/unibert\n'

# The tools of `make test` and `make lint`, as pinned in pyproject.toml.
dev: .venv/.installed-dev

.venv/.installed-dev: .venv/.installed
	@printf '\n== tools for tests and style\n'
	$(BIN)/python -m pip install --editable '.[dev]'
	@touch $@

demo: setup ## The whole way on real text: data, teacher, training, evaluation (stop it, run it again: it goes on)
	@printf '\n== demo 1/6: the machine\n'
	$(UNIBERT) doctor
	@printf '\n== demo 2/6: real text, held-out parallel text, cleaning, duplicates\n'
	$(UNIBERT) data fetch demo
	$(UNIBERT) data parallel demo
	$(UNIBERT) data clean demo
	$(UNIBERT) data dedup demo
	@printf '\n== demo 3/6: a real teacher, its tokenizer cut to the text, token shards\n'
	$(UNIBERT) teacher fetch demo
	$(UNIBERT) data tokenize demo
	$(UNIBERT) teacher trim demo
	@printf '\n== demo 4/6: a masked-LM head for the teacher, on the frozen encoder\n'
	$(TRAIN) demo_teacher
	@printf '\n== demo 5/6: the student\n'
	$(UNIBERT) plan demo --world $(NPROC)
	$(TRAIN) demo
	@printf '\n== demo 6/6: teacher, student and student before training on held-out text\n'
	$(UNIBERT) evaluate demo
	$(UNIBERT) summary demo

test: dev ## Every test but the slow ones; installs what it needs
	$(BIN)/python -m pytest -q -m 'not slow'

lint: dev ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

readme: dev ## Write README's generated tables again (TensorBoard tags, recipe keys)
	$(BIN)/python tests/readme_tables.py

clean: ## Remove what tools left: bytecode, test and build folders (not data, models or runs)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache
	find unibert kernels tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Also remove .venv and .cache
	rm -rf .venv .cache
