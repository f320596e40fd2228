# Everything runs in .venv, which holds the tested versions of constraints.txt.
PYTHON ?= python3
PYTEST_ARGS ?= -n 2
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help install eval results test lint clean

help:
	@echo "make eval     plan 50 Push-T episodes with the shipped world model; report and videos in out/eval-pusht-cem"
	@echo "make results  run the evaluations behind the README's table and plot, into results/"
	@echo "make test     run the tests (PYTEST_ARGS='$(PYTEST_ARGS)')"
	@echo "make lint     check style and types"
	@echo "make install  only install into $(VENV), with the development tools"
	@echo "make clean    remove $(VENV) and what was built"

install: $(VENV)/.dev

eval: $(VENV)/.run
	$(BIN)/lwm-agent eval --env pusht --planner cem --episodes 50 --output-dir out/eval-pusht-cem --video 3

test: $(VENV)/.dev
	$(BIN)/pytest $(PYTEST_ARGS)

# One results.json a row of the README's table; an interrupted run goes on where it stopped.
RESULTS := pusht-cem-25 pusht-guided-25 pusht-actor-25 pusht-gradient-25 pusht-plain-cem-25 pusht-replay-25 \
	pusht-guided-50 pusht-guided-75 pusht-guided-100 pusht-paper-cem-25 \
	cube-cem-25 cube-guided-25 cube-actor-25 cube-replay-25 cube-guided-50 cube-paper-cem-25
PLOTTED := $(filter-out %-replay-25,$(filter %-25,$(filter-out %-paper-cem-25,$(RESULTS))))
results: $(patsubst %,results/%.json,$(RESULTS)) docs/compute.png
docs/compute.png: $(patsubst %,results/%.json,$(PLOTTED)) | $(VENV)/.dev
	$(BIN)/lwm-agent report $^ --plot $@

# A row is called ENV-PLANNER-OFFSET. Before the planner, "plain" is without the learned proposal, with what suits it then
# (chosen on Push-T's validation tasks), "paper" the protocol of the paper, and "equal" cem's compute for everyone.
env = $(firstword $(subst -, ,$*))
offset = $(lastword $(subst -, ,$*))
kind = $(filter plain paper equal,$(subst -, ,$*))
planner = $(patsubst $(kind)-%,%,$(patsubst $(env)-%-$(offset),%,$*))
plain := --set agent.proposal=none --set agent.replan_every=2 --set planner.iterations=10
paper := --protocol lewm-paper
equal := --budget-flops 2.1e10 --set planner.iterations=1000
results/%.json: | $(VENV)/.run
	$(BIN)/lwm-agent eval --env $(env) --planner $(planner) --offset $(offset) $($(kind)) \
		--output-dir out/results/$*
	cp out/results/$*/results.json $@

# Type checkers do not know that envs/, planners/ and eval/ install inside lwm_agent: show them the installed layout.
lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/typed && mkdir -p build/typed/lwm_agent
	ln -s $(CURDIR)/lwm_agent/* $(CURDIR)/envs $(CURDIR)/planners $(CURDIR)/eval build/typed/lwm_agent/
	$(BIN)/mypy build/typed/lwm_agent

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

# Stamps: an install happens only after these files change.
$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/pip install -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/pip install -c constraints.txt -e '.[dev]'
	@touch $@

# The check of pip: without its pip, Debian's Python leaves a broken environment behind.
$(BIN)/pip:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.10 or newer, or name one with PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "$(PYTHON) is older than Python 3.10: name a newer one with PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make a virtual environment: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
