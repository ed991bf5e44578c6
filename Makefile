# deskmilter: make help

# mail-parser declares rust-version 1.98 but builds and runs on 1.95, which Cargo.toml asks for; cargo has to be told.
CARGO_FLAGS = --ignore-rust-version

.PHONY: help build demo test bench chaos restarts soak fuzz book man packages test-packages fmt lint peers

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

build: toolchain ## Build target/release/deskmilter
	cargo build --release $(CARGO_FLAGS) --package deskmilter

demo: peers toolchain ## Go the whole circle on real mail servers: ticket, answer, what the end user sees (MTA=postfix or exim)
	cargo build --release $(CARGO_FLAGS) --package deskmilter --package demo
	$${CARGO_TARGET_DIR:-target}/release/demo $(MTA)

test: peers toolchain ## Run all tests, with real mail servers
	@if cargo nextest --version >/dev/null 2>&1; then \
		set -x; cargo nextest run --workspace $(CARGO_FLAGS); \
	else \
		set -x; cargo test --workspace $(CARGO_FLAGS); \
	fi

bench: peers toolchain ## Measure deskmilter beside OpenDKIM and Postfix; Postfix with and without filters, and Exim
	cargo build --release $(CARGO_FLAGS) --package deskmilter --package milter-bench --package transport-bench --package auth-bench
	$${CARGO_TARGET_DIR:-target}/release/milter-bench
	$${CARGO_TARGET_DIR:-target}/release/transport-bench
	$${CARGO_TARGET_DIR:-target}/release/auth-bench

fuzz: peers toolchain ## Fuzz each parser for FUZZ_SECONDS (600)
	fuzz/run

chaos: peers toolchain ## Lose nothing of 10,000 messages while everything fails (CHAOS_MODE, CHAOS_MESSAGES)
	cargo build --release $(CARGO_FLAGS) --package deskmilter --package chaos
	$${CARGO_TARGET_DIR:-target}/release/chaos

restarts: peers toolchain ## Refuse, lose and double nothing of 5,000 messages over 200 reloads and 5 restarts
	RESTARTS=full cargo test $(CARGO_FLAGS) --test reload restarts -- --nocapture

soak: peers toolchain ## Show that memory and descriptors stay flat over 200,000 messages (SOAK_MESSAGES)
	cargo build --release $(CARGO_FLAGS) --package deskmilter --package chaos
	$${CARGO_TARGET_DIR:-target}/release/soak

# As make packages does with its tools: where it is missing, for this tree alone. Without what watches and serves.
MDBOOK_VERSION = 0.4.52
MDBOOK = target/tools/bin/mdbook

book: toolchain ## Make the documents into a book in target/book
	@[ -x $(MDBOOK) ] || cargo install --debug --locked --root target/tools --no-default-features --features search \
		--version $(MDBOOK_VERSION) mdbook
	$(MDBOOK) build docs

man: toolchain ## Write the manual pages and shell completions to target/package
	cargo run --quiet --release $(CARGO_FLAGS) --package manual -- target/package

packages: toolchain ## Build the deb and the rpm in target/packages
	packaging/build

test-packages: packages ## Install the deb beside Postfix in a clean Debian 12, use it, upgrade, remove and purge it (as root)
	packaging/test.sh

fmt: toolchain ## Format the code
	cargo fmt --all
	cd fuzz && cargo fmt

lint: toolchain ## Check format and lints
	cargo fmt --all --check
	cd fuzz && cargo fmt --check
	cargo clippy --workspace --all-targets $(CARGO_FLAGS) -- -D warnings

peers: ## Install the mail servers and tools that tests, demo and bench need
	@tests/peers/install.sh

.PHONY: toolchain
toolchain:
	@command -v cargo >/dev/null || { \
		echo 'cargo is missing: install Rust 1.95 or newer, for example by https://rustup.rs' >&2; exit 1; }
