# Everything runs in .venv, which holds the tested versions of constraints.txt.
PYTHON ?= python3
PYTEST_ARGS ?= -n 2
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help install eval results test lint site graph clean

help:
	@echo "make eval     plan 50 Push-T episodes with the shipped world model; report and videos in out/eval-pusht-cem"
	@echo "make results  run the evaluations behind the tables and plots of README and docs/, and write them there"
	@echo "make test     run the tests (PYTEST_ARGS='$(PYTEST_ARGS)')"
	@echo "make lint     check style and types"
	@echo "make site     build the site of the documentation into build/site"
	@echo "make graph    print which rooms and modules import which, and whether there is a circle or an arrow upwards"
	@echo "make install  only install into $(VENV), with the development tools"
	@echo "make clean    remove $(VENV) and what was built"

install: $(VENV)/.dev

eval: $(VENV)/.run
	$(BIN)/lwm-agent eval --env pusht --planner cem --episodes 50 --output-dir out/eval-pusht-cem --video 3 --overwrite

test: $(VENV)/.dev
	$(BIN)/pytest $(PYTEST_ARGS)

# One results.json a row of a table; an interrupted run goes on where it stopped.
FAR_ROWS := $(foreach offset,50 75 100,guided-$(offset) actor-$(offset))
RESULTS := pusht-cem-25 pusht-guided-25 pusht-actor-25 pusht-gradient-25 pusht-replay-25 paper/pusht-cem-25 \
	$(patsubst %,pusht-%,$(FAR_ROWS)) \
	cube-cem-25 cube-guided-25 cube-actor-25 cube-gradient-25 cube-replay-25 paper/cube-cem-25 $(patsubst %,cube-%,$(FAR_ROWS))
SHORT := $(foreach env,pusht cube,$(foreach planner,guided actor,$(patsubst %,$(env)-$(planner)-%,25 50 75 100)))
TINY := $(patsubst %,tiny/pusht-%,cem-25 guided-25 actor-25 gradient-25 $(FAR_ROWS)) plain/pusht-cem-25
EVERY := $(foreach planner,guided actor,$(patsubst %,every-step/pusht-$(planner)-%,25 50 75 100))
DRAWN := drawn/pusht-guided-100 drawn-wall/pusht-guided-100 drawn-turned/pusht-guided-100 drawn/cube-guided-100 \
	drawn-edge/cube-guided-100
ABLATION := ablation/pusht-guided-25-default ablation/pusht-cem-25-no-proposal $(patsubst %,ablation/pusht-guided-25-%, \
	one-proposal white-noise whole-plans two-blocks ten-blocks fixed-horizon terminal fixed-horizon-terminal running \
	temporal-distance both-distances actor-deviation every-step int8 all-proposals) \
	ablation/pusht-actor-25-default ablation/pusht-actor-25-one-proposal \
	$(patsubst %,ablation/cube-guided-25-%,default best-step deviation-1 deviation-3 deviation-30 one-iteration)
ALL := guided cem icem mppi predictive-sampling random-shooting gradient sgd lbfgs grasp cem+gradient
EQUAL := $(foreach env,pusht cube,$(patsubst %,equal/$(env)-%-25,$(filter-out guided,$(ALL))))
OFFSETS := $(foreach env,pusht cube,$(foreach planner,$(ALL),$(patsubst %,offsets/$(env)-$(planner)-%,50 75 100)))
REALTIME := $(patsubst %,realtime/pusht-%-25,$(ALL) actor) $(patsubst %,realtime/cube-%-25,guided cem actor)
LADDER := $(patsubst %,ladder/pusht-%, \
	guided-25-81 guided-25-145 guided-25-657 cem-25-145 cem-25-273 cem-25-1297 gradient-25-145 gradient-25-1297)
NEAR := $(filter %-25,$(TINY)) $(filter-out %-replay-25,$(filter cube-%-25,$(RESULTS))) $(LADDER) $(filter-out %-cem-25,$(EQUAL))
FAR := $(foreach offset,50 75 100,$(filter tiny/pusht-%-$(offset),$(TINY)) $(filter offsets/pusht-%-$(offset),$(OFFSETS))) \
	$(foreach offset,50 75 100,$(filter cube-%-$(offset),$(RESULTS)) $(filter offsets/cube-%-$(offset),$(OFFSETS)))
files = $(patsubst %,results/%.json,$(1))
FIGURES := $(foreach name,compute far-pusht far-cube bench-pusht,docs/$(name).png docs/$(name).svg)
results: $(call files,$(RESULTS) $(DRAWN) $(TINY) $(EVERY) $(ABLATION) $(EQUAL) $(OFFSETS) $(LADDER) $(REALTIME)) $(FIGURES)
	$(BIN)/lwm-agent report $(call files,$(SHORT)) --into README.md --mark short --compact
	$(BIN)/lwm-agent report $(call files,$(RESULTS)) --into docs/results.md
	$(BIN)/lwm-agent report $(call files,$(DRAWN)) --into docs/results.md --mark drawn
	$(BIN)/lwm-agent report $(call files,$(TINY)) --into docs/results.md --mark tiny
	$(BIN)/lwm-agent report $(call files,$(EVERY)) --into docs/results.md --mark every-step
	$(BIN)/lwm-agent report $(call files,$(ABLATION)) --into docs/planners.md --mark ablation --bars docs/ablation.png
	$(BIN)/lwm-agent report $(call files,$(EQUAL)) --into docs/planners.md --mark equal --bars docs/equal.png
	$(BIN)/lwm-agent report $(call files,$(OFFSETS)) --into docs/planners.md --mark offsets --compact
	$(BIN)/lwm-agent report $(call files,$(LADDER)) --into docs/planners.md --mark ladder
	$(BIN)/lwm-agent report $(call files,$(REALTIME)) --into docs/planners.md --mark realtime
