# One environment, made from the project's own files, serves every target.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev
BIN := $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)

.PHONY: help reproduce test site lab dist check mutate fresh clean
.DEFAULT_GOAL := reproduce

$(VENV)/ready-$(EXTRAS): pyproject.toml settings.ini setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-10s %s\n", $$1, $$2}' Makefile

env: $(VENV)/ready-$(EXTRAS) ## the environment, in $(VENV)

reproduce: env ## settle the fast claims, print the table, write report/
	$(BIN)/contrastive-nb reproduce --tier fast

test: env site ## all tests: notebooks, properties, processes, browser
	$(BIN)/python -m pytest

site: env ## the documentation in docs/_site
	$(BIN)/python docs/build.py

lab: env ## JupyterLab on the notebooks
	cd nbs && $(BIN)/jupyter lab

check: env ## modules, README and notebooks are in step with the sources
	$(BIN)/nbdev-export
	$(BIN)/nbdev-clean
	$(BIN)/python docs/readme.py
	git diff --exit-code
	$(BIN)/contrastive-nb verify

fresh: env ## record again what is stale; run index, README and the claims page anew
	$(BIN)/contrastive-nb verify --replay || true
	$(BIN)/contrastive-nb reproduce --tier fast --only stale --record
	$(BIN)/contrastive-nb reproduce --tier slow --only stale --record
	for page in index 00e_verify 90_claims; do $(BIN)/nbdev-test nbs/$$page.ipynb --n-workers 0 --do-print --save; done
	$(BIN)/nbdev-clean
	$(BIN)/python docs/readme.py

mutate: env ## break losses, samplers and metrics one token at a time and demand a failing test
	$(BIN)/python tests/mutate.py

dist: env ## sdist and wheel in dist/
	rm -rf dist
	$(BIN)/python -m build --quiet
	$(BIN)/python -m twine check --strict dist/*

clean: ## remove the environment and everything that is built
	rm -rf $(VENV) build dist report _proc docs/_site docs/_src *.egg-info
