# The verbs of this repository; `make` prints them. Everything is built in the one profile `release` and one target
# directory, so RocksDB, which is most of a clean build, is compiled once, and through ccache where there is one.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help up build test check fix bench simulate replay chaos mutants bugs fuzz report

MEMBERS ?= 1
ARGS ?=
SEEDS ?= 400
TIME ?=

export PATH := $(if $(wildcard /usr/lib/ccache),/usr/lib/ccache:)$(PATH):$(HOME)/.cargo/bin
TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
# What `tools/setup --tests` put aside: Python packages before the system's, stock etcd behind it.
PEERS := $(CURDIR)/target/peers
WITH_PEERS = PATH="$(CURDIR)/target/python/bin:$$PATH:$(PEERS)/etcd-3.4" ETCD_PEER_DIR="$${ETCD_PEER_DIR-$(PEERS)/etcd-3.5.1}"
# Always the whole workspace, whatever is built of it, so that every dependency has the same features and is compiled
# once. But fuzzing has a runtime whose time stands still: that must not reach the server, so it is built apart.
CARGO_FLAGS := --release --workspace --exclude fuzz --locked

# What cargo-fuzz passes, without a sanitizer; `--target` keeps it from build scripts and what only they use.
HOST := $(shell PATH="$(PATH)" rustc -vV 2>/dev/null | sed -n 's/^host: //p')
COVERAGE := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Coverflow-checks=on
FUZZ_CARGO = RUSTFLAGS="$(COVERAGE)" cargo
FUZZ_FLAGS = --release --locked -p fuzz --features engine --target $(HOST)

help: ## print this
	@echo 'usage: make VERB [VARIABLE=VALUE]...'
	@echo
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 10
	@echo
	@sed -n 's/^#% \{0,1\}//p' Makefile

#% Variables:
#%   MEMBERS=3                     up: this many members (1 to 5)
#%   ARGS='-p store watch'         test: what `cargo test` gets instead of --workspace
#%   SEEDS=3000 TIME=10m           simulate: this many clusters [400], and so long at most [no limit]
#%   SEED=7                        replay: the seed that failed; ARGS='--chaos 30' if it was run so;
#%                                 ARGS='--shrink FILE' makes it smaller
#%   TIME=10m WORKLOAD=lock,watch  chaos: how long [10m], these kinds of traffic only,
#%   FAULTS=kill,partition ETCD=PATH   these faults only, this server instead of the one just built
#%   TIME=150 NAME=wal-record      fuzz: seconds in all [150], one target only [all]
#%   ARGS='--quick --only put'     bench: what `bench run` gets; see target/release/bench help run
#% Sizes and peers of the tests, from the environment:
#%   KEELSON_CRASH_ROUNDS          kill -9 and restart this often [3]; 20 is a full run
#%   KEELSON_DIFFERENTIAL_REQUESTS length of the comparison with a stock etcd [5000]
#%   KEELSON_DIFFERENTIAL_SEED     repeat that comparison's run [random]
#%   KEELSON_DIFFERENTIAL_AUTH_REQUESTS   the same for changes of users, roles and permissions [3000]
#%   KEELSON_MIXED_WRITES          writes in the mixed cluster [2000]; 50000 is a full run
#%   KEELSON_TAKEOVER_WRITES       writes between two changes of members when a cluster is taken over [500]; 3000 is a
#%                                 full run
#%   KEELSON_SNAPSHOT_KEYS         keys of the snapshots that go both ways [3000]; 100000 is a full run
#%   KEELSON_TLS_WATCHES           watches that are open while a certificate is exchanged [1000]
#%   KEELSON_TLS_SILENT            connections that never finish their handshake [1500]
#%   KEELSON_FUZZ_MUTATIONS        changed seeds that each fuzz target gets [400]
#%   KEELSON_AUTH_REQUESTS, KEELSON_TLS_REQUESTS, KEELSON_ROUNDS
#%                                 requests of a measurement of authentication [100000] or TLS [50000], rounds [6];
#%                                 ARGS='-p integration --test auth -- --ignored --nocapture --test-threads 1'
#%   KEELSON_REQUIRE_PEER=1        fail, not skip, where a stock etcd or etcdctl is missing
#%   KEELSON_ETCD                  the server to test [the one just built]
#%   ETCD_PEER_DIR                 stock etcd, etcdctl and etcdutl 3.5 [target/peers/etcd-3.5.1]

