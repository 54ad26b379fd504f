# Set-up, tests, and the main job as a pipeline of commands whose stages are files.
#
#   make reproduce                                  train six tiny models without and with registers,
#                                                   analyse them, write runs/demo/report.html
#   make reproduce SCALE=digits                     the same with two models that learn digits
#   make reproduce SCALE=imagenette DATA=folder     the same on photographs, three seeds; VOC=folder adds
#                                                   LOST with boxes
#   make reproduce SCALE=full DATA=imagenet2012     the whole study, three seeds of each model: what is said of
#                                                   registers needs an interval over training runs. SEEDS=0 is a
#                                                   third of it; `make plan SCALE=full` says how long
#   make reproduce DATA=images CHECKPOINTS="a b"    the same analyses of your checkpoints and images
#   make sweep                                      0 to 16 registers, five seeds each: a table and a figure
#   make test                                       all tests
#   make coverage                                   all tests, and which lines none of them runs
#   make lint                                       format, style and types
#   make bench                                      speed against PyTorch
#   make docs                                       the documentation: site/index.html
#   make constraints                                the pinned versions, after a change of pyproject.toml;
#                                                   UPGRADE=1 for the newest of everything
#
# All of them set up .venv first. PYTHON=/path/to/python3.13 says which Python; where .venv is another
# version's, that Python gets an environment of its own, .venv-3.13, and .venv stays as it is.

# The first Python on the path that is new enough.
NEW_ENOUGH := import sys, venv; sys.exit(sys.version_info < (3, 11))
version = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
ifdef PYTHON
$(if $(call version,$(PYTHON)),,$(error PYTHON=$(PYTHON) does not run here: give the path of a Python 3.11 or newer))
VENV ?= .venv$(if $(wildcard .venv/bin/python),$(addprefix -,$(filter-out $(call version,.venv/bin/python),$(call version,$(PYTHON)))))
else
PYTHON = $(shell for python in python3 python3.13 python3.12 python3.11; do \
  $$python -c '$(NEW_ENOUGH)' 2>/dev/null && { echo $$python; break; }; done)
endif
VENV ?= .venv
# Builds of torch and torchvision for a CPU, where this index can be reached; otherwise those of PyPI.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
NEEDS := $(VENV)/needs
.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: reproduce trained analysed plan sweep test coverage lint bench docs constraints clean FORCE
.DEFAULT_GOAL := reproduce

# --- set-up ------------------------------------------------------------------------------------

$(VENV)/created:
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(NEW_ENOUGH)' || \
	  { echo "Python 3.11 or newer with venv is needed; set PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	touch $@

$(NEEDS)-run: $(VENV)/created pyproject.toml constraints.txt
	$(PIP) install -q -c constraints.txt -e '.[data]'
	touch $@

# torch and torchvision of two places do not fit together, so both are named with their build: "+cpu" of
# the index of that name, or none ("===" takes no other).
pinned = $(1)==$(2)$(shell sed -n 's/^$(1)==\([^ ]*\).*/\1/p' constraints.txt)
BUILD := +$(notdir $(TORCH_INDEX))
$(NEEDS)-test: $(NEEDS)-run
	$(BIN)/python -W ignore -c 'import torchvision' 2>/dev/null || \
	  $(PIP) install -q --no-deps --timeout 15 --retries 0 --index-url $(TORCH_INDEX) \
	    '$(call pinned,torch)$(BUILD)' '$(call pinned,torchvision)$(BUILD)' 2>/dev/null || \
	  $(PIP) install -q -c constraints.txt '$(call pinned,torch,=)' '$(call pinned,torchvision,=)'
	$(PIP) install -q -c constraints.txt -e '.[data,tfds,fast,torch,dev,docs]'
	touch $@

$(NEEDS)-docs: $(NEEDS)-run
	$(PIP) install -q -c constraints.txt -e '.[docs]'
	touch $@

# --- the main job ------------------------------------------------------------------------------

SCALE ?= demo
ifdef CHECKPOINTS
OUT ?= runs/own
MODELS := $(CHECKPOINTS)
$(if $(DATA),,$(error DATA=path/to/images is needed with CHECKPOINTS))
else ifeq ($(SCALE),demo)
DATA ?= cues
PRESET := organism
SEEDS ?= 0 1 2
NUM_IMAGES ?= 600
NUM_TRAIN_IMAGES ?= 300
# Of the first pair alone, since they take longest.
OF_THE_FIRST_PAIR := ablate lost neurons probe reconstruction segment similarity
else ifeq ($(SCALE),digits)
DATA ?= digits
PRESET := demo
NUM_IMAGES ?= 500
NUM_TRAIN_IMAGES ?= 1000
else ifeq ($(SCALE),imagenette)
DATA ?= imagenette
PRESET := imagenette
SEEDS ?= 0 1 2
else ifeq ($(SCALE),full)
DATA ?= imagenet2012
PRESET := study
REGISTERS ?= 0 1 2 4 8 16
SEEDS ?= 0 1 2
NUM_TRAIN_IMAGES ?= 100000
else
$(error SCALE is demo, digits, imagenette or full, not $(SCALE))
endif
OUT ?= runs/$(SCALE)
REGISTERS ?= 0 4
SEEDS ?= 0
NUM_IMAGES ?= 2000
NUM_TRAIN_IMAGES ?= 5000
TRAIN_OPTIONS ?=

