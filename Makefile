# The commands that a person types. `make install` alone builds .venv with the `runhook` command in it.
# PYTHON=python3.13 VENV=.venv-3.13 takes another Python, beside the environment that is there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Enough workers to use the time in which tests wait, which is more than half of it. Each costs ten seconds of a core:
# half of them before its first test, half for its own servers.
JOBS ?= $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 5)))

# Where the environment forbids it, each of many processes would compile all that it imports anew.
export PYTHONDONTWRITEBYTECODE =

.PHONY: install lock demo test proofs proofs-long lint format types chaos bench bench-large loop upstream docs dist clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml requirements.lock requirements-dev.lock
	@scripts/install $(PYTHON) $(VENV)
	@touch $@

# Write the three locks: the newest versions that pyproject.toml allows, with their hashes. ARGS=--keep changes only what it must.
lock:
	@PYTHON=$(PYTHON) scripts/lock $(ARGS)

demo: install
	@$(BIN)/python scripts/demo.py $(if $(ONCE),--once)

lint: install
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: install
	@$(BIN)/mypy

format: install
	@$(BIN)/ruff check --fix-only -q .
	@$(BIN)/ruff format -q .

# Most tests wait for servers, so several run at once. Types, which one process checks, are checked meanwhile, and told
# of only when they are wrong: else pytest's summary is the last line.
test: lint
	@found=$$(mktemp); $(BIN)/mypy >"$$found" 2>&1 & types=$$!; \
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(or $(ARGS),-m "not long"); code=$$?; \
	wait $$types || { cat "$$found"; code=1; }; rm "$$found"; exit $$code

# The tests that take long: chaos, loop, faults of the network, a long backlog, two hosts, status, the demo, an install of the wheel, examples of the docs, requests of every kind to the API, every road of a run.
proofs: install
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "long and not longest" $(ARGS)

# What CI has no time or package for: kills at each step with PostgreSQL, the TypeScript examples, an image, a long backlog, a soak, chaos on three seeds, the loop, the newest Skyvern. About an hour.
proofs-long: install
	@TMPDIR=$${TMPDIR:-/tmp} $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m longest $(ARGS)
	@for seed in 1 2 3; do $(BIN)/python -m tests.chaos --seed $$seed || exit 1; done
	@$(BIN)/python -m tests.loop.run
	@$(BIN)/python -m tests.upstream

# Kill anything, break any connection, any time: about eight minutes. ARGS="--short" (two), "--seed 7", "--without claim-sweep" (which must fail).
chaos: install
	@$(BIN)/python -m tests.chaos $(ARGS)

# Runs submitted through us and past us, with every fault of a simulated Skyvern, which is the truth. Some minutes.
loop: install
	@$(BIN)/python -m tests.loop.run $(if $(RUNS),--runs $(RUNS)) $(ARGS)

# The newest Skyvern of the package registry against what docs/reference/skyvern.md says. ARGS="--version 1.0.56", "--keep FOLDER".
upstream: install
	@$(BIN)/python -m tests.upstream $(ARGS)

# Measure Runhook beside other stacks in at most ten minutes, into bench/RESULTS.md. PARTS="ack sinks" prints some of it.
bench: install
	@$(BIN)/python -m bench $(PARTS)

# Lists, searches and the pipeline at 1,000,000 runs on both databases: about half an hour, into bench/RESULTS-large.md.
bench-large: install
	@$(BIN)/python -m bench large

# The documentation site in site/. Fails on broken links and anchors, and on resources from other hosts.
docs: install
	@$(BIN)/python scripts/reference.py
	@$(BIN)/python scripts/site.py

# A wheel and an sdist in dist/, the same bytes for the same commit.
dist: install
	@rm -rf dist
	@SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct 2>/dev/null || echo 1580601600)} \
		$(BIN)/python -m hatchling build -d dist

clean:
	rm -rf $(VENV) build dist site .mypy_cache .ruff_cache .hypothesis
