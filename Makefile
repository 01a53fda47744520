# Everything runs in a virtual environment of this checkout's own. `make demo` and `make test` need nothing else first.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIN := -c .ci/constraints.txt
# What must be covered to the last branch.
WHOLE := */engine/block_pool.py,*/engine/prefix_cache.py,*/server/protocol.py

# Compiled once, so that no first start and no test has to wait for it.
KERNELS := from torch import bfloat16, device, float32; \
	from chatpager.kernels import cpu_linear, cpu_program, cpu_rows, paged_attention; \
	[(paged_attention.prepare(dtype, device("cpu")), cpu_rows.kernel(dtype)) for dtype in (float32, bfloat16)]; \
	[cpu_linear.kernels(*kind) for kind in cpu_linear.SERVED]; cpu_program.executor()

.PHONY: demo test lint types unit bench page page-check clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   set everything up and start the server with its built-in model"
	@echo "make test   set everything up, then lint, types, tests and coverage"
	@echo "make bench  measure this machine (see chatpager bench --help)"

demo: $(VENV)/.demo page
	@$(VENV)/bin/chatpager demo

test: lint types page-check unit

lint: $(VENV)/.dev
	@$(PY) -m ruff check . && $(PY) -m ruff format --check .

types: $(VENV)/.dev
	@$(PY) -m mypy

unit: $(VENV)/.dev page
	@.ci/system-packages postgresql chromium
	@$(PY) -m pytest -n 2 --dist loadfile --max-worker-restart 0 --cov --cov-report=term --cov-fail-under=90
	@$(PY) -m coverage report --include="$(WHOLE)" --fail-under=100

bench: $(VENV)/.demo
	@$(VENV)/bin/chatpager bench turns

# Both go on, loudly, where there is neither Node.js nor a network: the server also runs without its page.
page: $(VENV)/.created
	@$(PY) web/hatch_build.py --optional

page-check: $(VENV)/.created
	@$(PY) web/hatch_build.py --optional --check

$(VENV)/.created:
	@.ci/create-venv "$(PYTHON)" "$(VENV)"
	@touch $@

$(VENV)/.demo: $(VENV)/.created pyproject.toml .ci/constraints.txt
	@echo "installing chatpager and what it needs (the first time takes a few minutes)"
	@CHATPAGER_SKIP_WEB_BUILD=1 $(PY) -m pip install -q $(PIN) -e .
	@$(PY) -c '$(KERNELS)'
	@touch $@

$(VENV)/.dev: $(VENV)/.created pyproject.toml .ci/constraints.txt
	@echo "installing chatpager and its tests' tools (the first time takes a few minutes)"
	@CHATPAGER_SKIP_WEB_BUILD=1 $(PY) -m pip install -q $(PIN) -e ".[dev]"
	@$(PY) -c '$(KERNELS)'
	@touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) chatpager/server/static web/node_modules
