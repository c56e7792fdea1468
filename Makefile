# Everything here needs only Python 3.11+ and make; a .venv is set up on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2

.PHONY: quickstart test test-slow test-backends lint format wheel smoke clean

# pip is called through the interpreter so that a moved checkout still works.
$(VENV)/.base: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

# The CPU build of torch is enough; pick your own build by installing it first.
$(VENV)/.backends: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[jax,torch]"
	touch $@

quickstart: $(VENV)/.base
	$(BIN)/python tutorials/quickstart.py

test: $(VENV)/.base
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest -n $(JOBS) --dist loadscope -m "not slow"

# Whole scripts, whole networks, and what starts processes of its own.
test-slow: $(VENV)/.base
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest -n $(JOBS) --dist loadscope -m slow

test-backends: $(VENV)/.backends
	KERAS_BACKEND=jax $(BIN)/python -m pytest -n $(JOBS) --dist loadscope
	KERAS_BACKEND=torch $(BIN)/python -m pytest -n $(JOBS) --dist loadscope

lint: $(VENV)/.base
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.base
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(VENV)/.base
	rm -rf dist
	$(BIN)/python -m build

# The wheel alone, in an empty environment, away from the checkout.
smoke: wheel
	rm -rf $(VENV)-wheel
	$(PYTHON) -m venv $(VENV)-wheel
	$(VENV)-wheel/bin/python -m pip install --quiet --constraint constraints.txt dist/*.whl
	cd $(VENV)-wheel && bin/python ../tests/smoke.py
	rm -rf $(VENV)-wheel

clean:
	rm -rf $(VENV) $(VENV)-wheel build dist .pytest_cache .ruff_cache *.egg-info
