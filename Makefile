# Every task of a developer and of CI. `make` alone lists them.

CARGO_DENY_VERSION := 0.20.2
CARGO_FUZZ_VERSION := 0.13.2

# Tools of `make tools` live with the build's other products.
TOOLS := $(CURDIR)/target/tools
export PATH := $(TOOLS)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help run test soak lint fmt fmt-check doc deny bench bench-check fuzz settings-table clean servers prerequisites tools

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: prerequisites ## Run the demo: a broker, a device, the service and a destination in one process
	cargo run --release --locked -p edgehold-app --features demo -- demo

test: servers prerequisites ## Run every test against real servers (installs them on Debian)
	cargo build --locked -p edgehold-app
	cargo build --locked -p edgehold-app --features fail-points --bin edgehold-fail-points
	cargo test --workspace --locked

# What CI has no time for: the ignored tests whose names begin with soak_, one after the other. EDGEHOLD_SOAK_KILLS kills
# instead of 1,000, EDGEHOLD_SOAK_STORMS storms instead of 100; each run prints its seed, EDGEHOLD_TEST_SEED repeats it.
soak: servers prerequisites ## Hours of kills, of edits, and of servers that go away
	cargo build --locked -p edgehold-app
	cargo build --locked -p edgehold-app --features fail-points --bin edgehold-fail-points
	cargo test --locked -p edgehold-tests --test suite -- --ignored --nocapture --test-threads 1 soak_

lint: prerequisites ## Run clippy on everything; a warning is an error
	cargo clippy --workspace --all-targets --all-features --locked -- -D warnings

fmt: ## Format the code
	cargo fmt --all

fmt-check: ## Check the format of the code
	cargo fmt --all --check

doc: prerequisites ## Build the documentation; a warning is an error
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --lib --no-deps --locked

deny: ## Check licences, sources and bans of all dependencies (.deny.toml)
	@command -v cargo-deny >/dev/null || { echo "missing: cargo-deny (run 'make tools')" >&2; exit 1; }
	cargo deny --locked check bans licenses sources

# What is measured is built as the image builds it.
bench: prerequisites ## Measure throughput, latency and memory
	cargo build --profile dist --locked -p edgehold-app
	EDGEHOLD_BINARY="$$(realpath "$${CARGO_TARGET_DIR:-target}")/dist/edgehold" cargo bench --locked -p edgehold-bench

# The measure is the report of a run on a quiet machine: cp target/bench.json crates/bench/baseline.json
bench-check: prerequisites ## Fail when the last `make bench` is clearly worse than crates/bench/baseline.json
	cargo run --release --quiet --locked -p edgehold-bench -- crates/bench/baseline.json \
		"$${CARGO_TARGET_DIR:-target}/bench.json"

settings-table: prerequisites ## Print the table of all settings, for the README
	@cargo run --quiet --locked -p edgehold-app -- settings

# Each target of tests/fuzz in turn: what it finds is kept in target/fuzz/corpus, what breaks in tests/fuzz/artifacts.
# cargo-fuzz has no --locked: with the fetch before it, it finds a lock file that is complete, and leaves it as it is.
# What reads messages runs in dependencies with unsafe code, so under the address sanitizer, which costs two thirds of the speed.
FUZZ_SECONDS ?= 600
fuzz: prerequisites ## Fuzz what reads messages, settings and rules, ten minutes each (FUZZ_SECONDS; needs a nightly compiler)
	@cargo +nightly --version >/dev/null 2>&1 || { echo "missing: a nightly compiler (rustup toolchain install nightly)" >&2; exit 1; }
	@"$(TOOLS)/bin/cargo-fuzz" --version 2>/dev/null | grep -qF "$(CARGO_FUZZ_VERSION)" || \
		cargo install --locked --root "$(TOOLS)" cargo-fuzz@$(CARGO_FUZZ_VERSION)
	cargo +nightly fetch --locked --manifest-path tests/fuzz/Cargo.toml
	@set -e; for target in envelope:address event:address cbor:address yaml:none kv_tree:none duration:none \
		json_logic:none line_protocol:none topic_filter:none; do \
		name=$${target%:*}; sanitizer=$${target#*:}; found=target/fuzz/corpus/$$name; \
		mkdir -p $$found; \
		cargo +nightly fuzz run --fuzz-dir tests/fuzz --target-dir target/fuzz/$$sanitizer -s $$sanitizer $$name \
			$$found tests/fuzz/corpus/$$name -- -max_total_time=$(FUZZ_SECONDS) -timeout=10; \
	done

clean: ## Remove everything that was built
	cargo clean

servers: ## Install the servers that the tests need (Debian, as root)
	@deploy/install-test-servers.sh

tools: ## Install cargo-deny into target/tools (compiles for some minutes)
	@"$(TOOLS)/bin/cargo-deny" --version 2>/dev/null | grep -qF "$(CARGO_DENY_VERSION)" || \
		cargo install --locked --root "$(TOOLS)" cargo-deny@$(CARGO_DENY_VERSION)

# consulrs links OpenSSL: its headers are found through pkg-config.
prerequisites:
	@missing=; \
	command -v cargo >/dev/null || missing="$$missing, cargo (Rust 1.94 or later, by rustup)"; \
	command -v cc >/dev/null || missing="$$missing, a C compiler (Debian: gcc)"; \
	command -v pkg-config >/dev/null || missing="$$missing, pkg-config (Debian: pkg-config)"; \
	pkg-config --exists openssl 2>/dev/null || missing="$$missing, the OpenSSL headers (Debian: libssl-dev)"; \
	[ -z "$$missing" ] || { echo "missing: $${missing#, }" >&2; exit 1; }
