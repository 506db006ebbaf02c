# Everything here is a go command or a script of .ci/; make only names them.

export CGO_ENABLED = 0
GO      ?= go
TARGETS  = linux/amd64 linux/arm64 windows/amd64 windows/arm64
RIG     ?= /var/tmp/drvsock-wine
SOAK    ?= 1h
FUZZ    ?= 60
BUILD    = $(GO) build -trimpath

.PHONY: build test check cross fuzz soak bench demo wine-demo ci clean

build: ## ./drvsock for this machine
	$(BUILD) -o drvsock ./cmd/drvsock

test: ## the quick tests
	$(GO) test -short ./...

check: ## everything, with what it needs installed first if this is Debian and root
	.ci/check

cross: ## dist/ for each system
	@set -e; for t in $(TARGETS); do \
		os=$${t%/*} arch=$${t#*/} ext=; [ $$os = windows ] && ext=.exe; \
		out=dist/drvsock-$$os-$$arch$$ext; echo $$out; \
		GOOS=$$os GOARCH=$$arch $(BUILD) -ldflags='-s -w' -o $$out ./cmd/drvsock; \
	done

fuzz: ## fuzz every parser; FUZZ is for how many seconds in all
	.ci/fuzz $(FUZZ)

soak: ## kill processes and spoil the link at random under load; SOAK is how long, 1h by default
	DRVSOCK_SOAK=$(SOAK) $(GO) test -count=1 -timeout=0 -v -run='^TestSoak$$' ./test/soak

bench: ## native, socat and drvsock side by side
	$(GO) run ./bench

demo: ## the post, played on this machine
	$(GO) run ./cmd/drvsock demo

wine-demo: build ## the same with real Windows binaries; RIG is a folder to set Wine up in
	wine/setup $(RIG)
	GOOS=windows GOARCH=amd64 $(BUILD) -o drvsock.exe ./cmd/drvsock
	./drvsock demo --wine $(RIG)

ci: ## what CI runs
	.ci/run

clean:
	rm -rf drvsock drvsock.exe dist
