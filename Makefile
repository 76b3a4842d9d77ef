# make train    set up, then train on all GPUs of this machine, or on all cores of its CPU
# make check    set up, then format, lint, types
# make test     set up, then the same and all tests
# make matrix   set up, then every cell of the matrices of updates and resumed runs, every error of the system at every call
#               that changes a file of a run (needs strace), SLURM with two ranks a node and with a node lost, two chaotic
#               faults, rehearsals of the GPU kit and of the bench's loops, and new random examples for the tests that generate theirs
# make chaos    set up, then a run under random faults: make chaos FAULTS=100 SEED=7
# make fuzz     set up, then damaged files in every format that is read: make fuzz MINUTES=60 SEED=7
# make bench    set up, then what the loop costs beside the bare network, how long a start takes, and the loops of other libraries
#               beside ours (20 minutes)
# make gpu      set up, then measurements and tests of one GPU: make gpu OUT=runs/gpu MINUTES=9
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
FAULTS ?= 20
SEED   ?= 0
OUT     ?= runs/gpu
MINUTES ?= 9
# One worker more than the machine has cores, up to eight, so that the cores have work while tests wait for processes. The workers
# share the cores, so waiting threads must not spin.
WORKERS := $(shell cores=$$(nproc); echo $$((cores < 8 ? cores + 1 : 8)))
PYTEST := OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup
READY  := $(VENV)/.ready

.PHONY: env train test matrix chaos fuzz check bench docs gpu clean

env: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or later is needed; say which one with: make PYTHON=/path/to/python3.11 env"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	@touch $@

train: env
	@PATH="$(CURDIR)/$(BIN):$$PATH" launch/auto.sh launch/recipes/quickstart.toml

# `make test` uses fixed random examples, so its result does not depend on chance; `make matrix` draws new ones.
test: check
	$(PYTEST) --hypothesis-profile ci

# An empty -m lifts the "not matrix" of pyproject.toml.
matrix: env
	$(PYTEST) tests/matrix tests/slurm tests/chaos tests/gpu tests/bench tests/end_to_end/test_real_images.py \
	    $$(grep -rl --include='test_*.py' 'from hypothesis' tests) -m ''

chaos: env
	$(BIN)/python -m tests.chaos --faults $(FAULTS) --seed $(SEED)

fuzz: env
	$(BIN)/python -W ignore -m tests.fuzz --minutes $(MINUTES) --seed $(SEED)

check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

# On a machine with a GPU and without a network: python -m tests.gpu --out DIR, under its own Python.
gpu: env
	$(BIN)/python -m tests.gpu --out $(OUT) --minutes $(MINUTES)

docs: env
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: env
	$(BIN)/python -m distrib.bench
	$(BIN)/python -m tests.bench.start
	$(BIN)/python -m tests.bench --out runs/bench

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache *.egg-info
