# Everything here runs in .venv, which is made on first use. Needs Python 3.11 or later and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
DEMO := runs/demo

.PHONY: demo test test-fast check bench baselines docs clean

$(VENV)/.installed: constraints.txt packages/metarl_envs/pyproject.toml packages/metarl_agents/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e "packages/metarl_envs[dev,plot]" -e "packages/metarl_agents[dev]"
	touch $@

demo: $(VENV)/.installed  ## train a small agent, evaluate it on held-out tasks, write report and plot
	rm -rf $(DEMO)
	$(BIN)/metarl train pearl MetaPoint-Goal-v0 --preset fast --seed 0 --out $(DEMO)
	$(BIN)/metarl evaluate $(DEMO) --split test --protocol pearl --seeds 0,1,2
	$(BIN)/metarl plot $(DEMO) --out $(DEMO)

test: $(VENV)/.installed  ## all tests but the slow learning checks
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-fast: $(VENV)/.installed  ## a first answer in a minute: one id per body, no other processes, no long tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --fast

check: $(VENV)/.installed  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy packages/metarl_envs/src packages/metarl_agents/src

bench: $(VENV)/.installed  ## speed as ratios against references, interleaved
	cd benchmarks; failed=0; for script in environments composer agents context priors adaptation trials slbo; do \
	  ../$(BIN)/python $$script.py || failed=1; done; exit $$failed

baselines: $(VENV)/.installed  ## returns of zero actions, random actions and scripted oracles, into results/baselines
	$(BIN)/python benchmarks/baselines.py

docs: $(VENV)/.installed  ## regenerate pictures and pages in docs/environments and the tables of the README
	$(BIN)/python docs/generate.py --pictures
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
