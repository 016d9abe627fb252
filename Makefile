# What scripts, CI and people call. Everything is set up on first use: see tools/setup.py.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV   := .cache/venv/bin/python
export PYTHONPATH := tests
# With one target that knows the packages' dev-dependencies cargo chooses the same features of all crates as for the tests, and
# compiles each crate once for both: the AWS SDK alone is minutes.
BUILD  := cargo build --workspace --bins --example crds

.PHONY: help build release demo test long bench layout world world-down generate setup clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: ## Install what is missing (Debian packages as root, Python packages, Kubernetes binaries, machine images)
	@$(PYTHON) tools/setup.py all

build: ## Dev binaries: target/debug/{koi-operator,koi-gateway}
	$(BUILD)

# Functions that run lie side by side in them: tools/layout/cc.py says why. With its checksum, for cargo links again only what it is told
# otherwise.
LAID_OUT = -C linker=tools/layout/cc.py -C link-arg=--layout=tools/layout/$(1).txt:$$(cksum < tools/layout/$(1).txt | cut -d ' ' -f 1)
OPERATOR := cargo rustc -p koi-operator --profile slim --features jemalloc
GATEWAY  := cargo rustc -p koi-gateway --profile slim

release: ## Release binaries: target/release/{koi-operator,koi-gateway}
	$(OPERATOR) --bin koi-operator -- $(call LAID_OUT,koi-operator)
	$(GATEWAY) --bin koi-gateway -- $(call LAID_OUT,koi-gateway)
	install -D --target-directory=target/release target/slim/koi-operator target/slim/koi-gateway
	@$(PYTHON) tools/check_binary.py target/release/koi-gateway

demo: ## The product's main job on a world of its own, from apply to nothing left; ends with PASS or FAIL
	@$(PYTHON) tools/setup.py rust demo
	$(BUILD)
	@$(VENV) -m demo

# Setting up and compiling want nothing of each other: side by side each uses what the other leaves idle. Through a
# pipe set-up says a line now and then, where it would draw over cargo's progress. The first failure ends both.
test: ## Everything that CI runs, with a summary
	@trap 'kill $$(jobs -p) 2>/dev/null || true' EXIT; $(PYTHON) tools/setup.py all 2> >(cat >&2) & $(BUILD) & wait -n; wait -n
	@$(VENV) tools/run_tests.py

long: ## The long tier: more seeds, every crash index, storms at full length, mutation check
	@$(PYTHON) tools/setup.py all mutation
	@$(VENV) tools/run_tests.py --long

bench: ## Benchmarks: a table, and JSON under target/bench/
	@$(PYTHON) tools/setup.py all
	@$(MAKE) --no-print-directory release
	$(OPERATOR) --example memory -- $(call LAID_OUT,koi-operator)
	$(GATEWAY) --example load
	@$(VENV) -m bench

layout: ## Record anew which functions of the release binaries run (tools/layout/*.txt)
	@$(PYTHON) tools/setup.py all layout
	$(OPERATOR) --bin koi-operator -- -C strip=none
	$(GATEWAY) --bin koi-gateway -- -C strip=none
	$(GATEWAY) --example load
	install -D --target-directory=target/release target/slim/koi-operator target/slim/koi-gateway
	@$(VENV) -m bench.layout

world: ## Start the test world alone and keep it: eval "$$(make -s world)"
	@$(PYTHON) tools/setup.py demo >&2
	@$(VENV) -m world up $(addprefix --artifact ,$(wildcard target/debug/koi-gateway))

world-down: ## End that world
	@$(VENV) -m world down

generate: ## Everything that is generated: CRDs, chart, config schema, tables
	@$(VENV) tools/generate.py

clean: ## Remove what was built and cached
	rm -rf target .cache
