# `make claims` and `make test` are all the set-up that a fresh machine needs.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
TORCH := 2.13.0
# Where pip finds torch's CPU build if its own index has none.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
export HF_HUB_DISABLE_TELEMETRY := 1
# The toy is too small for two threads, and tests run side by side.
export OMP_NUM_THREADS ?= 1

.PHONY: claims test lint clean

claims: $(INSTALLED)
	$(BIN)/pytest claims

# xdist would begin with the files of many tests; those of few are the ones that take long.
test: lint
	$(BIN)/pytest tests -rs --durations 12 -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder
	$(BIN)/pytest claims -rs

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/mypy

# torch comes first, and by name as a CPU build where there is no GPU: once it is there, nothing
# else asks for the build with CUDA's packages.
$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	if [ "$$(uname)" = Darwin ] || nvidia-smi >/dev/null 2>&1; then \
	  $(BIN)/pip install -q torch==$(TORCH); \
	else \
	  $(BIN)/pip install -q torch==$(TORCH)+cpu || \
	  $(BIN)/pip install -q torch==$(TORCH)+cpu --extra-index-url $(TORCH_CPU_INDEX); \
	fi
	$(BIN)/pip install -q -e '.[dev]'
	touch $@

clean:
	rm -rf .venv .landscape-store reports/out