up: build ## run the server on 127.0.0.1:2379; MEMBERS=3 runs a cluster on 2379, 22379, 32379
	@tools/up "$(TARGET)/release" $(MEMBERS)

build: ## compile etcd, etcdctl and bench into target/release
	@tools/setup
	@cargo build $(CARGO_FLAGS) --bins

# Fuzz targets are tested as `make fuzz` builds them. The etcd-client crate comes last and alone: its features must not
# reach the server that is built for all else.
test: ## run the tests, against stock etcd too; installs what they need
	@tools/setup --tests
ifeq ($(ARGS),)
	@cargo build --release --locked -p nudge
	@$(WITH_PEERS) cargo test $(CARGO_FLAGS)
	@$(FUZZ_CARGO) test $(FUZZ_FLAGS)
	@if command -v protoc >/dev/null; \
	then $(WITH_PEERS) cargo test $(CARGO_FLAGS) --features integration/etcd-client --test clients etcd_client; \
	else echo 'skipped: etcd-client crate (no protoc)'; fi
else
	@$(WITH_PEERS) cargo test --release --locked $(ARGS)
endif

check: ## formatting, lints, tidy rules; changes nothing
	@tools/setup --check
	@cargo fmt --all --check
	@cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings
	@cargo clippy --release --locked -p jepsen -p fuzz --features jepsen/mutants,fuzz/engine --all-targets -- -D warnings
	@cargo test $(CARGO_FLAGS) --quiet --test tidy

fix: ## format, and apply what lints can fix by themselves
	@tools/setup --check
	@cargo clippy $(CARGO_FLAGS) --all-targets --fix --allow-dirty --allow-staged
	@cargo fmt --all

bench: build ## compare with stock etcd on this machine; report in target/bench
	@tools/setup --peers
	@$(WITH_PEERS) "$(TARGET)/release/bench" run --ours "$(TARGET)/release/etcd" $(ARGS)

simulate: jepsen ## run clusters of this code in simulated time, under faults, and judge what their clients saw
	@"$(TARGET)/release/jepsen" simulate --seeds $(SEEDS) $(if $(TIME),--time $(TIME)) $(ARGS)

replay: JEPSEN_FLAGS := --features jepsen/mutants
replay: jepsen ## run one simulated cluster again: SEED=7, or SEED=jepsen/schedules/NAME.txt
	@"$(TARGET)/release/jepsen" replay $(SEED) $(ARGS)

chaos: build jepsen ## run clusters of real processes under real faults, and judge what their clients saw
	@"$(TARGET)/release/jepsen" chaos $(if $(TIME),--time $(TIME)) $(if $(WORKLOAD),--workload $(WORKLOAD)) \
	    $(if $(FAULTS),--faults $(FAULTS)) $(if $(ETCD),--etcd $(ETCD)) $(ARGS)

mutants: JEPSEN_FLAGS := --features jepsen/mutants
mutants: jepsen ## run simulated clusters that make known mistakes, until each is noticed
	@"$(TARGET)/release/jepsen" mutants $(ARGS)

bugs: JEPSEN_FLAGS := --features jepsen/mutants
bugs: jepsen ## make bugs that etcd once had again, one by one, and find each
	@"$(TARGET)/release/jepsen" bugs $(ARGS)

fuzz: ## feed every decoder bytes that are steered by coverage; NAME=wal-record runs one target
	@tools/setup
	@$(FUZZ_CARGO) build $(FUZZ_FLAGS)
	@"$(TARGET)/$(HOST)/release/fuzz" $(if $(NAME),run $(NAME),all) --time $(or $(TIME),150) --dir "$(TARGET)/fuzz" $(ARGS)

report: jepsen ## what the last runs of the proof showed, as target/proof/index.html
	@"$(TARGET)/release/jepsen" report $(ARGS)

.PHONY: jepsen
jepsen:
	@tools/setup
	@cargo build --release --locked -p nudge
	@cargo build $(CARGO_FLAGS) --bin jepsen $(JEPSEN_FLAGS)
ifneq ($(JEPSEN_FLAGS),)
	@grep -q 'keelson: this binary can make mistakes' "$(TARGET)/release/jepsen" \
	    || { echo 'a build with mistakes does not carry their mark' >&2; exit 1; }
endif
