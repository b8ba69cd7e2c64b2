{{/* What can't work, in words, before anything is made. */}}
{{- define "headrace.refuse" -}}
{{- $v := .Values }}
{{- if not $v.image.repository }}{{ fail "image.repository: no image is named: make one with `headrace image build`, push it with `headrace image push`, and name it here" }}{{ end }}
{{- if and $v.store.url $v.store.existingSecret.name }}{{ fail "store: give url or existingSecret, not both" }}{{ end }}
{{- if not (or $v.store.url $v.store.existingSecret.name) }}{{ fail "store: nothing says where versions and rollouts are kept: give existingSecret.name, a Secret with the URL of a PostgreSQL, or url" }}{{ end }}
{{- if and $v.store.url (not (hasPrefix "postgresql" $v.store.url)) }}{{ fail "store.url: only a PostgreSQL outlives the head: write postgresql+psycopg://USER@HOST/DATABASE" }}{{ end }}
{{- if and $v.redis.enabled (not $v.redis.address) }}{{ fail "redis.address: none is given: write host:port, or set redis.enabled: false" }}{{ end }}
{{- if lt (int $v.gateway.minReplicas) 1 }}{{ fail "gateway.minReplicas: callers need one at least" }}{{ end }}
{{- if not (or $v.gateway.tls.secretName $v.gateway.insecure) }}{{ fail "gateway.tls.secretName: keys and rows would cross the network in clear: name a Secret of type kubernetes.io/tls, or set gateway.insecure: true where a mesh or an ingress speaks TLS before it" }}{{ end }}
{{- if not (or $v.gateway.access $v.gateway.insecure) }}{{ fail "gateway.access: nothing says who may do what: give an Access document (docs/access.md), or set gateway.insecure: true, and whoever reaches it may score and see" }}{{ end }}
{{- if eq (int $v.gateway.httpPort) (int $v.gateway.grpcPort) }}{{ fail "gateway.grpcPort: it is httpPort too: choose another" }}{{ end }}
{{- if and $v.gateway.service.loadBalancerSourceRanges (ne $v.gateway.service.type "LoadBalancer") }}{{ fail (printf "gateway.service.loadBalancerSourceRanges: a %s Service keeps nobody out by them: set type: LoadBalancer, or leave them out and say who may call in networkPolicy.callers" $v.gateway.service.type) }}{{ end }}
{{- include "headrace.refuseGroup" (dict "where" "gateway" "group" $v.gateway) }}
{{- $some := false }}
{{- range $name, $group := $v.workers }}
{{- if $group.enabled }}
{{- $some = true }}
{{- if eq $name "gateway" }}{{ fail "workers.gateway: that is the gateways' own group: choose another name" }}{{ end }}
{{- include "headrace.refuseGroup" (dict "where" (printf "workers.%s" $name) "group" $group) }}
{{- if and (gt (int $group.gpus) 0) (not $group.gpuNodesComeLater) }}
{{- $nodes := (lookup "v1" "Node" "" "").items }}
{{- $able := false }}
{{- range $nodes }}{{ if dig "status" "allocatable" $group.gpuResource "" . }}{{ $able = true }}{{ end }}{{ end }}
{{- if and $nodes (not $able) }}{{ fail (printf "workers.%s.gpus: no node has %s: install the device plugin (NVIDIA's GPU operator), or set gpuNodesComeLater: true where nodes are made when they are asked for" $name $group.gpuResource) }}{{ end }}
{{- end }}
{{- end }}
{{- end }}
{{- if not $some }}{{ fail "workers: no group is enabled: no model could run anywhere, since head and gateways score nothing" }}{{ end }}
{{- if and $v.networkPolicy.enabled $v.autoscaler.enabled (not $v.networkPolicy.apiServer) }}{{ fail "networkPolicy.apiServer: the autoscaler could not ask the API server: give its addresses (`kubectl get endpoints kubernetes`), e.g. [10.0.0.1/32], or set autoscaler.enabled: false" }}{{ end }}
{{- if and $v.networkPolicy.enabled (not $v.networkPolicy.egress) }}{{ fail "networkPolicy.egress: no Pod could reach the store: list PostgreSQL, and Kafka, Redis and the object store where you have them" }}{{ end }}
{{- if not (regexMatch "^[a-z]" (include "headrace.name" .)) }}{{ fail (printf "the release's name: %s would begin with a figure, which no Service may: choose another" (include "headrace.name" .)) }}{{ end }}
{{- end }}

{{- define "headrace.refuseGroup" -}}
{{- if gt (int .group.minReplicas) (int .group.maxReplicas) }}{{ fail (printf "%s.minReplicas: %d is more than maxReplicas %d" .where (int .group.minReplicas) (int .group.maxReplicas)) }}{{ end }}
{{- if lt (int .group.maxReplicas) 1 }}{{ fail (printf "%s.maxReplicas: 0 Pods do nothing: set enabled: false instead" .where) }}{{ end }}
{{- if not (kindIs "invalid" .group.minAvailable) }}
{{- if and (gt (int .group.minAvailable) 0) (ge (int .group.minAvailable) (int .group.minReplicas)) }}{{ fail (printf "%s.minAvailable: with %d of %d Pods to stay no node could ever be drained: leave it out (one less than minReplicas), or raise minReplicas" .where (int .group.minAvailable) (int .group.minReplicas)) }}{{ end }}
{{- end }}
{{- end }}
