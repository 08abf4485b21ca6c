# podd: `make demo` shows it, `make test` tests it; both set up what is missing. `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := build

GO         ?= go
PREFIX     ?= /usr/local
DESTDIR    ?=
SYSCONFDIR ?= /etc
UNITDIR    ?= /etc/systemd/system
VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# One set of flags for builds, vet and tests, so that they share what the compiler has done: the Kubernetes packages
# take minutes. cgo is only for runc (libseccomp) and the race detector.
export CGO_ENABLED := 0
export GOFLAGS     := -trimpath -tags=grpcnotrace

# go build OUT ARGUMENTS..., which says at a terminal how far it is.
COMPILE := GO="$(GO)" install/compile

BIN     := bin
LIBEXEC := libexec/podd
STAMPS  := .build

CONTAINERD := github.com/containerd/containerd/v2/cmd
PLUGINS    := github.com/containernetworking/plugins/plugins
CNI        := main/bridge main/loopback main/ptp ipam/host-local ipam/static meta/portmap meta/tuning meta/bandwidth meta/firewall
COMMANDS   := podd podctl
HELPERS    := podd-logd pause

# Everything the commands are made of, for make to see that nothing changed; the go tool decides the rest.
SOURCES := $(shell find api cmd network runtime sandbox status store volumes -type f -not -name '*_test.go' -not -path '*/testdata/*')

# A stamp without its files says nothing.
have = $(if $(filter-out $(wildcard $(1)),$(1)),,yes)
ifneq ($(call have,$(COMMANDS:%=$(BIN)/%) $(HELPERS:%=$(LIBEXEC)/%)),yes)
$(shell rm -f $(STAMPS)/commands)
endif
ifneq ($(call have,$(addprefix $(LIBEXEC)/,containerd containerd-shim-runc-v2 $(notdir $(CNI)))),yes)
$(shell rm -f $(STAMPS)/bundle)
endif
ifneq ($(call have,$(LIBEXEC)/runc),yes)
$(shell rm -f $(STAMPS)/runc)
endif

.PHONY: build bundle help packages test lint unit host e2e fuzz cgroupv2 bench demo demo-clean install uninstall clean

build: $(STAMPS)/commands bundle ## podd and podctl into bin/, their helpers and the node bundle into libexec/podd/

$(STAMPS)/commands: $(SOURCES) go.mod go.sum Makefile
	@mkdir -p $(BIN) $(LIBEXEC) $(STAMPS)
	@echo "building $(COMMANDS) $(HELPERS)"
	@$(COMPILE) $(LIBEXEC)/ -ldflags "-s -w -X main.version=$(VERSION)" $(HELPERS:%=./cmd/%)
	@$(COMPILE) $(BIN)/ -ldflags "-s -w -X main.version=$(VERSION)" $(COMMANDS:%=./cmd/%)
	@touch $@

bundle: $(STAMPS)/bundle $(STAMPS)/runc ## containerd, its shim, runc and the CNI plugins into libexec/podd/

$(STAMPS)/bundle: go.mod go.sum Makefile
	@mkdir -p $(LIBEXEC) $(STAMPS)
	@echo "building containerd and the CNI plugins"
	@$(COMPILE) $(LIBEXEC)/ -tags "no_cri,no_btrfs,no_zfs,no_devmapper,no_tracing,grpcnotrace" -ldflags "-s -w" \
		$(CONTAINERD)/containerd $(CONTAINERD)/containerd-shim-runc-v2 $(CNI:%=$(PLUGINS)/%)
	@touch $@

# runc is linked statically, so that the bundle also runs where libseccomp is not installed.
$(STAMPS)/runc: go.mod go.sum Makefile | packages
	@mkdir -p $(LIBEXEC) $(STAMPS)
	@echo "building runc"
	@CGO_ENABLED=1 $(COMPILE) $(LIBEXEC)/ -tags "seccomp,netgo,osusergo" -ldflags "-s -w -extldflags -static" \
		github.com/opencontainers/runc
	@touch $@

# kubectl as it is, for the tests; its version is what its own build would write into it.
$(STAMPS)/kubectl: go.mod go.sum Makefile
	@mkdir -p $(STAMPS)
	@echo "building kubectl"
	@$(GO) build -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$$($(GO) list -m -f "{{.Version}}" k8s.io/kubernetes)" -o $@ k8s.io/kubernetes/cmd/kubectl

packages: ## apt packages that building and testing need, if they are missing
	@install/packages build

test: ## everything: lint, unit tests with the race detector, tests on the host, end to end, fuzzing
	@install/packages build test
	@$(GO) run ./test/run lint build unit host e2e fuzz

lint unit host e2e fuzz: ## one part of `make test`
	@install/packages build $(if $(filter host e2e,$@),test)
	@$(GO) run ./test/run $(if $(filter host e2e,$@),build) $@

cgroupv2: ## podd on cgroup v2, in an emulated machine; some minutes
	@install/packages build cgroupv2
	@$(GO) run ./test/run build cgroupv2

bench: build ## start, exit, idle, the API and memory, measured; some against plain containerd
	@install/packages build test
	@$(GO) test -tags host,grpcnotrace -count=1 -timeout 30m -run '^$$' -bench . -benchtime 1x ./test/bench/...

demo: ## a pod of two containers, step by step; leaves podd running
	@examples/demo/run

demo-clean: ## ends the demo and removes all it made
	@examples/demo/clean

install: build ## binaries, systemd unit and default configuration below DESTDIR and PREFIX
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' SYSCONFDIR='$(SYSCONFDIR)' UNITDIR='$(UNITDIR)' install/install

uninstall: ## takes away what install put there; state and edited configuration stay
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' SYSCONFDIR='$(SYSCONFDIR)' UNITDIR='$(UNITDIR)' install/uninstall

clean: ## removes what was built
	rm -rf $(BIN) libexec $(STAMPS)

help: ## this list
	@awk -F ':.*## ' '/^[a-z][a-z0-9 -]*:.*## / { printf "  %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
