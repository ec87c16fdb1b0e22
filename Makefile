# `make demo` and `make test` need only python3 (3.11 or newer) and, for the fast kernels, a C++
# compiler: everything else goes into a virtual environment of their own (.venv).
#
#   PYTHON=python3.12                       the Python to make the environment with
#   AWM_TORCH="torch==2.14.1"               another torch: anything that `pip install` takes

PYTHON ?= python3
VENV ?= .venv
AWM_TORCH ?= torch==2.13.0

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install
# Read-only once installed; each stamp says that one step of the set-up is done.
TOOLS := $(VENV)/.tools
PACKAGE := $(VENV)/.package
DEV := $(VENV)/.dev
SOURCES := setup.py pyproject.toml $(shell find csrc -type f)

.PHONY: help demo test test-fast sanitize sanitize-address sanitize-thread fuzz soak coverage docs lint audit compile-check cuda-check format clean
help:
	@echo "make demo           plant a backdoor and erase it; the report goes to awm-demo/"
	@echo "make test           build, then run every test"
	@echo "make test-fast      the quick tests alone, in under three minutes"
	@echo "make sanitize       the tests of the kernels under GCC's sanitizers; Linux"
	@echo "make fuzz           half a minute of broken files made by chance; Linux"
	@echo "make soak           kills the commands that write, and an hour of broken files"
	@echo "make coverage       every test, and how much of the packages they run"
	@echo "make docs           the documentation, into build/docs; a warning is an error"
	@echo "make lint           ruff, clang-format, mypy and import-linter"
	@echo "make audit          look up the locked dependencies among known vulnerabilities"
	@echo "make compile-check  compile the Triton kernels for sm_90 (no GPU needed)"
	@echo "make cuda-check     build the CUDA kernels (no GPU needed) and look for spilled registers"
	@echo "make format         rewrite the sources the way lint wants them"
	@echo "make clean          remove the environment and everything built"

demo: $(PACKAGE)
	$(BIN)/awm demo

# Triton picks its interpreter when a kernel is decorated, so its tests have a process of their own.
# A process a core, and a file in one process: files share networks that they have trained. More
# threads than cores would wait for each other. COVERAGE=on also counts the lines that run.
PARALLEL := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto
test: $(DEV)
	$(PARALLEL) --dist loadfile tests $(if $(COVERAGE),--cov)
	TRITON_INTERPRET=1 $(PARALLEL) tests/test_triton.py
	TRITON_INTERPRET=1 $(PARALLEL) tests/test_gpu.py -k "cpu-triton and error"

test-fast: $(DEV)
	$(PARALLEL) --dist loadfile tests -m "not slow"

sanitize: sanitize-address sanitize-thread
sanitize-address sanitize-thread: sanitize-%: $(DEV)
	$(BIN)/python -m tests.sanitize $*

fuzz: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak.fuzz --seconds 30

soak: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak.kills
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak.many
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak.fuzz --seconds 3600

coverage: export COVERAGE := on
coverage: test

docs: $(DEV)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' | xargs $(BIN)/clang-format --dry-run -Werror
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports

audit: $(DEV)
	$(BIN)/python -m tests.audit

compile-check: $(DEV)
	$(BIN)/python -m tests.triton_compile

cuda-check: export AWM_CUDA := on
cuda-check: $(DEV)
	$(BIN)/python -m tests.cuda_resources

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' | xargs $(BIN)/clang-format -i

# docs/demo.png, the picture in the README, from a fresh demo.
docs/demo.png: docs/make_picture.py $(PACKAGE)
	$(BIN)/awm demo --out $(VENV)/demo
	$(BIN)/python docs/make_picture.py $(VENV)/demo $@

# torch first: the package is built against the torch that is there.
$(TOOLS):
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(AWM_TORCH)
	$(PIP) 'setuptools>=77' ninja
	touch $@

$(PACKAGE): $(TOOLS) $(SOURCES)
	$(PIP) --no-build-isolation -e .
	touch $@

# The development set includes the package, so it stands for both stamps.
$(DEV): $(TOOLS) $(SOURCES)
	$(PIP) --no-build-isolation -e '.[dev]' '$(AWM_TORCH)'
	touch $(PACKAGE) $@

clean:
	rm -rf $(VENV) build awm_kernels/lib awm_kernels/_build_info*.so *.egg-info python/*.egg-info
