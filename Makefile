SHELL         := bash
.SHELLFLAGS   := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# What may be set: make run ARGS="--listen 127.0.0.1:9000", make test TESTFLAGS="-count=1 -run Line", make fuzz FUZZTIME=1m.
ARGS      ?=
TESTFLAGS ?=
FUZZTIME  ?= 10s
COUNT     ?= 6

# go-nvml binds functions that its own header calls deprecated, and gcc says so at length.
export CGO_CFLAGS ?= -g -O2 -Wno-deprecated-declarations

TOOL     := go tool -modfile=tools.mod
GOLANGCI := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# Folders below the first one that hold a pattern in files that end in _test.go: $(call with,func Fuzz).
with = $(shell grep -rl --include='*_test.go' --exclude-dir=node_modules '$(1)' . | xargs -r -n1 dirname | sort -u)

# Modules inside this one that have tests.
nested = $(shell find . -mindepth 2 -name node_modules -prune -o -mindepth 2 -name go.mod -exec dirname {} \; | \
	while read -r dir; do [[ -z $$(find $$dir -name '*_test.go' -print -quit) ]] || echo $$dir; done)

.PHONY: help
help: ## Say what there is to make
	@awk -F ':[^#]*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: run
run: ## Four simulated models on two simulated GPUs; prints a curl line to paste
	@go run . dev $(ARGS)

.PHONY: demo
demo: ## The same with cold starts of 20 s, to watch what waiting is like
	@mkdir -p bin && go build -o bin/pilotlight .
	@bin/pilotlight dev --print | sed -E -e 's/--load, [0-9a-z.]+/--load, 20s/' -e 's|\[pilotlight|[$(CURDIR)/bin/pilotlight|' > bin/demo.yaml
	@echo "Every model loads for 20 s. Ask for one, and watch it come, each in a terminal of its own:"; echo; \
	echo "  curl -N http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \\"; \
	echo "    -d '{\"model\":\"llama-8b\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"Tell me about pilot lights.\"}]}'"; \
	echo "  bin/pilotlight status --watch 1s"; echo
	@XDG_STATE_HOME=$(CURDIR)/bin/demo bin/pilotlight serve -c bin/demo.yaml $(ARGS)

.PHONY: demo-fleet
demo-fleet: bin/consul ## Consul, four agents with simulated GPUs and three edges, each a process; prints what to try
	@mkdir -p bin && go build -o bin/pilotlight .
	@go run ./loadtest/demofleet $(ARGS)

.PHONY: test
test: deps ## Everything, under the race detector; installs what it needs itself
	go vet ./...
	go test -race $(TESTFLAGS) ./...
	@for test in $(nested); do (set -x; go test -C $$test -race $(TESTFLAGS) ./...); done

.PHONY: check
check: lint test ## What must hold before a commit: format, vet, staticcheck, golangci-lint, then test

.PHONY: lint
lint:
	@odd=$$($(TOOL) gofumpt -l .); [[ -z $$odd ]] || { \
		echo "not formatted; go tool -modfile=tools.mod gofumpt -w . does it:"; echo "$$odd"; exit 1; }
	go vet ./...
	$(TOOL) staticcheck ./...
	@echo "golangci-lint is built from source; the first time that takes some minutes"
	$(GOLANGCI) run ./...

