# `make demo` shows the product, `make test` proves it. Needs Python 3.11 or newer, nothing else.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
ARGS ?=

.DEFAULT_GOAL := help

# Some machines are told to keep no compiled Python. A process of ours is many modules: it would compile them all anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test unit integration coverage check audit format up down reset migrate rollback migration \
	routes faults sim torture fuzz settlements bench lock clean learn

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: $(STAMP) ## Install everything into .venv (once; again when the lock changes)
	@:

$(STAMP): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: Python 3.11 or newer is needed." >&2; \
	  echo "  where: $$(command -v $(PYTHON) || echo '$(PYTHON): not found')" >&2; \
	  echo "  why: $$($(PYTHON) --version 2>&1 | head -n 1)" >&2; \
	  echo "  fix: install it, or name another one: make setup PYTHON=/path/to/python3.11" >&2; exit 3; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing the locked packages into .venv ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@# The project itself is used where it lies: one path file and one command, no build.
	@$(BIN)/python -c 'import pathlib, sysconfig; \
	  pathlib.Path(sysconfig.get_path("purelib"), "aura_stream.pth").write_text("$(CURDIR)\n")'
	@printf '#!/bin/sh\nexec "$$(dirname "$$0")/python" -m aura_stream.cli "$$@"\n' > $(BIN)/aura
	@chmod +x $(BIN)/aura
	@touch $(STAMP)

demo: setup ## Show the whole product working, on ports and data of its own
	@$(BIN)/aura demo $(ARGS)

# Much of a test is waiting for processes, so three run on two cores; a file's tests stay together and share its
# services, and the files come in the order of tests/order.py.
test: learn check ## Check the code, then run all tests
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not long" $(ARGS)

# Of the many brokers that start, each takes half the CPU with what one before them has learned. Once per machine; it is
# made beside the check, which needs one core, and nothing waits for it.
learn: setup
	@$(BIN)/python -m aura_stream.embedded.aot &

unit: setup ## Run the tests that need no service (ARGS="tests/domain -k holds")
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not integration and not long" $(ARGS)

integration: setup ## Run the tests on a real Kafka and a real Postgres
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "integration and not long" $(ARGS)

coverage: setup ## Run tests and say which lines they do not reach (ARGS="tests/domain")
	@$(BIN)/python -m pytest -m "not long" --cov --cov-report=term-missing:skip-covered $(ARGS)

faults: setup ## Run each fault of the matrix by itself, on three brokers (about ten minutes)
	@$(BIN)/python -m pytest -m long tests/torture tests/engine $(ARGS)

check: setup ## Formatting, lint, types, direction of imports
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

# Of all that is locked, apart from our own environment. A package that cannot be looked up is a failure.
audit: setup ## Look up every locked package among known vulnerabilities (needs a network)
	@$(BIN)/uv tool run pip-audit@2.10.1 --strict --require-hashes --disable-pip -r requirements.lock $(ARGS) || { \
	  echo "error: the audit did not pass." >&2; \
	  echo "  where: requirements.lock; what is above names the package" >&2; \
	  echo "  why: it has a known vulnerability, or could not be looked up: a mirror or a cut network has packages, but" >&2; \
	  echo "       not what is known of them, and what was not looked up does not count as good" >&2; \
	  echo "  fix: raise its version (pyproject.toml, make lock); else run it where the public index answers, as CI does." >&2; \
	  echo "       Without a network: locked hashes and static findings are in pytest tests/security/test_code.py" >&2; exit 1; }

format: setup ## Format the code and mend what can be mended
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

up: setup ## Start everything on this machine
	@$(BIN)/aura up $(ARGS)

down: setup ## Stop it; the data stays (ARGS=--wipe removes it)
	@$(BIN)/aura down $(ARGS)

reset: setup ## Start from nothing: remove all data, start, migrate, seed (sandbox only)
	@$(BIN)/aura reset --yes $(ARGS)

migrate: setup ## Bring the database schema up to date
	@$(BIN)/aura db migrate $(ARGS)

rollback: setup ## Take back the newest migration
	@$(BIN)/aura db rollback $(ARGS)

migration: setup ## Write an empty migration (WORDS="notes on transfers")
	@$(BIN)/aura db new "$(WORDS)"

routes: setup ## List the routes of the HTTP API (ARGS=pauses)
	@$(BIN)/aura routes $(ARGS)

sim: setup ## Run simulated worlds (ARGS="--seeds 0:1000", --forever, --seed N --trace)
	@$(BIN)/python -m tests.simulation $(ARGS)

torture: setup ## Hurt a whole system at random and check its books (SECONDS=120 SEED=42 ARGS="--row N01,N11")
	@$(BIN)/python -m tests.torture $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

fuzz: setup ## Fuzz the contract of the HTTP API for longer than the tests do (EXAMPLES=200)
	@AURA_FUZZ_EXAMPLES=$(or $(EXAMPLES),200) $(BIN)/python -m pytest tests/web/test_fuzz.py tests/identity/test_fuzz.py $(ARGS)

settlements: setup ## Settle with banks of which 30 % fails, and ask all books (COUNT=1000 SEED=42 FAULTS=0.3)
	@$(BIN)/python -m tests.settlements $(if $(COUNT),--count $(COUNT)) $(if $(SEED),--seed $(SEED)) $(if $(FAULTS),--faults $(FAULTS)) $(ARGS)

bench: setup ## Measure throughput and latency
	@$(BIN)/aura bench $(ARGS)

lock: setup ## Resolve the Python packages and the Kafka jars anew
	@$(BIN)/uv pip compile pyproject.toml --extra dev --generate-hashes --no-emit-index-url --universal \
	  --python-version 3.11 -o requirements.lock
	@$(BIN)/python -m aura_stream.embedded.jars

clean: ## Remove .venv and caches; data in .aura stays (see `make down`)
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
