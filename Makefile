# One line each over cargo and the scripts under tests/scripts. Everything is built with the release profile and with the
# whole workspace's features, so that run, test and bench share every compiled dependency.
TOOLS := $(or $(CARGO_TARGET_DIR),target)/weft-tools/bin
# Cargo, with what llama.cpp is compiled with: cmake, a C++ compiler, libclang. Where they are there it is cargo itself.
CARGO := tests/scripts/native.sh cargo

.DEFAULT_GOAL := help
.PHONY: help run test check lint bench bench-jobs bench-journal bench-router bench-scheduler bench-state bench-worker fuzz doc proto models sim

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## build, start a whole mesh, show it working, leave it serving
	$(CARGO) run --release --bin weft -- dev --demo

test: ## every test, third-party clients and real processes included
	tests/scripts/tools.sh test
	tests/scripts/proxies.sh envoy
	tests/scripts/models.sh
	$(CARGO) build --release --workspace --bins
	$(CARGO) test --release --workspace

check: lint ## what a change must pass besides the tests
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --workspace --no-deps --document-private-items --quiet
	tests/scripts/tools.sh check
	$(TOOLS)/cargo-deny --log-level warn check bans licenses sources
	tests/scripts/contracts.sh

lint: ## formatting and lints
	cargo fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings

bench: ## the benchmarks, each goal with its verdict
	$(CARGO) build --release --workspace --bins
	$(CARGO) bench --profile release --workspace --exclude weft-tests --bench '*'
	$(CARGO) bench --profile release -p weft-tests --bench mesh

bench-journal: ## the log of jobs: transitions a second, and how soon another scheduler has the jobs of one that is gone; PART=throughput for one part
	$(CARGO) bench --profile release -p weft-tests --bench journal -- $(PART)

bench-state: ## what callers see when etcd fails, and what a large fleet costs; FULL=1 for more of both
	$(CARGO) build --release --workspace --bins
	$(CARGO) bench --profile release -p weft-tests --bench state $(if $(FULL),-- --full)

bench-scheduler: ## a scheduler that places thousands of replicas, leaders killed, models that come and go, urgent work; PART=leader for some parts
	$(CARGO) build --release --workspace --bins
	$(CARGO) bench --profile release -p weft-tests --bench scheduler -- $(PART)

sim: ## up to ten thousand workers and a million calls per second in virtual time, against other ways to run them; PART=mixed for some scenarios
	$(CARGO) bench --profile release -p weft-policy --bench sim -- $(or $(PART),all)

bench-jobs: ## jobs of three steps beside Restate's, schedulers killed under thousands of them; PART=chaos for some parts, FULL=1 for longer
	$(CARGO) build --release --workspace --bins
	$(if $(findstring restate,$(or $(PART),restate)),tests/scripts/peers.sh restate)
	$(CARGO) bench --profile release -p weft-tests --bench jobs -- $(PART) $(if $(FULL),--full)

bench-router: ## the router against other proxies, under skew, overload, faults and many connections; PART=skew for some parts, FULL=1 for longer
	$(CARGO) build --release --workspace --bins
	tests/scripts/proxies.sh
	$(CARGO) bench --profile release -p weft-tests --bench router -- $(PART) $(if $(FULL),--full)

bench-worker: ## a worker against the runtimes below it and the servers beside it; PART=BD for some parts, FULL=1 for longer
	tests/scripts/models.sh
	$(CARGO) build --release --workspace --bins
	tests/scripts/peers.sh
	$(CARGO) bench --profile release -p weft-tests --bench worker -- $(PART) $(if $(FULL),--full)
	$(if $(findstring D,$(or $(PART),D)),$(CARGO) bench --profile release -p weft-policy --bench batching)

fuzz: ## what peers may send, in every form that libFuzzer finds; RUNS=10000000 for each target, TARGET=frame for one
	tests/scripts/fuzz.sh $(or $(RUNS),1000000) $(TARGET)

doc: ## the documentation, under target/doc
	$(CARGO) doc --release --workspace --no-deps --document-private-items

proto: ## regenerate shared/proto/src/gen from proto/
	WEFT_BLESS=1 $(CARGO) test --release --workspace --test generated

models: ## fetch four foreign models (430 MB) into models/, checked against their checksums
	tests/scripts/models.sh
