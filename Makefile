# make demo | study | test | test-all | lab | lint | format | lock | clean. Whatever needs .venv sets it up first, once (uv, from requirements.lock).
#   UV_TORCH_BACKEND=cpu make demo     a machine without a GPU: torch from the CPU index, none of CUDA's libraries
#   PYTHON=python3.12 make demo        another interpreter (3.11 to 3.14)
SHELL := /bin/bash
PYTHON ?= python3
UV := .uv/bin/uv
BIN := .venv/bin
READY := .venv/.ready
INSTALL := $(UV) pip install --quiet --compile-bytecode --python $(BIN)/python

.PHONY: setup demo study test test-all lab lint format lock clean
setup: $(READY)

# uv comes by pip: in an environment of its own or, where Debian's python3-venv is missing, in a folder (PEP 668 allows both).
$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || { \
	  echo "Python 3.11 to 3.14 is needed, $(PYTHON) is `$(PYTHON) -V 2>&1`; give one as PYTHON=..." >&2; exit 1; }
	@echo "setting up .venv, once"
	@rm -rf .uv
	@{ $(PYTHON) -m venv .uv && .uv/bin/python -m pip install --quiet --disable-pip-version-check uv; } >.uv.log 2>&1 || { \
	  rm -rf .uv && $(PYTHON) -m pip install --quiet --disable-pip-version-check --target .uv/site uv >>.uv.log 2>&1 && \
	  mkdir -p .uv/bin && ln -s ../site/bin/uv .uv/bin/uv; } || { cat .uv.log >&2; rm -rf .uv .uv.log; \
	  echo "pip could not install uv: is there a network, and pip (Debian: apt install python3-venv)?" >&2; exit 1; }
	@rm -f .uv.log

# With another torch build the lock is a set of constraints: its lines for CUDA's libraries are not wanted then.
$(READY): requirements.lock pyproject.toml | $(UV)
	@test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) .venv
ifdef UV_TORCH_BACKEND
	$(INSTALL) --constraints requirements.lock --editable '.[test]'
else
	$(INSTALL) --requirements requirements.lock
	$(INSTALL) --no-deps --editable .
endif
	@touch $@

# The paper's loop with every page; the same loop without descriptions; both side by side.
demo: $(READY)
	@$(BIN)/isrdpo run params/toybox.yaml
	@echo; echo "the same without descriptions (self_reward), to compare"
	@$(BIN)/isrdpo run params/toybox.yaml run=outputs/toybox_self_reward arm=self_reward respond.context=none --stages
	@$(BIN)/isrdpo compare outputs/toybox outputs/toybox_self_reward

# Arms x seeds, then the comparison: make study SEEDS=2 ITERATIONS=2 is a small one.
study: $(READY)
	@$(BIN)/isrdpo study params/study.yaml $(if $(SEEDS),--seeds $(SEEDS)) $(if $(ITERATIONS),iterations=$(ITERATIONS))

# The fast tier; TIER=full adds lint and the tests marked slow (whole loops, the recipe's first steps).
test: $(READY)
ifeq ($(TIER),full)
	$(MAKE) --no-print-directory lint
endif
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "not slow"
ifeq ($(TIER),full)
	$(BIN)/python -m pytest -q -m slow --deselect tests/models/test_auto.py::test_a_quantized_base_is_trained_under_lora_and_merged_into_the_whole_weights
	$(UV) pip install --quiet --target .uv/quantized --no-deps bitsandbytes==0.50.2
	PYTHONPATH=.uv/quantized $(BIN)/python -m pytest -q -m slow tests/models/test_auto.py -k quantized_base
endif

test-all:
	@$(MAKE) --no-print-directory test TIER=full

lab: $(READY)
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks

lint: $(READY)
	$(BIN)/python -m ruff check isrdpo tests notebooks
	$(BIN)/python -m ruff format --check isrdpo tests notebooks

format: $(READY)
	$(BIN)/python -m ruff check --fix isrdpo tests notebooks
	$(BIN)/python -m ruff format isrdpo tests notebooks

lock: $(UV)
	$(UV) pip compile pyproject.toml --extra test --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links \
	  --no-annotate --no-header --quiet --output-file requirements.lock

# Removes what set-up made; runs (outputs/) stay.
clean:
	rm -rf .venv .uv .pytest_cache .ruff_cache *.egg-info
