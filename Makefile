# Kelpie's workshop. `make` prints what there is.
# Every tool is built once from the versions pinned in tools/*/go.mod into
# .cache/tools; nothing is installed outside this folder.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --warn-undefined-variables --no-builtin-rules --no-print-directory

GO ?= go
FUZZTIME ?= 60s
POLICY ?= examples/revops
BREAK ?= no
LIMITS ?=

# The Go version is in the path: golangci-lint must be built by the Go that it reads.
TOOLS := $(CURDIR)/.cache/tools/$(shell $(GO) env GOVERSION)
BUF := $(TOOLS)/buf/buf
PROTOC := $(TOOLS)/protoc/protoc-gen-go
LINT := $(TOOLS)/lint/golangci-lint
VULN := $(TOOLS)/vuln/govulncheck
GRPCURL := $(TOOLS)/grpcurl/grpcurl
RATELIMIT := $(TOOLS)/ratelimit/service_cmd
# Programs in modules of their own: formatters walk files and find them, ./... ends where a module does.
PROGRAMS := $(patsubst %/main.go,%,$(wildcard tools/*/main.go))
LINT_PROGRAM := $(LINT) run --config $(CURDIR)/.golangci.yml
WITH_BUF := PATH="$(TOOLS)/buf:$(TOOLS)/protoc:$$PATH"

##@ Use

.PHONY: help
help: ## print this
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } /^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

.PHONY: build
build: ## build bin/kelpie
	@$(GO) build -trimpath -o bin/kelpie ./cmd/kelpie

.PHONY: run
run: build ## build and serve the example policy on 127.0.0.1 (POLICY=DIR for another)
	@echo "ask it from another terminal:" >&2
	@echo "  bin/kelpie check --server 127.0.0.1:7070 --agent lead-router --action read --resource salesforce/leads/42 --ip 10.8.0.5" >&2
	@exec bin/kelpie serve --policy $(POLICY)

.PHONY: run-envoy
run-envoy: build ## build and run examples/envoy: Kelpie behind Envoy, and curl commands to try
	@scripts/envoy.sh --install >/dev/null
	@$(GO) build -trimpath -o bin/upstream ./examples/envoy/upstream
	@exec scripts/run-envoy.sh

##@ Test

.PHONY: deps
deps: ## install what the tests need on a bare machine that has Go
	@scripts/deps.sh

.PHONY: test
test: deps ## vet and all tests with the race detector, proofs at reduced counts
	@scripts/test.sh quick

.PHONY: proofs
proofs: deps ## the same with the proofs at their stated counts (long)
	@scripts/test.sh full

.PHONY: fuzz
fuzz: ## every fuzz target in turn, FUZZTIME=60s each (FUZZ=REGEXP picks some)
	@FUZZTIME=$(FUZZTIME) scripts/fuzz.sh

.PHONY: mutants
mutants: ## switch off each check of a decision in turn; some test must go red
	@$(GO) run ./internal/mutants

.PHONY: bench
bench: deps ## measure both sides of every budget and print the ratios
	@$(GO) run ./internal/bench

.PHONY: bench-check
bench-check: deps ## the same; fails below 0.9 of a budget
	@$(GO) run ./internal/bench -check

.PHONY: bench-limits
bench-limits: deps build $(RATELIMIT) ## measure the Redis limiter beside its competitors (LIMITS=FLAGS: see tools/limitbench)
	@$(GO) run -C tools/limitbench . -kelpie $(CURDIR)/bin/kelpie -ratelimit $(RATELIMIT) $(LIMITS)

##@ Change

.PHONY: fmt
fmt: $(LINT) $(BUF) third_party/protovalidate ## format Go and proto files
	@$(LINT) fmt
	@$(BUF) format proto --write

.PHONY: lint
lint: fmt-check $(LINT) $(BUF) third_party/protovalidate ## all linters over Go and proto files
	@$(LINT) config verify
	@$(LINT) run ./...
	@for dir in $(PROGRAMS); do (cd $$dir && $(LINT_PROGRAM) ./...); done
	@$(BUF) lint

.PHONY: lint-fix
lint-fix: fmt $(LINT) ## let the linters repair what they can, and name the rest
	@$(LINT) run --fix ./...
	@for dir in $(PROGRAMS); do (cd $$dir && $(LINT_PROGRAM) --fix ./...); done

.PHONY: generate
generate: $(BUF) $(PROTOC) ## gen/ from proto/ (gen/schema/schema.go is kept by hand)
	@$(WITH_BUF) scripts/generate.sh

.PHONY: baseline
baseline: $(BUF) third_party/protovalidate ## promise what proto/ says now (BREAK=yes: break an older promise)
	@$(WITH_BUF) BREAK=$(BREAK) scripts/breaking.sh --update

.PHONY: clean
clean: ## remove what was built; the tools and caches too
	@rm -rf bin .cache third_party

##@ Check

.PHONY: fmt-check
fmt-check: $(LINT) $(BUF) third_party/protovalidate ## fails if `make fmt` would change something
	@$(LINT) fmt --diff
	@$(BUF) format proto --diff --exit-code

.PHONY: generate-check
generate-check: $(BUF) $(PROTOC) ## fails if `make generate` would change something
	@$(WITH_BUF) scripts/generate.sh --check

.PHONY: breaking
breaking: $(BUF) third_party/protovalidate ## fails if proto/ breaks what proto/baseline.binpb promised
	@$(WITH_BUF) scripts/breaking.sh

.PHONY: vuln
vuln: $(VULN) ## known vulnerabilities; needs its database, so not part of ci
	@$(VULN) ./...

.PHONY: ci
ci: ## everything that a change must pass, the quick checks first
	@for step in compile fmt-check generate-check breaking lint build test; do \
		SECONDS=0; \
		$(MAKE) $$step || { printf 'ci: %s failed after %ss\n' $$step $$SECONDS >&2; exit 1; }; \
		if [[ $$step != test ]]; then printf 'ci: %s passed in %ss\n' $$step $$SECONDS; fi; \
	done

# Not for people: what does not compile should not wait for the tools to be built.
.PHONY: compile
compile:
	@$(GO) build ./...

##@ Tools

.PHONY: grpcurl
grpcurl: $(GRPCURL) ## build the pinned grpcurl and print where it is
	@echo $(GRPCURL)

third_party/protovalidate: scripts/generate.sh
	@scripts/generate.sh --validate
	@touch $@

# One build gives every tool of a module; the named one stands for all of them.
define tool_module
$(1): tools/$(2)/go.mod tools/$(2)/go.sum
	@echo "building the tools of tools/$(2) (once)" >&2
	@CGO_ENABLED=0 $(GO) build -modfile=tools/$(2)/go.mod -o $(dir $(1)) tool
	@touch $(1)
endef
$(eval $(call tool_module,$(BUF),buf))
$(eval $(call tool_module,$(PROTOC),protoc))
$(eval $(call tool_module,$(LINT),lint))
$(eval $(call tool_module,$(VULN),vuln))
$(eval $(call tool_module,$(GRPCURL),grpcurl))
$(eval $(call tool_module,$(RATELIMIT),ratelimit))
