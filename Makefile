# `make demo` and `make test` set everything up on a fresh machine that has Python 3.11 or 3.12.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
VIDEO  ?=

# The demo models, one of each family.
MODELS := motion motion_vtn motion_vidtr motion_cvidtr

.PHONY: help venv demo demo-model repository accuracy loadtest bench test check format generate clean
help:
	@echo "make demo [VIDEO=path]   install, export, serve, classify, stop"
	@echo "make test                all tests that need no GPU"
	@echo "make check               format, lint, types, layers"
	@echo "make repository          write model_repository/ for the demo models"
	@echo "make demo-model          make the demo's data and train a model of it again (MODEL=vtn)"
	@echo "make accuracy            top-1 of the demo models on 480 clips never trained on"
	@echo "make loadtest            load the demo models, SCENARIO=file.toml for another load than a short one"
	@echo "make generate            write what is generated and committed: the blocking client, docs/cli.md"
	@echo "make bench               measure the numbers of the README's table"

venv: $(VENV)/ready
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[server,clients,s3,ray,evaluate,loadtest,export,quantise,demo,dev]'
	@touch $@

# Each line is a command that you can type yourself.
demo: repository build/clips/labels.csv
	$(BIN)/tubelet serve --http-port 0 --grpc-port 0 --metrics-port 0 -- sh -e -c 'for model in $(MODELS); do \
	  $(BIN)/tubelet classify --model $$model --top 3 build/clips/00000_*.mp4 build/clips/00005_*.mp4 $(if $(VIDEO),"$(VIDEO)"); done'

repository: $(MODELS:%=bundles/%/manifest.json)
	$(BIN)/tubelet repository $(MODELS:%=bundles/%) --ensemble motion_together=motion_vidtr+motion_vtn --target cpu --out model_repository

.SECONDEXPANSION:
bundles/%/manifest.json: $(VENV)/ready export/recipes/%.toml $$(wildcard export/checkpoints/$$*.*)
	$(BIN)/tubelet export export/recipes/$*.toml --out bundles/$*

build/clips/labels.csv: $(VENV)/ready
	$(BIN)/python -m tubelet.demo.clips --split evaluation --seed 3 --count 8 --out build/clips

# About half an hour on a core; MODEL is vivit, vtn, vidtr or cvidtr.
MODEL ?= vivit
demo-model: venv
	$(BIN)/python -m tubelet.demo.train $(MODEL) --out export/checkpoints/$(if $(filter vivit,$(MODEL)),motion.msgpack,motion_$(MODEL).safetensors)

# Top-1 on clips that training never saw, of each family, through the server and by torch itself.
accuracy: repository
	$(BIN)/python -m tubelet.demo.clips --split evaluation --seed 2 --count 480 --out build/evaluation
	$(BIN)/tubelet serve --http-port 0 --grpc-port 0 --metrics-port 0 -- sh -e -c 'for model in $(MODELS); do \
	  $(BIN)/python benchmarks/accuracy.py --model $$model build/evaluation/labels.csv; done'

# A scenario names the address itself: the ports are those of `tubelet serve`.
SCENARIO ?= loadtest/scenarios/smoke.toml
loadtest: repository
	$(BIN)/tubelet serve -- $(BIN)/tubelet loadtest $(SCENARIO) --out build/loadtest

# What make bench measures against; the first run also exports full-size networks into build/bench.
$(VENV)/ready-bench: $(VENV)/ready
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	@touch $@

# About 25 minutes on two cores; BENCH='--only NAME' measures a part, see benchmarks/README.md.
BENCH ?=
bench: $(VENV)/ready-bench bundles/motion/manifest.json
	$(BIN)/python benchmarks/run.py $(BENCH)

# Two files of tests at a time: much of a test is waiting for a server.
JOBS ?= 2
test: venv
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --allow-untyped-defs --allow-incomplete-defs --allow-untyped-calls --allow-any-generics --no-warn-return-any tests benchmarks docs clients server
	$(BIN)/python tests/typing/make_stubs.py
	$(BIN)/lint-imports

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Tests compare; docs/models and model_repository have commands of their own.
generate: venv
	$(BIN)/python docs/make_sync.py
	$(BIN)/python docs/make_cli.py > docs/cli.md

clean:
	rm -rf $(VENV) bundles build
