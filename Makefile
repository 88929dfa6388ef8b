# Thin on purpose: the logic is in scripts/bootstrap.py (set-up) and in the console script `gatescope`.
#
#   PYTHON        interpreter for .venv (3.11 to 3.14)         make lab PYTHON=/opt/python3.12/bin/python3
#   TORCH_INDEX   index with CPU builds of torch; empty: pip's own settings only
#   LAB_ARGS      passed to JupyterLab                         make lab LAB_ARGS="--no-browser --port=9000"
#   WHEELHOUSE    install from this folder of wheels alone     make lab WHEELHOUSE=/media/usb/wheelhouse
#   OUT           folder that make wheelhouse fills            make wheelhouse OUT=/media/usb/wheelhouse
#   ARGS          passed to the command behind a target        make test ARGS="tests/ops -k sink"

SHELL := /bin/sh
CANDIDATES := .venv/bin/python python3.13 python3.12 python3.11 python3.14 python3
CHECK := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
PYTHON ?= $(shell for p in $(CANDIDATES); do "$$p" -c '$(CHECK)' >/dev/null 2>&1 && { echo "$$p"; exit; }; done)
BOOTSTRAP = $(or $(PYTHON),$(error No Python 3.11 to 3.14 with its venv module was found; install one \
  (Debian and Ubuntu: apt install python3 python3-venv), or name it: make $@ PYTHON=/path/to/python3.12)) scripts/bootstrap.py
BIN := .venv/bin
LAB_ARGS ?=
ARGS ?=
OUT ?= wheelhouse

export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev lab test notebooks claims build bench latency compile-report site wheelhouse lint clean

# What is set up for developers needs the tests, which a course folder is without.
help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | if [ -d tests ]; then cat; else grep -v 'setup-dev'; fi \
	| sed -E 's/:.*## /\t/' | expand -t 18

setup:  ## make .venv, install the pins, convert SmolLM2 once
	@$(BOOTSTRAP) setup

setup-dev:
	@$(BOOTSTRAP) setup --dev

lab:  ## set up, copy the notebooks into work/, open JupyterLab there
	@$(BOOTSTRAP) lab $(LAB_ARGS)

# The browser has the machine to itself: a page starved of its core gives up on widgets. Files keep their order: with the
# fewest tests last, as xdist would have it, the notebooks ran alone at the end. 5: no such tests were asked for.
test: setup-dev  ## every test: contracts, units, notebooks, browser
	@run() { $(BIN)/python -m pytest "$$@" $(ARGS) || { code=$$?; [ $$code = 5 ] || status=$$code; }; }; status=0; \
	run -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder -m "not browser"; run -m browser; exit $$status

notebooks: setup  ## run every notebook headless
	@$(BIN)/gatescope run $(ARGS)

claims: setup  ## print the verdict of every claim
	@$(BIN)/gatescope claims $(ARGS)

build: setup  ## lessons -> notebooks
	@$(BIN)/gatescope build $(ARGS)

# Nothing else runs beside a bench, so waiting threads may spin: put to sleep between regions, they cost a third more.
bench: setup  ## time the kernels on this machine
	@env -u OMP_WAIT_POLICY $(BIN)/gatescope bench $(ARGS)

latency: setup-dev  ## time lessons in a real browser: the first picture, and a moved control to the redrawn view
	@env -u OMP_WAIT_POLICY $(BIN)/python scripts/latency.py $(ARGS)

compile-report: setup  ## compile every kernel for four GPUs, none needed; registers, spills, roofline
	@$(BIN)/gatescope compile-report $(ARGS)

site: setup-dev  ## every solved lesson, the claims and the API as pages that open offline, in site/
	@$(BIN)/gatescope site $(ARGS)

wheelhouse: setup  ## every wheel of the lab in one folder, from which others set up without network
	@$(BOOTSTRAP) wheelhouse $(OUT)

lint: setup-dev  ## ruff and mypy
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

clean:  ## remove what runs leave behind (keeps .venv, .cache, work)
	@$(BOOTSTRAP) clean
