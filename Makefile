# Everything is set up by the target that needs it: on a fresh Debian with python3, git and make,
# `make demo` and `make test` are all there is to type.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test check run setup bench mcpb conformance fuzz clean integration-smg integration-tokenizers integration-sglang

RUN := .venv/bin/
DEMO ?=
TEST ?=
SEED := $(or $(SEED),$(shell od -An -N4 -tu4 /dev/urandom | tr -d ' '))
CHAOS_SEED := $(or $(NIGHTCREW_CHAOS_SEED),$(SEED))

help:
	@echo "make demo    a real model repairs a small repository: set-up, weights and all (DEMO='--case NAME' chooses, --list shows)"
	@echo "make test    the tests (TEST='-k NAME' chooses)"
	@echo "make check   formatting, types, import rules"
	@echo "make run     the service in the foreground"
	@echo "make mcpb    dist/nightcrew.mcpb, the bundle for Claude Desktop"
	@echo "make conformance  the MCP server under the protocol's own suite, the inspector and the bundle's validator (from npm)"
	@echo "make fuzz    10,000 calls of MCP tools that no model should make (SEED=N for those of an earlier run)"
	@echo "make integration-sglang  the launcher, the client and the loop with a real SGLang on the CPU (3.2 GB, about 15 minutes)"
	@echo "make integration-smg  the command that \`nightcrew crew route\` writes, run before fake servers with the real smg"
	@echo "make integration-tokenizers  the chat templates and marked control tokens, read by the models' own tokenizers"
	@echo "make chaos   the service killed 300 times over 40 tasks, 20 power cuts, and 10,000 files into the inbox under kills"
	@echo "             (NIGHTCREW_CHAOS_SEED=N for those of an earlier run; about half an hour)"
	@echo "make boot    the service's units under a real systemd in namespaces of its own (needs root)"
	@echo "make bench   the benchmarks; each prints a table and a JSON line"

demo: setup
	$(RUN)nightcrew demo $(DEMO)

test: setup
	$(RUN)pytest -n auto $(TEST)

check: setup
	$(RUN)ruff format --check .
	$(RUN)ruff check .
	$(RUN)pyright
	$(RUN)lint-imports

run: setup
	$(RUN)nightcrew up

fuzz: setup
	@echo "seed $(SEED)"
	NIGHTCREW_FUZZ_CALLS=10000 $(RUN)pytest tests/tools/test_fuzz.py --hypothesis-seed=$(SEED)

.PHONY: boot
boot: setup
	NIGHTCREW_BOOT=1 $(RUN)pytest -v tests/systemd/test_boot.py

.PHONY: chaos
chaos: setup
	@echo "seed $(CHAOS_SEED)"
	NIGHTCREW_CHAOS_SEED=$(CHAOS_SEED) NIGHTCREW_CHAOS_KILLS=$(or $(NIGHTCREW_CHAOS_KILLS),300) \
	NIGHTCREW_CHAOS_TASKS=$(or $(NIGHTCREW_CHAOS_TASKS),40) $(RUN)pytest -s tests/e2e/test_chaos.py
	NIGHTCREW_CHAOS_SEED=$(CHAOS_SEED) NIGHTCREW_CHAOS_CUTS=$(or $(NIGHTCREW_CHAOS_CUTS),20) \
	NIGHTCREW_CHAOS_TASKS=13 $(RUN)pytest -s tests/e2e/test_power_cut.py
	NIGHTCREW_CHAOS_SEED=$(CHAOS_SEED) \
	NIGHTCREW_CHAOS_KILLS=$(or $(NIGHTCREW_CHAOS_KILLS),25) NIGHTCREW_CHAOS_FILES=$(or $(NIGHTCREW_CHAOS_FILES),10000) \
	$(RUN)pytest -s tests/e2e/test_inbox_fire.py

mcpb: setup
	$(RUN)python scripts/mcpb

conformance: setup
	$(RUN)python scripts/conformance

integration-sglang: setup
	scripts/sglang-cpu
	NIGHTCREW_SGLANG=.sglang nice -n 10 $(RUN)pytest -s tests/integration/test_sglang_arguments.py tests/integration/test_sglang.py $(TEST)

integration-smg integration-tokenizers: integration-%: setup
	scripts/integration $*

bench: setup
	$(RUN)python bench/overhead.py
	$(RUN)python bench/box.py
	$(RUN)python bench/servers.py
	$(RUN)python bench/journal.py

setup: .venv/installed

.venv/installed: pyproject.toml uv.lock scripts/set-up
	scripts/set-up

clean:
	rm -rf .venv .uv .conformance .integration .sglang dist build