# Runs are called reg4, reg4-seed1, ...
RUNS := $(foreach s,$(SEEDS),$(foreach r,$(REGISTERS),$(OUT)/reg$(r)$(if $(filter-out 0,$(s)),-seed$(s))))
MODELS ?= $(RUNS)
TRAINED := $(if $(CHECKPOINTS),,$(RUNS:%=%/result.json))
registers = $(firstword $(subst -seed, ,$*))
seed = $(or $(word 2,$(subst -seed, ,$*)),0)
VOC_RESULTS := $(if $(VOC),$(OUT)/lost-voc/results.json)

reproduce: $(if $(filter full,$(SCALE)),plan)
	+@$(MAKE) --no-print-directory -j$(AT_ONCE) trained
	+@$(MAKE) --no-print-directory analysed
	@echo "Open $(OUT)/report.html"

trained: $(TRAINED)
	@:

analysed: $(OUT)/report.html
	@:

# How long training will take on these devices.
plan: | $(NEEDS)-run
	$(BIN)/regvit-train plan --preset $(PRESET) --data $(DATA) --registers $(REGISTERS) --seeds $(words $(SEEDS)) $(TRAIN_OPTIONS)

# Which models and images the results are of: changing them makes the analyses again.
INPUTS := $(MODELS) $(DATA) $(NUM_IMAGES) $(NUM_TRAIN_IMAGES) $(VOC)
$(OUT)/inputs.txt: FORCE
	@mkdir -p $(OUT)
	@echo '$(INPUTS)' | cmp -s - $@ || echo '$(INPUTS)' > $@

# A tiny model trains on one core: as many at once as there are, each line headed by its run.
BASH := $(shell command -v bash)
AT_ONCE ?= $(or $(if $(BASH),$(if $(filter demo digits,$(SCALE)),$(shell getconf _NPROCESSORS_ONLN))),1)
HEADED = $(if $(filter-out 1,$(AT_ONCE)),2>&1 | (trap "" INT TERM HUP; awk '{ print "$(notdir $(@D)): " $$0; fflush() }'))
ifneq ($(AT_ONCE),1)
$(OUT)/reg%/result.json: SHELL := $(BASH)
$(OUT)/reg%/result.json: .SHELLFLAGS := -o pipefail -c
endif
$(OUT)/reg%/result.json: | $(NEEDS)-run
	$(BIN)/regvit-train run --preset $(PRESET) --num-registers $(registers) --seed $(seed) --data $(DATA) $(TRAIN_OPTIONS) --out $(@D) $(HEADED)

$(OUT)/lost-voc/results.json: $(OUT)/inputs.txt $(TRAINED) | $(NEEDS)-run
	$(BIN)/regvit-analyze lost --checkpoint $(MODELS) --data $(VOC) --overwrite --out $(@D)

ON = --data $(DATA) --num-images $(NUM_IMAGES) --num-train-images $(NUM_TRAIN_IMAGES)
# One of several commands may write the page and the next be killed: then all of them go on.
$(OUT)/report.html: $(OUT)/inputs.txt $(TRAINED) $(VOC_RESULTS) $(if $(wildcard $(OUT)/unfinished),FORCE) | $(NEEDS)-run
	@touch $(@D)/unfinished
	$(BIN)/regvit-analyze all --checkpoint $(MODELS) $(ON) $(addprefix --skip ,$(OF_THE_FIRST_PAIR)) --overwrite --out $(@D)
ifdef OF_THE_FIRST_PAIR
	$(BIN)/regvit-analyze all --checkpoint $(wordlist 1,$(words $(REGISTERS)),$(MODELS)) $(ON) --skip norms attention sinks --overwrite --out $(@D)/pair
endif
ifneq ($(VOC)$(OF_THE_FIRST_PAIR),)
	$(BIN)/regvit-analyze report --runs $(MODELS) --out $@ --results $$(ls $(@D)/*/results.json $(@D)/pair/*/results.json 2>/dev/null | xargs -n 1 dirname)
endif
	@rm $(@D)/unfinished

# Norm, attention and accuracy against the number of registers, with intervals over seeds.
sweep: | $(NEEDS)-run
	$(BIN)/python -m benchmarks.organism --job sweep --registers 0 1 2 4 8 16 --seeds 0 1 2 3 4 --out runs/organism --figure runs/sweep.png

# --- quality -----------------------------------------------------------------------------------

test: $(NEEDS)-test
	$(BIN)/pytest

coverage: $(NEEDS)-test
	$(BIN)/pytest --cov

lint: $(NEEDS)-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(NEEDS)-test
	$(BIN)/python -m benchmarks

docs: $(NEEDS)-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build -q -d site
	@echo "Open site/index.html"

# One file for every platform and Python; of those that a pin no longer fits, the newest.
constraints: $(VENV)/created
	$(PIP) install -q uv
	$(BIN)/python -m uv pip compile -q --universal --python-version 3.11 --all-extras --no-annotate --no-header \
	  $(if $(UPGRADE),--upgrade) -o constraints.txt pyproject.toml
	# What torch needs of CUDA it pins itself.
	sed -i.old -e '/^\(cuda\|nvidia\)-/d' -e '/^triton=/d' constraints.txt && rm constraints.txt.old

clean:
	rm -rf .venv .venv-3.* build dist site *.egg-info
