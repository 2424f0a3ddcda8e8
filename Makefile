# Everything that is run by hand or by CI. `make` alone lists it.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV := .venv
PYTHON := $(VENV)/bin/python
ENVIRONMENT := $(VENV)/.installed
NODE_MODULES := tests/node_modules/.installed
# Tests and demo start many processes: each reads what the first one compiled.
unexport PYTHONDONTWRITEBYTECODE
SOURCES := idhub providers scim audit
# Tests wait a good part of their time for processes that they started: one more worker than cores keeps these busy.
WORKERS := $(shell echo $$(($$(nproc 2>/dev/null || echo 2) + 1)))
# Databases of tests live in memory where the machine offers it.
TEMPORARY := $(if $(wildcard /dev/shm/.),PYTEST_DEBUG_TEMPROOT=/dev/shm)

##@ Use

.PHONY: demo
demo: $(ENVIRONMENT) ## Tell the story from hire to receipt, then stay for a look (CI=1: end by itself)
	@$(PYTHON) -m idhub.demo $(if $(CI),--ci)

.PHONY: install
install: $(ENVIRONMENT) ## Build .venv from requirements.lock, hashes checked

.PHONY: argon2
argon2: $(VENV)/.argon2 ## Build argon2id for this machine's processor (needs a C compiler): passwords cost two thirds

##@ Work

.PHONY: check
check: lint types ## Linters, formatting, import contracts and types

.PHONY: lint
lint: $(ENVIRONMENT)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports

.PHONY: types
types: $(ENVIRONMENT)
	$(VENV)/bin/mypy

# What comes before the tests keeps one core busy at a time: two of it run side by side.
.PHONY: test
test: ## Everything: check, then every test with real components
	@$(MAKE) --jobs=2 system-packages $(NODE_MODULES) check
	$(TEMPORARY) $(PYTHON) -m pytest --numprocesses=$(WORKERS) --dist=worksteal --durations=25 --durations-min=2

.PHONY: format
format: $(ENVIRONMENT) ## Let ruff sort imports and lay out the code
	$(VENV)/bin/ruff check --fix --exit-zero .
	$(VENV)/bin/ruff format .

.PHONY: image-steps
image-steps: ## Run the steps of the Dockerfile in a scratch folder, without an engine
	.ci/image-steps

.PHONY: clean
clean: ## Remove what make has built
	rm -rf $(VENV) tests/node_modules tests/certify/receiver/target dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

##@ Long runs

.PHONY: soak-provisioning
soak-provisioning: $(ENVIRONMENT) ## Random faults of applications, 1,200 sequences: nobody twice, nobody left on
	$(TEMPORARY) SOAK=1 $(PYTHON) -m pytest tests/provisioning/test_faults.py --timeout=0

.PHONY: soak
soak: $(ENVIRONMENT) system-packages soak-races ## Kill the hub at every fault point of four flows on both databases (about half an hour)
	$(TEMPORARY) SOAK=1 $(PYTHON) -m pytest tests/flows/test_faults_killed.py --numprocesses=2

.PHONY: soak-races
soak-races: $(ENVIRONMENT) system-packages ## 1,000 people leave under 200 clients, on both databases; figures to build/soak.json
	$(PYTHON) -m tests.benchmarks.soak

.PHONY: bench
bench: $(ENVIRONMENT) system-packages $(NODE_MODULES) ## Speed beside oidc-provider and django-oauth-toolkit (BENCH=quick or names of lines)
	@$(MAKE) argon2 || echo "No argon2id for this machine's processor: sign-ins are measured with what runs on every one." >&2
	@$(PYTHON) -m tests.benchmarks.bench $(BENCH)

.PHONY: scale
scale: $(ENVIRONMENT) ## Import a million people on SQLite while others sign in; figures to build/scale.json (PEOPLE=, DATABASE=)
	$(PYTHON) -m tests.benchmarks.import_people --people $(or $(PEOPLE),1000000) --database $(or $(DATABASE),sqlite) --json build/scale.json

.PHONY: scim-proof
scim-proof: $(ENVIRONMENT) system-packages ## Random SCIM filters and PATCH sequences, a hundred times as many as make test draws
	$(TEMPORARY) SCIM_PROOF_TIMES=100 $(PYTHON) -m pytest tests/api/test_scim_filters_proof.py tests/api/test_scim_patch_proof.py --timeout=0

.PHONY: saml-proof
saml-proof: $(ENVIRONMENT) ## Random changes of identity providers' answers, a hundred times as many as make test draws
	$(TEMPORARY) UPSTREAM_PROOF_TIMES=100 $(PYTHON) -m pytest tests/providers/test_saml.py --timeout=0

.PHONY: receiver-proof
receiver-proof: $(ENVIRONMENT) ## Grade an event receiver that others wrote (needs cargo 1.94 or later)
	$(TEMPORARY) RECEIVER_PROOF=1 $(PYTHON) -m pytest tests/certify/test_event_receiver.py

.PHONY: ghosts
ghosts: $(ENVIRONMENT) ## Find planted ghosts among 120,000 people in 20 applications (PEOPLE=, DATABASE=)
	$(PYTHON) -m tests.benchmarks.ghosts --people $(or $(PEOPLE),120000) --database $(or $(DATABASE),sqlite)

FUZZ_SECONDS ?= 600
.PHONY: fuzz
fuzz: $(ENVIRONMENT) system-packages ## Fuzz API, OAuth endpoints and pages for FUZZ_SECONDS (600) each
	$(TEMPORARY) FUZZ_SECONDS=$(FUZZ_SECONDS) $(PYTHON) -m pytest tests/security/test_fuzz.py tests/security/test_redirects.py -s --timeout=0

##@ Set-up

.PHONY: system-packages
system-packages: ## Install the Debian packages that tests need (root or sudo -n)
	@.ci/system-packages

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The lock is installed as a whole, then the project itself without asking anyone for anything.
$(ENVIRONMENT): requirements.lock pyproject.toml .ci/environment
	@.ci/environment $(VENV)
	@touch $@

$(VENV)/.argon2: $(ENVIRONMENT)
	@.ci/environment $(VENV) native
	@touch $@

$(NODE_MODULES): tests/package.json tests/package-lock.json | system-packages
	cd tests && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@
