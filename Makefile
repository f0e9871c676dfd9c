# What a contributor can do. `make` alone lists it.
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3; do \
	$$name -c '$(IS_NEW_ENOUGH)' 2>/dev/null && command -v $$name && break; done)
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
DEPLOY_TOOLS := $(BIN)/python -m tests.support.deploy_tools # helm, kubectl and what they need
IMAGE ?= upright:latest
TRAINING_IMAGE ?= upright-training:latest
SOURCE ?= unknown
# Docker's format has the health check; an OCI image has not, and is equal to the digest.
FORMAT ?= docker
BUILD_FLAGS ?=
CODE := models training service client examples deploy tests benchmarks

# `make serve PORT=8123`, `make train SEED=1`: what is set is passed on.
# Only what stands on the command line: a HOST in the environment is somebody else's.
given = $(if $(filter command,$(firstword $(origin $(1)))),$(2) "$($(1))")
SERVE_FLAGS = $(call given,HOST,--host) $(call given,PORT,--port) \
	$(call given,BUNDLE,--bundle) $(call given,BACKEND,--backend)
TRAIN_FLAGS = $(if $(RESUME), --resume)$(if $(RESTART), --restart)
RECIPE := robust
SEED := 0
OUT := my-policy
BODIES := 1000000
CONNECTIONS := 20000
FUZZ_SEED := 1
ROUNDS := 4
SIGNED = $(if $(BUNDLE),$(BUNDLE),models/cartpole-dqn)
# What is for people is not signed, so that a bundle can be served without it, as from a ConfigMap.
extra_files = $(shell $(BIN)/python -c "import json, sys; \
	[print('--ignore-paths', f'\"{sys.argv[1]}/{name}\"') \
	for name in json.load(open(sys.argv[1] + '/manifest.json'))['extra_files']]" "$(1)")

# The page's tests by themselves: a browser, a service and the other tests on two cores would leave
# the page nothing to control a pole by.
TESTS = $(BIN)/pytest -n 2 -m "not browser" && $(BIN)/pytest -m browser

.DEFAULT_GOAL := help
.PHONY: help setup serve test fuzz train check format bench bench-training bench-sweep bench-cuda chaos \
	proto openapi pictures settings links docs-check sign image image-training image-proof locks sbom public release

help: ## list what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 24

setup: .venv/.contributor ## make .venv with everything a contributor needs

serve: .venv/.service ## serve the committed bundle (HOST, PORT, BUNDLE, BACKEND)
	@exec $(BIN)/python -m service $(SERVE_FLAGS) # which gets the signals that make gets

test: setup ## run the tests
	$(TESTS)

train: setup ## train a policy and write it as a bundle (RECIPE, SEED, OUT, RESUME=1, RESTART=1)
	$(BIN)/python -m training train $(RECIPE) --seed $(SEED) --out "$(OUT)"$(TRAIN_FLAGS)

check: setup ## what CI runs: format, lint, types, imports, Dockerfile, tests
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/hadolint Dockerfile
	$(TESTS)

fuzz: setup ## mutated requests at the service, answers at the client (BODIES, CONNECTIONS, FUZZ_SEED)
	$(BIN)/python -m tests.fuzz --bodies $(BODIES) --connections $(CONNECTIONS) --seed $(FUZZ_SEED)
	$(BIN)/python -m tests.client.fuzz --answers $(BODIES) --seed $(FUZZ_SEED)

format: setup ## format the code and mend what the linter can
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

bench: setup ## measure against peers, quickly
	$(BIN)/python -m benchmarks.training.baseline
	$(BIN)/python -m benchmarks.serving --quick

bench-training: setup ## measure training against peers over many seeds (an hour)
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.training.kill
	$(BIN)/python -m benchmarks.training.plants
	$(BIN)/python -m benchmarks.training.imports

chaos: setup ## faults while callers call, as root, for ten minutes (ROUNDS)
	$(BIN)/python -m benchmarks.operations.chaos --rounds $(ROUNDS)

bench-sweep: setup ## measure sweeps by Ray: speed, kills, two nodes, 10,000 trials (a quarter of an hour)
	$(BIN)/python -m benchmarks.training.sweep

bench-cuda: setup ## measure the population on a GPU
	$(BIN)/python -m benchmarks.training.cuda

proto: setup ## make the gRPC messages from service/grpc/inference.proto
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. service/grpc/inference.proto

openapi: setup ## write docs/openapi.json from the application
	$(BIN)/python -m tests.support.openapi

pictures: setup ## make the README's animations of the page (needs chromium)
	$(BIN)/python -m tests.support.pictures

