# One line each over cargo and the scripts under tests/scripts. Everything is built with the release profile and with the
# whole workspace's features, so that run, test and bench share every compiled dependency.
TOOLS := $(or $(CARGO_TARGET_DIR),target)/weft-tools/bin

.DEFAULT_GOAL := help
.PHONY: help run test check lint bench bench-state doc proto models

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## build, start a whole mesh, show it working, leave it serving
	cargo run --release --bin weft -- dev --demo

test: ## every test, third-party clients and real processes included
	tests/scripts/tools.sh test
	tests/scripts/models.sh
	cargo build --release --workspace --bins
	cargo test --release --workspace

check: lint ## what a change must pass besides the tests
	RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps --document-private-items --quiet
	tests/scripts/tools.sh check
	$(TOOLS)/cargo-deny --log-level warn check bans licenses sources
	tests/scripts/contracts.sh

lint: ## formatting and lints
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings

bench: ## the benchmarks, each goal with its verdict
	cargo build --release --workspace --bins
	cargo bench --profile release --workspace --exclude weft-tests --bench '*'
	cargo bench --profile release -p weft-tests --bench mesh

bench-state: ## what callers see when etcd fails, and what a large fleet costs; FULL=1 for more of both
	cargo build --release --workspace --bins
	cargo bench --profile release -p weft-tests --bench state $(if $(FULL),-- --full)

doc: ## the documentation, under target/doc
	cargo doc --release --workspace --no-deps --document-private-items

proto: ## regenerate shared/proto/src/gen from proto/
	WEFT_BLESS=1 cargo test --release --workspace --test generated

models: ## fetch the foreign models that tests and demonstrations can use
	tests/scripts/models.sh
