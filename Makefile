# The door for people: each target is one command of cargo or of xtask, where the work is done.
#
#   make run      a local cluster of three members; ARGS="--members 1" goes to `quorate local`
#   make test     every test, each lane within its budget
#   make tools    real etcd and its tools, at target/tools
#   make more     the long lanes; LANES="history walks" names some, BUDGET_S=600 stops after that many seconds
#   make chaos-membership SEED=1 WALKS=200 STEPS=30
#                 random walks through memberships, with kills and cut links; AT_ONCE=2, TIME_S=200 for one walk
#   make bench    side by side with etcd; ARGS="--quick" goes to `quorate bench compare`
#   make bench-operator
#                 the operator: time to Ready, write outages, API requests, memory; ARGS="--quick", ARGS="--only many --json"
#   make images   OCI layouts of quorate and quorate-operator, at target/images
#
# These make a whole Kubernetes of three nodes on this machine, and take it away again. They need Linux and root.
#
#   make run-kube   the operator from its chart, a QuorateCluster of three; prints the KUBECONFIG; ARGS="--nodes 1"
#   make test-kube  the operator's tests in their long forms, then lives of the operator and its cluster;
#                   with KUBECONFIG=... and REGISTRY=... only those lives, on that Kubernetes, without those that
#                   break nodes, with images that are there already (make kube-images); ARGS="--keep" keeps the logs

# What tests need is built for the whole workspace in one call: a package alone, or programs without tests, have other
# features of the same libraries, and so all of them are compiled once more.

.PHONY: help run test tools more chaos-membership bench bench-operator need-rust need-go
.DEFAULT_GOAL := help

RELEASE := $(or $(CARGO_TARGET_DIR),target)/release

# $(call need,PROGRAM,HOW TO INSTALL IT)
need = @command -v $(1) >/dev/null 2>&1 || { echo "$(1) is not installed or not on PATH; install it: $(2)" >&2; exit 1; }

help:
	@sed -n 's/^#   //p' Makefile

# The first line that it prints is the endpoints.
run: need-rust
	@cargo build --release --package quorate
	@exec $(RELEASE)/quorate local $(ARGS)

# Go is not needed here: without it, the tests that want real etcd are left out and named.
test: need-rust
	@cargo xtask ci

tools: need-rust need-go
	@cargo xtask tools

more: need-rust
	@cargo xtask more $(LANES) $(if $(BUDGET_S),BUDGET_S=$(BUDGET_S))

chaos-membership: need-rust
	cargo build --workspace --all-targets
	QUORATE_SEED_FIRST=$(or $(SEED),1) QUORATE_WALKS=$(or $(WALKS),200) QUORATE_WALK_STEPS=$(or $(STEPS),30) \
	QUORATE_WALK_S=$(or $(TIME_S),200) QUORATE_WALKS_AT_ONCE=$(or $(AT_ONCE),2) \
	cargo test --workspace --test robustness walks::walks_keep -- --nocapture

bench: need-rust tools
	cargo build --release --package quorate
	@QUORATE_TOOLS="$${QUORATE_TOOLS:-target/tools}" exec $(RELEASE)/quorate bench compare $(ARGS)

bench-operator: need-rust need-go
	@cargo xtask bench-operator $(ARGS)

images: need-rust
	@cargo xtask images

# Only a KUBECONFIG that stands on make's own command line counts: one that happens to be in the environment may
# lead to a Kubernetes that nobody wants to try things on.
ifeq ($(origin KUBECONFIG),command line)
test-kube: need-rust need-go
	@cargo xtask tools kube helm
	@cargo build --package kubecluster --package kubectl-quorate
	@$(KUBE_CLUSTER) test --kubeconfig $(KUBECONFIG) $(if $(REGISTRY),--registry $(REGISTRY)) $(ARGS)
else
test-kube: kube-tools kube-images
	@cargo xtask more operator
	@$(KUBE_CLUSTER) test --store ours $(ARGS)
	@$(KUBE_CLUSTER) test --store etcd $(ARGS)
	@$(KUBE_CLUSTER) ends --nodes 1
endif

run-kube: kube-tools
	@cargo build --package kubecluster --package kubectl-quorate
	@cargo xtask images quorate quorate-operator pause
	@exec $(KUBE_CLUSTER) show $(ARGS)

KUBE_CLUSTER = $(or $(CARGO_TARGET_DIR),target)/debug/kube-cluster

kube-tools: need-rust need-go
	@cargo xtask tools etcd kube kubeload helm kube-node containerd coredns

# The version to upgrade to is a second build of the same source; the first is built last, and stays.
kube-images: need-rust
	@QUORATE_VERSION=0.2.0 cargo xtask images quorate quorate-operator
	@cargo xtask images quorate quorate-operator kube-cluster pause

need-rust:
	$(call need,cargo,curl --proto '=https' -sSf https://sh.rustup.rs | sh)
	$(call need,cc,apt-get install gcc libc6-dev)

need-go:
	$(call need,go,apt-get install golang-go (1.26 or newer) or the archive from https://go.dev/dl)
