# make demo | test | test-all | lab | lint. Each sets up .venv first, once (uv from requirements.lock).
SHELL := /bin/bash
PYTHON ?= python3
UV := .uv/bin/uv
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-all lab lint setup clean
setup: $(READY)

# uv comes by pip: into a virtual environment, or, where Debian's python3-venv is missing, into a folder of its own.
$(UV):
	@$(PYTHON) -m venv .uv >/dev/null 2>&1 && .uv/bin/python -m pip install --quiet uv || { \
	  rm -rf .uv && $(PYTHON) -m pip install --quiet --target .uv/site uv && mkdir -p .uv/bin && ln -sf ../site/bin/uv .uv/bin/uv; }
	@test -x $(UV) || { echo "no uv: pip could not install it; is there a network and python3-pip?" >&2; exit 1; }

$(READY): requirements.lock pyproject.toml | $(UV)
	@test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) .venv
	$(UV) pip install --quiet --python $(BIN)/python -r requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

demo: $(READY)
	$(BIN)/isrdpo run params/toybox.yaml

test: $(READY)
	$(BIN)/python -m pytest -q -n 2 -m "not slow" tests

test-all: $(READY)
	$(BIN)/python -m ruff check isrdpo tests notebooks
	$(BIN)/python -m pytest -q -n 2 -m "not slow" tests
	$(BIN)/python -m pytest -q -m slow tests

lab: $(READY)
	$(BIN)/jupyter lab notebooks

lint: $(READY)
	$(BIN)/python -m ruff check isrdpo tests notebooks

clean:
	rm -rf .venv .uv
