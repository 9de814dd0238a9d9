# What is done often. `make help` lists it.
#
# Set-up is done by the scripts in scripts/, each safe to run again and quick when there is nothing to do; what they make
# is kept outside the checkout, in ~/.cache/godwit (or GODWIT_CACHE).

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.NOTPARALLEL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# A Rust that setup-system.sh installed is found at once, without a new login.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin:$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

TARGET := $(or $(CARGO_TARGET_DIR),target)
OUT ?= out/demo
# What `make test` could not check is collected here and said at its end.
export GODWIT_SKIPPED := $(TARGET)/skipped

##@ The two commands
.PHONY: demo test
demo: setup build ## set up everything, build, and show it: two minutes, then a report in out/demo (root)
	@$(TARGET)/release/godwit demo --out $(OUT)

test: start setup tools fmt-check deny clippy doc test-build generated-check unit ## set up everything and pass all checks and tests (root)
	@if [[ -s $$GODWIT_SKIPPED ]]; then
		printf '\n!!! Passed, but not everything was checked:\n'
		sed 's/^/!!!   /' "$$GODWIT_SKIPPED"
	else
		printf '\nEverything passed.\n'
	fi

##@ Set-up (each is part of the two commands)
.PHONY: setup tools
setup: ## install what the system lacks, make the node image
	@echo '== set-up'
	scripts/setup-system.sh
	scripts/setup-node-image.sh
	echo "   set-up took $$SECONDS s"

tools: ## install what only the checks and tests use, and make the image of the conformance tests; in ~/.cache/godwit
	@scripts/setup-system.sh --tests
	scripts/setup-tools.sh
	# Without it `make test` goes on, and says at its end what was skipped.
	scripts/setup-conformance.sh || echo '!!! no image for the conformance tests: they will be skipped'
	echo "   tools took $$SECONDS s"

##@ Parts
.PHONY: start build fmt fmt-check deny clippy doc test-build generate generated-check unit bench
start:
	@mkdir -p $(TARGET)
	rm -f "$$GODWIT_SKIPPED"

build: ## build target/release/godwit
	@echo '== build'
	cargo build --locked --release --package godwit
	echo "   build took $$SECONDS s"

fmt: ## format the source
	@cargo fmt --all

fmt-check:
	@echo '== format'
	cargo fmt --all --check

deny: tools ## licences, bans, sources, advisories of all dependencies
	@echo '== dependencies'
	scripts/deny.sh

clippy: ## lints, warnings denied
	@echo '== clippy'
	cargo clippy --locked --workspace --all-targets -- -D warnings
	echo "   clippy took $$SECONDS s"

doc: ## the crates' documentation; a link that leads nowhere is an error
	@echo '== documentation'
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps
	echo "   documentation took $$SECONDS s"

test-build:
	@echo '== build of the tests'
	cargo build --locked --workspace --all-targets
	echo "   build of the tests took $$SECONDS s"

# With the program of the test build: `cargo build --package godwit` would build it once more, with other features.
generate: test-build ## write the generated files (docs/reference)
	@cargo run --locked --quiet --package xtask -- generate $(TARGET)/debug/godwit

generated-check: test-build
	@echo '== generated files'
	cargo run --locked --quiet --package xtask -- generate $(TARGET)/debug/godwit --check
	echo '   up to date'

unit: ## all tests of the workspace, with their set-up in place
	@echo '== tests'
	mkdir -p $(TARGET)
	# Where nobody watches, a test that hangs is ended: its log says since when it has been running.
	$(if $(CI),timeout --kill-after=60 40m) cargo test --locked --workspace 2>&1 | tee $(TARGET)/tests.log
	# A test that cannot run here says so in a line of its own.
	grep -a '^SKIPPED' $(TARGET)/tests.log >>"$$GODWIT_SKIPPED" || true
	echo "   tests took $$SECONDS s"

# With INTO=docs/performance.md the tables go there too.
BENCH_MEMORY ?= 16MiB,256MiB,1GiB
BENCH_RUNS ?= 10
bench: setup build ## how long a service stands still when it moves, beside plain runc; and the functions' benchmarks (root)
	@$(TARGET)/release/godwit bench migrate --memory $(BENCH_MEMORY) --runs $(BENCH_RUNS) $(if $(INTO),--into $(INTO))
	if compgen -G 'crates/*/benches/*.rs' >/dev/null; then cargo bench --locked --workspace; fi

##@ Tidying up
.PHONY: down clean help
down: ## end testbeds that something left behind
	@for godwit in $(TARGET)/release/godwit $(TARGET)/debug/godwit; do
		[[ -x $$godwit ]] || continue
		for name in demo run testbed bench e2e; do $$godwit testbed down --name $$name; done
		exit 0
	done
	echo 'godwit is not built: make build' >&2
	exit 1

clean: ## remove what was built and written into the checkout; ~/.cache/godwit stays
	@cargo clean --quiet
	rm -rf out

help: ## this list
	@awk -F ':.*## ' '/^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile
