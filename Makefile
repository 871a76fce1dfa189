# `make claims` and `make test` are all the set-up that a fresh machine needs.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
# pip would compile the modules on one core, and those that hardly anything imports too.
PIP := $(BIN)/pip install -q --no-compile
COMPILE := $(BIN)/python -m compileall -qq -x '/(tests|transformers/models)/' .venv/lib
TORCH := 2.13.0
# Where pip finds torch's CPU build if its own index has none.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
export HF_HUB_DISABLE_TELEMETRY := 1
# The toy is too small for two threads, and tests run side by side.
export OMP_NUM_THREADS ?= 1

.PHONY: claims test lint types tests judged clean

claims: $(INSTALLED)
	$(BIN)/pytest claims

# The claims and mypy have one process each, and many of the tests wait for something.
test: $(INSTALLED)
	$(BIN)/ruff check .
	$(MAKE) -j3 types judged tests

# tests/conftest.py has their order. xdist's own begins with the files of many tests.
tests: $(INSTALLED)
	$(BIN)/pytest tests -rs --durations 12 -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

# What they say comes whole, not in between; after Ctrl-C too.
judged: $(INSTALLED)
	@trap : INT; said=$$($(BIN)/pytest claims -rs -o cache_dir=.pytest_cache/claims 2>&1); status=$$?; \
	  printf '%s\n' "$$said"; exit $$status

lint: $(INSTALLED) types
	$(BIN)/ruff check .

types: $(INSTALLED)
	$(BIN)/mypy

# torch comes first, and by name as a CPU build where there is no GPU: once it is there, nothing
# else asks for the build with CUDA's packages. Python's own pip may be old, and look twice as long
# for what fits together; while it looks, what is there is compiled.
$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade pip
	if [ "$$(uname)" = Darwin ] || nvidia-smi >/dev/null 2>&1; then \
	  $(PIP) torch==$(TORCH); \
	else \
	  $(PIP) torch==$(TORCH)+cpu || \
	  $(PIP) torch==$(TORCH)+cpu --extra-index-url $(TORCH_CPU_INDEX); \
	fi
	$(COMPILE) & $(PIP) -e '.[dev]'; status=$$?; wait; exit $$status
	$(COMPILE) -j 0 || true
	touch $@

clean:
	rm -rf .venv .landscape-store reports/out