.PHONY: fuzz
fuzz: ## Every fuzz test for FUZZTIME (10s)
	@for dir in $(call with,^func Fuzz); do \
		for target in $$(sed -nE 's/^func (Fuzz[A-Za-z0-9_]*)\(.*/\1/p' $$dir/*_test.go); do \
			echo "$$target in $$dir"; \
			go test $$dir -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME); \
		done; \
	done

.PHONY: bench
bench: ## Go benchmarks, COUNT (6) times each, compared with the run before
	@mkdir -p bin; [[ ! -e bin/bench.txt ]] || mv bin/bench.txt bin/bench-before.txt
	go test -run '^$$' -bench . -benchmem -benchtime 0.5s -count $(COUNT) $(call with,^func Benchmark) | tee bin/bench.txt
	$(TOOL) benchstat $$(ls bin/bench-before.txt 2>/dev/null) bin/bench.txt
	@awk '/^pkg:/ {pkg = substr($$2, length("pilotlight/") + 1)} \
		/^Benchmark/ {sub(/-[0-9]+$$/, "", $$1); name = pkg "." $$1; if (!(name in n)) order[++k] = name; n[name]++; sum[name] += $$3} \
		END {for (i = 1; i <= k; i++) printf "%s\"%s_ns\":%.1f", i == 1 ? "{" : ",", order[i], sum[order[i]] / n[order[i]]; print "}"}' bin/bench.txt

.PHONY: bench-wake
bench-wake: ## What is added to a wake, from the model server's readiness to its first byte of the request
	@go run ./loadtest/benchwake $(ARGS)

.PHONY: bench-proxy
bench-proxy: ## Processor time, delay and memory of the edge, side by side with nginx, HAProxy and net/http
	@[[ -x /usr/sbin/nginx && -x /usr/sbin/haproxy || $$(id -u) != 0 ]] || ! command -v apt-get > /dev/null || \
		DEBIAN_FRONTEND=noninteractive apt-get install -y nginx-light haproxy > /dev/null || true
	@go run ./loadtest/benchproxy $(ARGS)

.PHONY: gpu-check
gpu-check: ## On a machine with an NVIDIA GPU and PyTorch: what is seen of it, beside what nvidia-smi sees and a program knows
	@mkdir -p bin && go build -o bin/pilotlight .
	@python3 probe/nvml/testdata/gpucheck.py bin/pilotlight

.PHONY: bench-leave
bench-leave: ## How soon a model server sees that a client left, while 5,000 streams are open
	@go run ./loadtest/benchleave $(ARGS)

.PHONY: bench-revoke
bench-revoke: bin/consul ## How soon a revoked key of 100,000 is refused on every edge, from a file and from Consul
	@go run ./loadtest/benchrevoke $(ARGS)

.PHONY: soak-edge
soak-edge: ## Everything at once for a minute (ARGS="-for 20m"): no answer goes astray, nothing is left
	@go run ./loadtest/soakedge $(ARGS)

# How long a soak takes: make soak SOAK=2m.
SOAK ?= 30m

.PHONY: soak
soak: bin/consul ## Two edges, two agents and Consul for SOAK (30m), where something goes wrong every few seconds: nothing is lost or left
	@go build -o bin/pilotlight .
	@bin/pilotlight loadtest scenario soak --for $(SOAK) $(ARGS)

.PHONY: soak-ledger
soak-ledger: ## Two edges under load for SOAK (10m), one killed in the middle: what usage says is what clients were answered
	@PILOTLIGHT_SOAK_LEDGER=$(if $(filter file,$(origin SOAK)),10m,$(SOAK)) go test -count=1 -timeout 2h -v -run TestUsageOfTwoEdges . | grep -v '"level"'

.PHONY: bench-routing
bench-routing: ## Time to the first token by how backends are picked, on recorded requests in virtual time
	@go run ./loadtest/benchrouting $(ARGS)

.PHONY: bench-attribution
bench-attribution: ## How near each request's share of GPU time is to the true one, in virtual time; one line of JSON
	@go run ./loadtest/benchattribution $(ARGS)

.PHONY: bench-trace
bench-trace: ## What tracing costs: the edge's processor time for a request with tracing off, unsampled, 1 % and 100 %; one line of JSON
	go test ./proxy ./proxy/trace -run '^$$' -bench 'BenchmarkTracing|BenchmarkRequest' -benchmem | grep ^Benchmark
	@go run ./loadtest/benchtrace $(ARGS)

.PHONY: attribution-check
attribution-check: ## GPU time of requests as it is settled beside what a real model took; needs an NVIDIA GPU with 30 GiB free, and PyTorch
	@go run ./loadtest/attributioncheck $(ARGS)

.PHONY: trace-check
trace-check: bin/jaeger $(if $(findstring collector,$(ARGS)),bin/otelcol) ## A real Jaeger takes the trace of a cold request, which is read back and printed as a tree
	@go run ./loadtest/tracecheck $(ARGS)

.PHONY: bench-consul
bench-consul: bin/consul ## What discovery costs an edge: 5,000 backends of 500 models on 200 nodes, in a real Consul
	@go run ./loadtest/benchconsul $(ARGS)

# Where recordings are that are too large to be kept here; docs/simulate.md says which.
TRACES ?= ../shared/traces

.PHONY: sim
sim: ## The tables of docs/simulate.md: policies of the warm pool on the recordings in TRACES (../shared/traces)
	@mkdir -p bin && go build -o bin/pilotlight .
	TRACES=$(abspath $(TRACES)) go test ./warmpool/simulate -count=1 -run TestWholeRecordings
	bin/pilotlight simulate --trace $(TRACES)/servegen/servegen_sessions_merge60s.csv.gz --measure-from 4d --html bin/servegen.html $(ARGS)
	bin/pilotlight simulate --trace $(TRACES)/azure-functions-2019/functions.csv.gz --measure-from 8h --html bin/azure-functions.html $(ARGS)
	bin/pilotlight simulate --trace $(TRACES)/servegen/servegen_sessions_merge60s.csv.gz --measure-from 4d --memory gpu=10%,host=16% --rare 10%
	bin/pilotlight simulate --trace $(TRACES)/azure-functions-2019/functions.csv.gz --measure-from 8h --memory gpu=10%,host=16% --rare 10%
	bin/pilotlight simulate --trace $(TRACES)/servegen/servegen_sessions_merge60s.csv.gz --measure-from 4d --memory gpu=10%,host=16%

.PHONY: pgo
pgo: ## Make default.pgo anew, by which the compiler knows what is hot: a profile of the edge under the load of bench-proxy
	@mkdir -p bin; rm -f bin/pgo.*
	go run ./loadtest/benchproxy -among pilotlight -only requests,streams -rounds 1 -for 15s -profile bin/pgo $(ARGS)
	go tool pprof -proto bin/pgo.req bin/pgo.paced bin/pgo.token > default.pgo

.PHONY: chaos-consul
chaos-consul: bin/consul ## Kill, freeze, empty and poison Consul, for 5 minutes each, while requests flow (ARGS="-for 30s")
	@go run ./loadtest/chaosconsul -for 5m $(ARGS)

.PHONY: kube-check
kube-check: bin/kube-apiserver ## Kubernetes' waker against the real API server, scheduler and controllers; building them takes some minutes
	go test -count=1 -v -run TestKubernetesItself ./warmpool/launch

.PHONY: nomad-check
nomad-check: bin/nomad ## Nomad's waker against Nomad itself, as root; building it takes some minutes
	go test -count=1 -v -run TestNomadItself ./warmpool/launch

.PHONY: deploy-check
deploy-check: bin/helm bin/compose ## The chart, the compose file, systemd's units and the examples by the tools that take them; building Helm takes some minutes
	go test -count=1 -v -run 'TestTheChart|TestComposeFile|TestUnits|TestExamplesOfDeploy' .

.PHONY: schema
schema: ## Make config/schema.json and docs/configuration.md anew from the types and their comments
	go test ./config -run "Schema|Reference" -update

.PHONY: golden
golden: ## Make every generated file and every expected output anew; look at the difference before you keep it
	@for dir in $(call with,flag.Bool."update"); do go test $$dir -update; done

# What the tests need: a real model server and a real Consul, built from source, and the official client libraries.
.PHONY: deps
deps: bin/ollama bin/consul bin/compose deploy/clients/node_modules/.package-lock.json deploy/browser/node_modules/.package-lock.json
	@command -v chromium chromium-browser google-chrome > /dev/null || [[ $$(id -u) != 0 ]] || ! command -v apt-get > /dev/null || \
		{ apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium; } > /dev/null 2>&1 || \
		echo "Chromium could not be installed; the tests of the dashboard will be skipped, and say so"
	@command -v promtool prometheus > /dev/null || [[ $$(id -u) != 0 ]] || ! command -v apt-get > /dev/null || \
		DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends prometheus > /dev/null || true
	@{ command -v zsh && command -v fish; } > /dev/null || [[ $$(id -u) != 0 ]] || ! command -v apt-get > /dev/null || \
		DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends zsh fish > /dev/null || true

bin/ollama: deploy/ollama/go.mod deploy/ollama/go.sum
	@echo "building Ollama, the model server of the end-to-end test; from nothing that takes some minutes"
	go build -C deploy/ollama -o ../../bin/ollama github.com/ollama/ollama
	touch $@

bin/consul: deploy/consul/go.mod deploy/consul/go.sum
	@echo "building Consul, which the tests of discovery run; from nothing that takes some minutes"
	go build -C deploy/consul -o ../../bin/consul github.com/hashicorp/consul
	touch $@

bin/nomad: deploy/nomad/server/go.mod deploy/nomad/server/go.sum
	@echo "building Nomad, which one test runs; from nothing that takes five minutes"
	go build -C deploy/nomad/server -o ../../../bin/nomad github.com/hashicorp/nomad
	touch $@

bin/helm: deploy/helm/go.mod deploy/helm/go.sum
	@echo "building Helm, which one test runs; from nothing that takes some minutes"
	go build -C deploy/helm -o ../../bin/helm helm.sh/helm/v3/cmd/helm
	touch $@

bin/compose: deploy/container/go.mod deploy/container/go.sum
	go build -C deploy/container -o ../../bin/compose github.com/compose-spec/compose-go/v2/cmd
	touch $@

kubernetes := k8s.io/component-base/version
bin/kube-apiserver: deploy/kubernetes/go.mod deploy/kubernetes/go.sum
	@echo "building Kubernetes and etcd, which one test runs; from nothing that takes ten minutes"
	go build -C deploy/kubernetes -o ../../bin/etcd go.etcd.io/etcd/server/v3
	go build -C deploy/kubernetes -o ../../bin/ -ldflags "$$(sed -nE 's#^\tk8s.io/kubernetes (v1\.([0-9]+)\.[0-9]+).*#-X $(kubernetes).gitVersion=\1 -X $(kubernetes).gitMajor=1 -X $(kubernetes).gitMinor=\2#p' deploy/kubernetes/go.mod)" \
		k8s.io/kubernetes/cmd/kube-apiserver k8s.io/kubernetes/cmd/kube-controller-manager k8s.io/kubernetes/cmd/kube-scheduler
	touch $@

bin/otelcol: deploy/otel/builder.yaml
	@echo "building an OpenTelemetry collector; from nothing that takes some minutes"
	go run go.opentelemetry.io/collector/cmd/builder@v0.160.0 --config deploy/otel/builder.yaml
	mv bin/otelcol.build/otelcol $@ && rm -r bin/otelcol.build

bin/jaeger: deploy/jaeger/go.mod deploy/jaeger/go.sum
	@echo "building Jaeger, which make trace-check runs; from nothing that takes some minutes"
	go build -C deploy/jaeger -o ../../bin/jaeger github.com/jaegertracing/jaeger/cmd/jaeger
	touch $@

deploy/clients/node_modules/.package-lock.json: deploy/clients/package-lock.json
	@echo "installing the official client libraries of OpenAI and Ollama"
	cd deploy/clients && npm ci
	touch $@

deploy/browser/node_modules/.package-lock.json: deploy/browser/package-lock.json
	@echo "installing playwright-core, which drives the browser of the dashboard's tests"
	cd deploy/browser && npm ci
	touch $@
