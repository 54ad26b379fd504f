# Set-up, tests, and the main job as a pipeline of commands whose stages are files.
#
#   make reproduce                                  train two small models on embedded data, analyse
#                                                   both, write runs/demo/report.html
#   make reproduce DATA=images CHECKPOINTS="a b"    the same analyses of your checkpoints and images
#   make test                                       all tests
#   make lint                                       format, style and types
#   make bench                                      speed against PyTorch
#   make docs                                       the documentation: site/index.html

# The first Python on the path that is new enough.
NEW_ENOUGH := import sys, venv; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
  $$python -c '$(NEW_ENOUGH)' 2>/dev/null && { echo $$python; break; }; done)
# A CPU-only build of torch, where this index can be reached; otherwise the usual build.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
NEEDS := .venv/needs
.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: reproduce test lint bench docs clean FORCE
.DEFAULT_GOAL := reproduce

# --- set-up ------------------------------------------------------------------------------------

.venv/created:
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(NEW_ENOUGH)' || \
	  { echo "Python 3.11 or newer with venv is needed; set PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv .venv
	touch $@

$(NEEDS)-run: .venv/created pyproject.toml constraints.txt
	$(PIP) install -q -c constraints.txt -e '.[data]'
	touch $@

$(NEEDS)-test: $(NEEDS)-run
	$(BIN)/python -c 'import torch' 2>/dev/null || \
	  $(PIP) install -q --no-deps -c constraints.txt --timeout 15 --retries 0 --index-url $(TORCH_INDEX) torch 2>/dev/null || \
	  $(PIP) install -q -c constraints.txt torch
	$(PIP) install -q -c constraints.txt -e '.[data,tfds,fast,torch,dev,docs]'
	touch $@

$(NEEDS)-docs: $(NEEDS)-run
	$(PIP) install -q -c constraints.txt -e '.[docs]'
	touch $@

# --- the main job ------------------------------------------------------------------------------

ifdef CHECKPOINTS
OUT ?= runs/own
MODELS := $(CHECKPOINTS)
$(if $(DATA),,$(error DATA=path/to/images is needed with CHECKPOINTS))
else
OUT ?= runs/demo
DATA ?= digits
MODELS := $(OUT)/reg0 $(OUT)/reg4
TRAINED := $(MODELS:%=%/result.json)
endif
NUM_IMAGES ?= 1000

reproduce: $(OUT)/report.html
	@echo "Open $(OUT)/report.html"

# Which models and images the results are of: changing them makes the analyses again.
$(OUT)/inputs.txt: FORCE
	@mkdir -p $(OUT)
	@echo '$(MODELS) $(DATA) $(NUM_IMAGES)' | cmp -s - $@ || echo '$(MODELS) $(DATA) $(NUM_IMAGES)' > $@

$(OUT)/reg%/result.json: | $(NEEDS)-run
	$(BIN)/regvit-train run --preset demo --num-registers $* --data $(DATA) --out $(@D)

$(OUT)/%/results.json: $(OUT)/inputs.txt $(TRAINED) | $(NEEDS)-run
	$(BIN)/regvit-analyze $* --checkpoint $(MODELS) --data $(DATA) --num-images $(NUM_IMAGES) --overwrite --out $(@D)

$(OUT)/report.html: $(OUT)/norms/results.json $(OUT)/attention/results.json
	$(BIN)/regvit-analyze report --results $(^D) --runs $(MODELS) --out $@

# --- quality -----------------------------------------------------------------------------------

test: $(NEEDS)-test
	$(BIN)/pytest

lint: $(NEEDS)-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(NEEDS)-test
	for job in inference training input lost conversion; do \
	  $(BIN)/python -m benchmarks.$$job || exit 1; done

docs: $(NEEDS)-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build -q -d site
	@echo "Open site/index.html"

clean:
	rm -rf .venv build site *.egg-info
