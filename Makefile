# Two commands on a fresh machine with Python 3.11: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3.11
BIN := .venv/bin
# Where a CPU build of torch comes from. Empty it where pip finds one by its own settings.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# Files go to the workers in the order that tests/conftest.py gives them, and not by their number of tests.
IN_TWO := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: setup demo test test-cluster test-benchmarks coverage check lock clean

setup: .venv/.ready

.venv/.ready: requirements/cpu.txt requirements/packaged.txt pyproject.toml
	@echo "Setting up .venv (some 3 minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@requirements/install.sh $(BIN)/python "$(TORCH_INDEX)"
	@touch $@

# With other settings: make demo ARGS="run.name=lipo rounds.each.1.training.loss=lipo_lambda"
demo: setup
	@$(BIN)/semtag run configs/demo.yaml $(ARGS)

test: setup check
	@requirements/chromium.sh
	@$(BIN)/python -m pytest -m "not cluster and not benchmark" $(IN_TWO) --durations=8

# Clusters of several nodes, jobs sent to them, object stores that see outages, and kills of all kinds.
test-cluster: setup
	@$(BIN)/python -m pytest -m cluster $(IN_TWO) --durations=8

# Every script of benchmarks/ at its smallest size.
test-benchmarks: setup
	@$(BIN)/python -m pytest -m benchmark $(IN_TWO) --durations=8

# The same tests, watched in every process that they start: half as long again.
coverage: setup
	@requirements/chromium.sh
	@$(BIN)/python -m pytest -m "not cluster and not benchmark" --cov --cov-report=term --cov-fail-under=85

check: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

lock:
	@$(BIN)/python -m pip install --quiet --dry-run --ignore-installed --report - ".[cpu,dev]" \
		| $(BIN)/python requirements/lock.py > requirements/cpu.txt.new
	@mv requirements/cpu.txt.new requirements/cpu.txt

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
