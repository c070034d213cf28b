# Every target sets up what it needs: a .venv in this checkout with the CPU build of torch and pinned packages.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# PyPI's torch for Linux brings several GB of CUDA; PyTorch's own index has the CPU build. Asked only if it answers.
CPU_INDEX := https://download.pytorch.org/whl/cpu

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(READY)  ## Train a small ModernBERT from raw text and fill masks with it (minutes)
	$(BIN)/modernbert demo

test: $(READY)  ## Run the tests (minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(READY)  ## Run the tests that take longer
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not gpu and not peers"

check-native: $(READY)  ## Run the tests of the native kernels under address and undefined-behaviour sanitizers
	$(BIN)/cmake -S . -B build/sanitized -DSANITIZE=ON -DEMULATED_TILES=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo
	$(BIN)/cmake --build build/sanitized --parallel
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so.6)" \
	ASAN_OPTIONS=detect_leaks=0 OMP_NUM_THREADS=2 MODERNBERT_NATIVE_LIBRARY=$(CURDIR)/build/sanitized/libmodernbert.so \
	$(BIN)/python -m pytest -p no:cacheprovider --timeout 900 tests/kernels tests/model/test_optimized.py tests/model/test_fork.py tests/train/test_optimizer.py

check: $(READY)  ## Check style, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY)  ## Build the documentation site in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

setup: $(READY)  ## Only set up

clean:  ## Remove the environment, build results and output
	rm -rf $(VENV) build dist output .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# Also the native kernels: a library of older sources would not be called.
$(READY): pyproject.toml constraints.txt CMakeLists.txt $(wildcard src/native/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "modernbert needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 2; }
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt pip
	index=$$($(BIN)/python -c 'import urllib.request as u; u.urlopen("$(CPU_INDEX)/", timeout=2); print("--extra-index-url $(CPU_INDEX)")' \
		2>/dev/null || true); \
	$(BIN)/python -m pip install -q $$index -c constraints.txt --build-constraint constraints.txt -e '.[demo,bench]' --group dev && \
	echo "$$index" > $(READY)

.PHONY: help demo test test-slow check check-native docs setup clean