settings: setup ## write the settings into docs/configuration.md and into the chart's schema
	$(BIN)/python -m tests.support.settings_page
	$(BIN)/python -m tests.support.chart_schema

links: setup ## link each word of the glossary where a page first uses it
	$(BIN)/python -m tests.support.links

docs-check: setup ## run every command of the pages, each page in a copy of the checkout
	$(BIN)/python -m tests.page_commands

public: setup ## write the names that others build on into docs/public.json
	$(BIN)/python -m tests.support.public

release: .venv/.release ## check, build and sign a release into dist/ (VERSION, SOURCE, KEY)
	@test -n "$(VERSION)" || { echo "make release VERSION=0.1.0 names the version" >&2; exit 2; }
	$(BIN)/python -m tests.support.release "$(VERSION)" --source "$(SOURCE)" \
		$(if $(KEY),--key "$(KEY)") $(if $(BUILD_FLAGS),--build-flags="$(BUILD_FLAGS)")

sign: setup ## sign a bundle by a private key in PEM (KEY, BUNDLE); --verify-key admits it
	@test -n "$(KEY)" || { echo "KEY names the private key: make sign KEY=key.pem" >&2; exit 2; }
	$(BIN)/model_signing sign key "$(SIGNED)" --private_key "$(KEY)" \
		--signature "$(SIGNED)/model.sig" $(call extra_files,$(SIGNED))

# Two builds of one commit are equal: every file in them has the time of the commit.
EPOCH = $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
REVISION = $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
VERSION_HERE = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
# Not as LABEL in the Dockerfile: buildah takes such a layer from its cache, with an old value.
LABEL = org.opencontainers.image
LABELS = --label $(LABEL).version=$(VERSION_HERE) --label $(LABEL).revision=$(REVISION) \
	--label $(LABEL).source="$(SOURCE)"
HAS_DOCKER = $(shell docker info >/dev/null 2>&1 && echo yes)
BUILD = $(if $(HAS_DOCKER),SOURCE_DATE_EPOCH=$(EPOCH) docker build,\
	buildah build --format $(FORMAT) --layers --timestamp $(EPOCH)) $(LABELS) $(BUILD_FLAGS)

image: ## build the service's container image with docker or buildah (IMAGE, SOURCE, BUILD_FLAGS)
	$(BUILD) --tag $(IMAGE) .

image-training: ## build the image that trains, with CUDA where there are wheels for it
	$(BUILD) --target training --tag $(TRAINING_IMAGE) .

AGAIN = $(MAKE) image EPOCH=$(EPOCH) REVISION=$(REVISION) BUILD_FLAGS="$(BUILD_FLAGS) --no-cache"
image-proof: setup ## build the image four times, compare, and run it in every way (root, runc)
	$(AGAIN) FORMAT=oci IMAGE=$(IMAGE)-one
	$(AGAIN) FORMAT=oci IMAGE=$(IMAGE)-two
	$(AGAIN) IMAGE=$(IMAGE)
	$(MAKE) image IMAGE=$(IMAGE)-cached REVISION=another BUILD_FLAGS="$(BUILD_FLAGS)"
	$(BIN)/python -m benchmarks.operations.image $(IMAGE) --builds $(IMAGE)-one $(IMAGE)-two \
		--another-revision $(IMAGE)-cached

locks: .venv/.release ## write the locks of the images from constraints.txt
	deploy/image/lock $(BIN)/uv

sbom: .venv/.release ## write what the images hold as CycloneDX into dist/
	mkdir -p dist
	for name in service training; do $(BIN)/cyclonedx-py requirements --output-reproducible \
		--pyproject pyproject.toml --of JSON --output-file dist/upright-$$name.cdx.json \
		deploy/image/$$name.txt; done

# An environment that an older Python has begun is made anew.
define environment
	@test -n "$(PYTHON)" && "$(PYTHON)" -c '$(IS_NEW_ENOUGH)' || { echo "Python 3.11 or newer is needed, \
	and none was found; make PYTHON=/path/to/python3.11 names one" >&2; exit 2; }
	@$(BIN)/python -c '$(IS_NEW_ENOUGH)' 2>/dev/null || "$(PYTHON)" -m venv --clear .venv
endef

# Both stamps live in the one environment; the service's needs no torch.
.venv/.service: pyproject.toml constraints.txt
	$(environment)
	$(INSTALL) .
	touch $@

.venv/.contributor: pyproject.toml constraints.txt client/pyproject.toml \
		tests/deploy/requirements.txt tests/deploy/package.json
	$(environment)
	$(INSTALL) '.[train,dev]' --editable ./client
	$(DEPLOY_TOOLS)
	touch .venv/.service $@

.venv/.release: .venv/.contributor
	$(INSTALL) '.[release]'
	touch $@
