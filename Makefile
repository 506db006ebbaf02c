# Everything here is a go command or a script of .ci/; make only names them.

export CGO_ENABLED = 0
GO      ?= go
TARGETS  = linux/amd64 linux/arm64 windows/amd64 windows/arm64
BUILD    = $(GO) build -trimpath

.PHONY: build test check cross fuzz bench demo ci clean

build: ## ./drvsock for this machine
	$(BUILD) -o drvsock ./cmd/drvsock

test: ## the quick tests
	$(GO) test -short ./...

check: ## everything, with what it needs installed first if this is Debian and root
	.ci/install
	CGO_ENABLED=$$(command -v gcc >/dev/null && echo 1 || echo 0) \
	.ci/test -timeout=10m $$(command -v gcc >/dev/null && echo -race) ./...

cross: ## dist/ for each system
	@set -e; for t in $(TARGETS); do \
		os=$${t%/*} arch=$${t#*/} ext=; [ $$os = windows ] && ext=.exe; \
		out=dist/drvsock-$$os-$$arch$$ext; echo $$out; \
		GOOS=$$os GOARCH=$$arch $(BUILD) -ldflags='-s -w' -o $$out ./cmd/drvsock; \
	done

fuzz: ## a minute of fuzzing
	.ci/fuzz 60

bench: ## native, socat and drvsock side by side
	$(GO) run ./bench

demo: build ## the post, played on this machine
	./drvsock demo

ci: ## what CI runs
	.ci/run

clean:
	rm -rf drvsock drvsock.exe dist
