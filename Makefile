# Two commands on a fresh clone: `make demo` and `make test`. Both prepare .venv first, once.
#
#   PYTHON  the interpreter that .venv is made with (>= 3.10, with its headers)
#   TORCH   the PyTorch to build against and run with, as arguments of pip; any torch >= 2.10 works,
#           and with --index-url one can ask for a build without CUDA, which is much smaller

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
BIN := $(VENV)/bin

# What `make test` runs: all tests, one process per core; or the arguments of pytest instead, in this
# process: make test T=tests/distance/test_ranking.py, make test T='-m "not slow and not kernels"'
T ?=
# Each file's tests stay in one process, for what they share. Each process has one thread: a thread
# a core in each of them would get in each other's way. What pytest compiles from a file is kept for the
# next process, which would otherwise take ten seconds to find the tests.
ALL_TESTS := -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder
CPP := 'csrc/*' 'tests/emulated_*/*.h' 'tests/emulated_*/*.cpp'
SOURCES := setup.py pyproject.toml $(shell find csrc -type f)

.PHONY: demo test lint format kernels gpu-dry-run wheel bench ablation docs clean

demo: $(VENV)/installed
	$(BIN)/python -m mabm demo

test: $(VENV)/installed
ifeq ($(T),)
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(ALL_TESTS)
else
	$(BIN)/python -m pytest $(T)
endif

# Format, lint and types, changing nothing.
lint: $(VENV)/linters
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	git ls-files $(CPP) | xargs $(BIN)/clang-format --dry-run --Werror
	$(BIN)/mypy

format: $(VENV)/linters
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	git ls-files $(CPP) | xargs $(BIN)/clang-format -i

# The GPU kernels without a GPU: compiled for every architecture if there is an nvcc, and run on the
# emulated grid (tests/emulated_grid) under sanitizers.
kernels: $(VENV)/installed
	$(BIN)/python .ci/compile_kernels.py
	VENV=$(VENV) .ci/kernels

# The steps for a machine with a GPU, on small inputs without one.
gpu-dry-run: $(VENV)/installed
	PYTHON=$(BIN)/python .ci/gpu_dry_run

# Builds the wheel, installs it into an empty environment and runs its main job there.
wheel: $(VENV)/installed
	VENV=$(VENV) PYTHON=$(PYTHON) TORCH='$(TORCH)' .ci/wheel

# The documentation, built anew into build/docs, with its examples run, and then tested, in a browser
# where there is a Chromium. A broken link, a missing docstring or a warning is an error.
docs: $(VENV)/documented
	rm -rf build/docs docs/gallery docs/reference/generated
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs
	SITE=build/docs $(BIN)/python -m pytest -rs tests/docs/test_site.py tests/docs/test_repository_files.py tests/report/test_in_browser.py
	@echo "The documentation is ready: open $(CURDIR)/build/docs/index.html"

bench: $(VENV)/installed
	$(BIN)/python benchmarks/speed_page.py --docs build/speed
	$(BIN)/python benchmarks/losses.py

# The ablation of the method on open data: about two hours of two cores. If it is stopped, the same
# command resumes; docs/evidence/ablation.md.
ablation: $(VENV)/installed
	$(BIN)/python benchmarks/ablation.py

clean:
	rm -rf $(VENV) build dist *.egg-info mabm/_C*.so demo_output ablation_output

$(VENV)/torch:
	@echo "Installing into $(VENV): $(TORCH), then mabm and the packages of its tests:"
	@echo "1 to 2 GB on the disk, and some minutes, one or two of them for compiling the C++ ops."
	@echo "On Linux pip's default PyTorch is a CUDA build of several gigabytes. For the CPU build, about"
	@echo "200 MB, stop and name its index, which PyTorch's installation page gives:"
	@echo "  make $(MAKECMDGOALS) TORCH=\"torch==2.13.0 --index-url ...\""
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet numpy 'setuptools>=77' wheel ninja pybind11
	touch $@

$(VENV)/installed: $(VENV)/torch $(SOURCES)
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[test]'
	touch $@

$(VENV)/documented: $(VENV)/installed
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[docs]'
	touch $@

$(VENV)/linters: $(VENV)/installed
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[lint]'
	touch $@
