# deskmilter: make help

# mail-parser declares rust-version 1.98 but builds and runs on 1.95, which Cargo.toml asks for; cargo has to be told.
CARGO_FLAGS = --ignore-rust-version

.PHONY: help build demo test bench man packages test-packages fmt lint peers

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

build: toolchain ## Build target/release/deskmilter
	cargo build --release $(CARGO_FLAGS) --package deskmilter

demo: peers toolchain ## Go the whole circle on real mail servers: ticket, answer, what the end user sees
	cargo build --release $(CARGO_FLAGS) --package deskmilter --package demo
	$${CARGO_TARGET_DIR:-target}/release/demo

test: peers toolchain ## Run all tests, with real mail servers
	@if cargo nextest --version >/dev/null 2>&1; then \
		set -x; cargo nextest run --workspace $(CARGO_FLAGS); \
	else \
		set -x; cargo test --workspace $(CARGO_FLAGS); \
	fi

bench: peers toolchain ## Measure deskmilter beside OpenDKIM, and Postfix with and without them
	cargo build --release $(CARGO_FLAGS) --package deskmilter --package milter-bench
	$${CARGO_TARGET_DIR:-target}/release/milter-bench

man: toolchain ## Write the manual pages and shell completions to target/package
	cargo run --quiet --release $(CARGO_FLAGS) --package manual -- target/package

packages: toolchain ## Build the deb and the rpm in target/packages
	packaging/build

test-packages: packages ## Install the deb beside Postfix in a clean Debian 12, use it, upgrade, remove and purge it (as root)
	packaging/test.sh

fmt: toolchain ## Format the code
	cargo fmt --all

lint: toolchain ## Check format and lints
	cargo fmt --all --check
	cargo clippy --workspace --all-targets $(CARGO_FLAGS) -- -D warnings

peers: ## Install the mail servers and tools that tests, demo and bench need
	@tests/peers/install.sh

.PHONY: toolchain
toolchain:
	@command -v cargo >/dev/null || { \
		echo 'cargo is missing: install Rust 1.95 or newer, for example by https://rustup.rs' >&2; exit 1; }
