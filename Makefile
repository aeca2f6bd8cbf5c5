# `make demo` and `make test` set up all that they need. `make help` lists the rest.
SHELL := /bin/sh
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
# Scenarios stand in molecule/ at the root, as the project's users expect them.
export MOLECULE_GLOB := molecule/*/molecule.yml
unexport ANSIBLE_INVENTORY ANSIBLE_COLLECTIONS_PATH ANSIBLE_ROLES_PATH

.PHONY: help setup setup-hosts demo clean-demo test test-quick lint unit contract molecule bench bench-modules bench-gateway bench-distribution bench-checkpoint bench-fleet bench-scale faults images execution-environment sbom docs site changelog build clean bench-gang

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-21s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## make the controller's virtual environment (.venv)
	@tools/setup

setup-hosts:
	@tools/setup --for-hosts

demo: setup-hosts ## bring up a test host, run site.yml against it, and chat with it
	@.venv/bin/python tools/demo.py up

clean-demo: ## remove what the demo made
	@if [ -x .venv/bin/python ]; then .venv/bin/python tools/demo.py down; else echo "demo: nothing to remove"; fi

test: setup-hosts ## lint, unit and contract tests, molecule; exit 0 only if all passed
	@.venv/bin/python tools/test.py

test-quick: setup ## under five minutes, for daily work: linters and unit tests, without the slow ones of both
	@.venv/bin/python tools/test.py quick

lint: setup ## ruff, mypy, yamllint, ansible-lint, ansible-test sanity, the site, Galaxy's importer
	@.venv/bin/python tools/test.py lint

unit: setup ## unit tests
	@.venv/bin/python tools/test.py unit

contract: setup ## contract tests against upstream's recorded artefacts
	@.venv/bin/python tools/test.py contract

molecule: setup-hosts ## molecule scenarios on real systemd hosts (SCENARIO=name for one)
	@.venv/bin/python tools/test.py molecule $(SCENARIO)

images: setup-hosts ## build the images triton_cpu and openai_gateway
	@.venv/bin/python tools/demo.py images

execution-environment: setup-hosts ## build the controller's execution environment, and run what it is for in it
	@.venv/bin/python tools/execution_environment.py

sbom: images ## what is in these images, and what they were made from (CycloneDX, in-toto)
	@.venv/bin/python tools/sbom.py

bench: setup-hosts ## time the demo's stages, cold and warm, and count remote module calls
	@.venv/bin/python tools/bench.py

bench-modules: setup-hosts ## fingerprints against stat and sha256sum; the demo's service against bare tritonserver
	@.venv/bin/python tests/bench/bench_fingerprint.py
	@.venv/bin/python tests/bench/bench_serving.py demo

bench-gateway: setup ## the gateway against a pass-through, the bare backend and LiteLLM
	@.venv/bin/python tests/bench/bench_gateway.py

bench-distribution: setup ## an engine from host to host against rsync and scp; four hosts against one
	@.venv/bin/python tests/bench/bench_distribution.py

bench-checkpoint: setup-hosts ## a checkpoint from the controller to one host and to four, against copy, scp and rsync
	@.venv/bin/python tests/bench/bench_checkpoint.py

bench-fleet: setup-hosts ## a change rolled through test hosts: seconds, answers a second meanwhile, bytes that the builder sent
	@.venv/bin/python tests/bench/bench_fleet.py

bench-gang: setup-hosts ## a replica on two hosts against the same ranks on one: start, stop, repair by blow (ARGUMENTS='--rounds 1')
	@.venv/bin/python tests/bench/bench_gang.py $(ARGUMENTS)

bench-scale: setup-hosts ## what a run without changes costs the controller, for real hosts and for replayed ones
	@.venv/bin/python tests/bench/bench_scale.py

faults: setup-hosts ## break test hosts in every stage, one fault after the other, and write docs/faults.md (ARGUMENTS='--only engine')
	@.venv/bin/python tests/faults/run.py $(ARGUMENTS)

conformance: setup ## the conformance suite for the demo's gateway, and for LiteLLM before the same Triton (make demo first)
	@.venv/bin/python tools/conformance.py peers

docs: setup ## write what comes from one source: references, documentation of options, platforms
	@.venv/bin/python tools/docs.py

site: setup ## make the documentation site: site/index.html
	@.venv/bin/python tools/website.py

changelog: setup ## write CHANGELOG.md from changelogs/fragments
	@.venv/bin/python tools/changelog.py

build: setup ## build the collection's archive
	@ansible-galaxy collection build --force

clean: ## remove what tests left in the checkout
	@rm -rf .ansible .pytest_cache .mypy_cache .ruff_cache .hypothesis tests/output site .cache/site trtllm-fleet-*.tar.gz
