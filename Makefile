# Every target sets up what it needs, from a fresh clone on.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo lint test-fast test bench bench-overlay sim mutants lock clean

bin := .venv/bin

help:                   ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | while IFS='|' read -r target text; do printf '  make %-13s %s\n' "$$target" "$$text"; done

setup: .venv/.ready     ## make .venv with the locked tools and this project in it
	@echo "Ready: $(bin)/pond"

demo: .venv/.ready      ## launch a ring, write to it, break it, see that nothing is lost
	$(bin)/pond cluster demo

lint: .venv/.ready      ## ruff, mypy, who imports whom
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/mypy
	$(bin)/lint-imports --no-logo

test-fast: lint         ## lint, and the tests that start no process and take no long
	$(bin)/pytest -n 2 -m "not process and not slow"

test: lint              ## lint, and every test
	$(bin)/pytest -n 2 -m "not process"
	$(bin)/pytest -m process        # one at a time: clusters side by side would only wait for each other's processors

bench: .venv/.ready     ## how long a write takes, beside the floor of disk and network
	$(bin)/pond bench write-latency

bench-overlay: .venv/.ready     ## overlays under churn beside targets, Bamboo and Chord; it goes on where it was stopped
	$(bin)/pond bench overlay

sim: .venv/.ready       ## ten thousand simulated rings; a seed that fails can be replayed
	$(bin)/pond sim ring --seeds 1..10000 --jobs 2

mutants: .venv/.ready   ## plant bugs one at a time, and show which test or seed finds each
	$(bin)/python -m tests.mutants

lock: .venv/.ready      ## pin the newest versions that pyproject.toml allows
	$(bin)/uv pip compile --quiet --system-certs --upgrade --universal --python-version 3.11 --generate-hashes \
		--no-header --no-emit-index-url --extra dev --output-file requirements.lock pyproject.toml

clean:                  ## remove all that was made here, .venv too
	rm -rf .venv build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are written last, so a set-up that was interrupted is done again, and --clear leaves nothing of it behind.
.venv/.locked: requirements.lock
	@found=; unfit=; \
	for python in python3 python3.13 python3.12 python3.11; do \
		command -v $$python >/dev/null || continue; \
		version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])') || continue; \
		if ! $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then unfit="$$unfit $$python is $$version, too old;"; \
		elif ! $$python -c 'import venv, ensurepip' 2>/dev/null; then unfit="$$unfit $$python has no venv module (Debian: python$$version-venv);"; \
		else found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "Pond needs Python 3.11 or newer with its venv module; here$${unfit:- there is no python3;} nothing was set up." >&2; \
		echo "On Debian 12, Ubuntu 24.04 or newer:  apt-get install python3 python3-venv" >&2; \
		exit 1; \
	fi; \
	echo "Setting up .venv with $$found ($$version) ..."; \
	rm -f .venv/.ready && $$found -m venv --clear .venv
	@$(bin)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.lock
	@touch $@

# Entry points and the version are copied at installation, so this follows pyproject.toml; code is imported from here.
.venv/.ready: .venv/.locked pyproject.toml
	@$(bin)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