docs/compute.png docs/compute.svg &: $(call files,$(NEAR)) | $(VENV)/.dev
	$(BIN)/lwm-agent report $^ --plot docs/compute.png
docs/far-%.png docs/far-%.svg: $(call files,$(FAR)) | $(VENV)/.dev
	$(BIN)/lwm-agent report $(filter results/$*-% results/tiny/$*-% results/offsets/$*-%,$^) --plot docs/far-$*.png
docs/bench-pusht.png docs/bench-pusht.svg &: docs/bench-pusht.json | $(VENV)/.dev
	$(BIN)/python -m lwm_agent.eval.latency_figure $<

# A row is called [KIND/]ENV-PLANNER-OFFSET[-VARIANT]. "paper" is the protocol of the paper, and "drawn", "drawn-wall",
# "drawn-turned" and "drawn-edge" are those of goals that no play has reached. Push-T's rows of the other kinds are of
# pusht-tiny: "tiny" is as it plans by default; "plain" is without the learned proposal, with what suits it then (chosen
# on validation tasks); in "every-step", plans are made anew at every environment step; in "realtime", each episode is alone,
# and a plan takes 50 ms; in "equal", any planner goes on for as many rollouts as cem spends by itself, in "offsets" for about
# 5 GFLOP's worth (the floors are in guided's rows), and in "ladder" for as many as its variant says; in "ablation", a variant
# of the agent or its planner solves validation tasks.
kind = $(patsubst %/,%,$(dir $*))
words = $(subst -, ,$(notdir $*))
env = $(firstword $(words))
offset = $(firstword $(filter 25 50 75 100,$(words)))
planner = $(patsubst $(env)-%,%,$(firstword $(subst -$(offset), ,$(notdir $*))))
variant = $(patsubst $(env)-$(planner)-$(offset)-%,%,$(notdir $*))
checkpoint = $(if $(filter-out . paper drawn%,$(kind)),$(if $(filter pusht,$(env)),--checkpoint pusht-tiny))
tiny :=
plain := --set agent.proposal=none --set agent.replan_every_env_steps=10 --set planner.iterations=10
paper := --protocol lewm-paper
drawn := --protocol drawn
drawn-wall := --protocol drawn-wall
drawn-turned := --protocol drawn-turned
drawn-edge := --protocol drawn-edge
every-step := --set agent.replan_every_env_steps=1
realtime = --batch-size 1 --budget-ms 50 $(call first,1)
first = $(if $(findstring +,$(planner)),--set planner.first.iterations=$(1))
equal = --budget-rollouts 657 $(call first,2)
offsets = --budget-rollouts $(if $(filter cube,$(env)),145,273) $(call first,1) \
	$(if $(and $(filter cube,$(env)),$(findstring +,$(planner))),--set planner.first.num_samples=64) \
	$(if $(filter-out guided,$(planner)),--no-floors)
ladder = --budget-rollouts $(variant)
ablation = --split val $(call known,$(variant))
default :=
no-proposal := --set agent.proposal=none --set planner.num_samples=64 --set planner.num_elites=8 --set planner.iterations=3
one-proposal := --set agent.num_proposals=1
all-proposals := --set planner.proposals=all
one-iteration := --set planner.iterations=1
white-noise := --set planner.noise_correlation=0
whole-plans := --set agent.replan_every_env_steps=25
two-blocks := --set agent.horizon=2
ten-blocks := --set agent.horizon=10
fixed-horizon := --set agent.deadline_env_steps=null
fixed-horizon-terminal := $(fixed-horizon) --set agent.cost=terminal
terminal := --set agent.cost=terminal
running := --set agent.cost=running
temporal-distance := --set agent.cost=temporal-distance
best-step := --set agent.cost=best-step
int8 := --set agent.int8=true
actor-deviation := --set 'agent.cost=best-step+0.1*actor-deviation'
both-distances := --set 'agent.cost=best-step+0.1*temporal-distance'
deviation-1 := --set 'agent.cost=best-step+actor-deviation'
deviation-3 := --set 'agent.cost=best-step+3*actor-deviation'
deviation-30 := --set 'agent.cost=best-step+30*actor-deviation'
known = $(if $(filter file,$(origin $(1))),$($(1)),$(error $*: there is no "$(1)"))
results/%.json: | $(VENV)/.run
	$(BIN)/lwm-agent eval --env $(env) $(checkpoint) --planner $(planner) --offset $(offset) $(if $(filter-out .,$(kind)),$(call known,$(kind))) \
		--output-dir out/results/$*
	mkdir -p $(@D)
	cp out/results/$*/results.json $@
	rm -r out/results/$*

lint: $(VENV)/.dev build/typed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy build/typed/lwm_agent

site: $(VENV)/.dev build/typed
	$(BIN)/mkdocs build --quiet

# Tools that read the sources do not know that envs/, planners/ and eval/ install inside lwm_agent: show them the
# installed layout.
.PHONY: build/typed
build/typed:
	rm -rf build/typed && mkdir -p build/typed/lwm_agent
	ln -s $(CURDIR)/lwm_agent/* $(CURDIR)/envs $(CURDIR)/planners $(CURDIR)/eval build/typed/lwm_agent/

graph:
	$(PYTHON) tests/import_graph.py

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
