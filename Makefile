# Everything runs in a virtual environment of this checkout's own. `make demo` and `make test` need nothing else first.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIN := -c .ci/constraints.txt
# By their checksums, all but torch, whose builds differ by machine: it comes after them, by its version.
LOCKED := --no-deps --require-hashes -r .ci/locked.txt
# What must be covered to the last branch.
WHOLE := */engine/block.py,*/engine/block_pool.py,*/engine/prefix_cache.py,*/engine/restoring.py,*/server/protocol.py

# Compiled once, so that no first start and no test has to wait for it.
KERNELS := from torch import bfloat16, device, float32; \
	from chatpager.kernels import cpu_linear, cpu_program, cpu_rows, paged_attention; \
	[paged_attention.prepare(dtype, device("cpu"), dim) for dtype in (float32, bfloat16) for dim in (16, 64)]; \
	[cpu_rows.kernel(dtype) for dtype in (float32, bfloat16)]; \
	[cpu_linear.kernels(*kind) for kind in cpu_linear.SERVED]; cpu_program.executor()

# What is begun now; `make demo` counts.
phase = $(2)

.PHONY: demo test test-reliability test-cluster lint types audit unit bench docs pictures page page-check clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   set everything up and start the server with its built-in model"
	@echo "make test   set everything up, then lint, types, tests and coverage"
	@echo "make test-reliability   the same faults and threats for longer: an hour, or days with FUZZ_RUNS=10000000"
	@echo "make test-cluster   engines as Ray actors, on this machine"
	@echo "make bench  measure this machine (see chatpager bench --help)"

demo: phase = $(1)/4 $(2)
demo: $(VENV)/.demo page
	@echo "$(call phase,4,starting)"
	@$(VENV)/bin/chatpager demo

test: lint types page-check audit unit

lint: $(VENV)/.dev
	@$(PY) -m ruff check . && $(PY) -m ruff format --check .

types: $(VENV)/.dev
	@$(PY) -m mypy

# Says what it could not ask for want of a network, and goes on; fails on a finding.
audit: $(VENV)/.created
	@$(PY) .ci/audit

unit: $(VENV)/.dev page
	@.ci/system-packages postgresql pgbouncer chromium
	@echo "fetching the clients of others that are tried (once)"
	@$(PY) -m tests.e2e.fetching
	@$(PY) -m pytest -n 2 --dist loadfile --max-worker-restart 0 --cov --cov-report=term --cov-fail-under=90
	@$(PY) -m coverage report --include="$(WHOLE)" --fail-under=100

FUZZ_RUNS ?= 100000
LONGER := CHATPAGER_FUZZ_RUNS=$(FUZZ_RUNS) CHATPAGER_IDLE_SOCKETS=10000 CHATPAGER_IDLE_SECONDS=120 \
	CHATPAGER_FLIPS=10000 CHATPAGER_EXAMPLES=10 CHATPAGER_KILL_ROUNDS=100 CHATPAGER_SCALE_OUT_ROUNDS=50 \
	CHATPAGER_CUTS=200 CHATPAGER_SCHEDULES=204 \
	CHATPAGER_MACHINE_EXAMPLES=340 CHATPAGER_INTERLEAVINGS=300
# What takes longest comes first: a file is one worker's, and the last must not have it alone.
FAULTS := tests/fuzz tests/e2e/test_kill_rounds.py tests/e2e/test_scale_out.py tests/e2e/test_resume.py \
	tests/e2e/test_autobahn.py tests/e2e/test_schemathesis.py tests/engine/test_engine_machine.py \
	tests/engine/test_interleavings.py tests/engine/test_tiers_machine.py tests/engine/test_token_exact.py \
	tests/store tests/reliability tests/sessions/test_constraining.py

# What `make test` tries shortly or not at all; the figures that tests print are shown.
test-reliability: $(VENV)/.dev page
	@.ci/system-packages postgresql pgbouncer
	@$(LONGER) $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 -m "slow or not slow" -rP --durations 20 --timeout 0 $(FAULTS)

# What needs Ray: 80 MB more, and minutes of processes, that `make test` does without.
test-cluster: $(VENV)/.dev
	@$(PY) -m pip install -q $(PIN) -c .ci/cluster.txt ray
	@$(PY) -m pytest -m cluster -rP --no-cov tests/sessions/test_engine_host.py tests/cli/test_ray.py \
		tests/e2e/test_shared_actors.py tests/e2e/test_scale_out_ray.py

bench: $(VENV)/.demo
	@$(VENV)/bin/chatpager bench turns

# The pages that are made of the code; a test compares them.
docs: $(VENV)/.demo
	@$(PY) -m chatpager.cli.reference > docs/cli.md

# The pictures in the README, of the page as it is now.
pictures: $(VENV)/.dev page
	@.ci/system-packages chromium
	@$(PY) -m pytest -q --no-cov tests/e2e/test_page_looks.py tests/e2e/test_admin_page.py -k "readme or session-desktop-light"
	@mkdir -p docs/pictures && cp test-output/page/readme-desktop.png docs/pictures/
	@cp test-output/admin/session-desktop-light.png docs/pictures/readme-admin.png

# Both go on, loudly, where there is neither Node.js nor a network: the server also runs without its page.
page: $(VENV)/.created
	@echo "$(call phase,3,the page)"
	@$(PY) web/hatch_build.py --optional

page-check: $(VENV)/.created
	@$(PY) web/hatch_build.py --optional --check

$(VENV)/.created:
	@echo "$(call phase,1,making $(VENV))"
	@.ci/create-venv "$(PYTHON)" "$(VENV)"
	@touch $@

$(VENV)/.demo: $(VENV)/.created pyproject.toml .ci/constraints.txt .ci/locked.txt
	@echo "$(call phase,2,installing what it needs (torch alone is 200 MB: this takes minutes))"
	@$(PY) -m pip install -q $(LOCKED)
	@CHATPAGER_SKIP_WEB_BUILD=1 $(PY) -m pip install -q $(PIN) --no-build-isolation -e .
	@echo "$(call phase,2,compiling the CPU's kernels (a minute or two))"
	@$(PY) -c '$(KERNELS)'
	@touch $@

$(VENV)/.dev: $(VENV)/.created pyproject.toml .ci/constraints.txt .ci/locked.txt .ci/locked-dev.txt
	@echo "installing what it and its tests need (torch alone is 200 MB: this takes minutes)"
	@$(PY) -m pip install -q $(LOCKED) -r .ci/locked-dev.txt
	@CHATPAGER_SKIP_WEB_BUILD=1 $(PY) -m pip install -q $(PIN) --no-build-isolation -e ".[dev]"
	@echo "compiling the CPU's kernels (a minute or two)"
	@$(PY) -c '$(KERNELS)'
	@touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) chatpager/server/static web/node_modules
