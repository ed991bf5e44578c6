# deskmilter: make help

# mail-parser declares rust-version 1.98 but builds and runs on 1.95, which Cargo.toml asks for; cargo has to be told.
CARGO_FLAGS = --ignore-rust-version

.PHONY: help build demo test bench fmt lint peers

help: ## Show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

build: toolchain ## Build target/release/deskmilter
	cargo build --release $(CARGO_FLAGS) --package deskmilter

demo: peers toolchain ## Send three real messages through a real Postfix and show what became of them
	cargo build --release $(CARGO_FLAGS) --package deskmilter --package demo
	$${CARGO_TARGET_DIR:-target}/release/demo

test: peers toolchain ## Run all tests, with real mail servers
	@if cargo nextest --version >/dev/null 2>&1; then \
		set -x; cargo nextest run --workspace $(CARGO_FLAGS); \
	else \
		set -x; cargo test --workspace $(CARGO_FLAGS); \
	fi

bench: peers toolchain ## Measure deskmilter beside OpenDKIM, and Postfix with and without them
	cargo build --release $(CARGO_FLAGS) --package deskmilter --package milter-bench --package auth-bench
	$${CARGO_TARGET_DIR:-target}/release/milter-bench
	$${CARGO_TARGET_DIR:-target}/release/auth-bench

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
