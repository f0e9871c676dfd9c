# What a contributor can do. `make` alone lists it.
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3; do \
	$$name -c '$(IS_NEW_ENOUGH)' 2>/dev/null && command -v $$name && break; done)
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
IMAGE ?= upright:latest
CODE := models training service client examples tests benchmarks

# `make serve PORT=8123`, `make train SEED=1`: what is set is passed on.
# Only what stands on the command line: a HOST in the environment is somebody else's.
given = $(if $(filter command,$(firstword $(origin $(1)))),$(2) "$($(1))")
SERVE_FLAGS = $(call given,HOST,--host) $(call given,PORT,--port) \
	$(call given,BUNDLE,--bundle) $(call given,BACKEND,--backend)
RECIPE := robust
SEED := 0
OUT := my-policy
BODIES := 1000000
CONNECTIONS := 20000
FUZZ_SEED := 1

# The page's tests by themselves: a browser, a service and the other tests on two cores would leave
# the page nothing to control a pole by.
TESTS = $(BIN)/pytest -n 2 -m "not browser" && $(BIN)/pytest -m browser

.DEFAULT_GOAL := help
.PHONY: help setup serve test fuzz train check format bench bench-training bench-cuda \
	proto openapi pictures settings image

help: ## list what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 24

setup: .venv/.contributor ## make .venv with everything a contributor needs

serve: .venv/.service ## serve the committed bundle (HOST, PORT, BUNDLE, BACKEND)
	@trap : INT; $(BIN)/python -m service $(SERVE_FLAGS) # so make adds no error line to a Ctrl-C

test: setup ## run the tests
	$(TESTS)

train: setup ## train a policy and write it as a bundle (RECIPE, SEED, OUT, RESUME=1, RESTART=1)
	$(BIN)/python -m training train $(RECIPE) --seed $(SEED) --out "$(OUT)" \
		$(if $(RESUME),--resume) $(if $(RESTART),--restart)

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

bench-cuda: setup ## measure the population on a GPU
	$(BIN)/python -m benchmarks.training.cuda

proto: setup ## make the gRPC messages from service/grpc/inference.proto
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. service/grpc/inference.proto

openapi: setup ## write docs/openapi.json from the application
	$(BIN)/python -m tests.support.openapi

pictures: setup ## make the README's animations of the page (needs chromium)
	$(BIN)/python -m tests.support.pictures

settings: setup ## write the tables of settings in docs/operations.md
	$(BIN)/python -m tests.support.settings_page

image: ## build the service's container image with docker or buildah (IMAGE)
	$(if $(shell docker info >/dev/null 2>&1 && echo yes),docker build,buildah bud --format docker) --tag $(IMAGE) .

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

.venv/.contributor: pyproject.toml constraints.txt client/pyproject.toml
	$(environment)
	$(INSTALL) '.[train,dev]' --editable ./client
	touch .venv/.service $@
