{{/* What all of Headrace's containers are told: processes of Serve must agree on the first ones (headrace/local/ray/head.py). */}}
{{- define "headrace.env" -}}
- {name: RAY_SERVE_THROUGHPUT_OPTIMIZED, value: "1"}
- {name: RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP, value: "1"}
- {name: RAY_SERVE_ENABLE_DIRECT_INGRESS, value: "0"}
- {name: RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH, value: "2147483647"}
- {name: __RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR, value: deployments.serving.worker_setup.set_up}
- {name: RAY_ROTATION_MAX_BYTES, value: "16777216"}
- {name: RAY_ROTATION_BACKUP_COUNT, value: "1"}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
- {name: HEADRACE_LOG_FORM, value: {{ .Values.logs.form }}}
- {name: HEADRACE_LOG_LEVEL, value: {{ .Values.logs.level }}}
- {name: HEADRACE_HOME, value: /var/lib/headrace/home}
- {name: HEADRACE_ARTIFACT_CACHE, value: /var/lib/headrace/cache}
{{- with .Values.kafka.bootstrapServers }}
- {name: KAFKA_BOOTSTRAP_SERVERS, value: {{ quote . }}}
{{- end }}
{{- if .Values.redis.enabled }}
# How long what serves outlives a head that is away, and how soon Serve's control gives up on it.
- {name: RAY_gcs_rpc_server_reconnect_timeout_s, value: "600"}
- {name: RAY_SERVE_KV_TIMEOUT_S, value: "5"}
{{- end }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "headrace.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
# Keys are their owner's alone: a volume that has been taken up once is left as it is.
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "headrace.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "headrace.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: ray-logs, mountPath: /tmp/ray}
- {name: shared-mem, mountPath: /dev/shm}
- {name: home, mountPath: /var/lib/headrace}
{{- if .Values.gateway.tls.secretName }}
- {name: tls, mountPath: /etc/headrace/tls, readOnly: true}
{{- end }}
{{- end }}

{{/* KubeRay would give the last two to the Ray container alone; it takes those of these names. */}}
{{- define "headrace.volumes" -}}
- {name: tmp, emptyDir: {}}
- {name: ray-logs, emptyDir: {}}
- name: shared-mem
  emptyDir: {medium: Memory, sizeLimit: {{ .resources.memory }}}
{{- if .root.Values.gateway.tls.secretName }}
- name: tls
  secret: {secretName: {{ .root.Values.gateway.tls.secretName }}, defaultMode: 0440}
{{- end }}
{{- end }}

{{- define "headrace.place" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* A worker Pod. `group` has its values, `name` its name, `gateway` whether callers come in there. */}}
{{- define "headrace.workerTemplate" -}}
{{- $v := .root.Values }}
metadata:
  labels: {{- include "headrace.labels" .root | nindent 4 }}
spec:
  serviceAccountName: {{ include "headrace.name" .root }}
  automountServiceAccountToken: false
  # Time to hand over, for gateways' last answers, and for Ray to end.
  terminationGracePeriodSeconds: {{ add .group.drainSeconds 60 }}
  securityContext: {{- include "headrace.podSecurity" .root | nindent 4 }}
  {{- with $v.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {ray.io/cluster: {{ include "headrace.name" $.root }}, ray.io/group: {{ $.name }}}
    {{- end }}
  {{- include "headrace.place" .group | nindent 2 }}
  containers:
    - name: ray
      image: {{ .group.image | default (include "headrace.image" .root) }}
      imagePullPolicy: {{ $v.image.pullPolicy }}
      env: {{- include "headrace.env" .root | nindent 8 }}
      {{- with $v.envFrom }}
      envFrom: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- $has := merge (dict) .group.resources }}
      {{- if gt (int .group.gpus) 0 }}{{ $_ := set $has .group.gpuResource .group.gpus }}{{ end }}
      resources: {requests: {{ toJson $has }}, limits: {{ toJson $has }}}
      securityContext: {{- include "headrace.containerSecurity" .root | nindent 8 }}
      {{- if .gateway }}
      ports:
        - {name: http, containerPort: {{ .group.httpPort }}}
        - {name: grpc, containerPort: {{ .group.grpcPort }}}
      # A gateway that answers. Not whether every model does: one that fails must not take all others from their callers.
      readinessProbe:
        httpGet: {path: /v2/health/live, port: http, scheme: {{ include "headrace.scheme" .root | upper }}}
        periodSeconds: 5
        timeoutSeconds: 3
        failureThreshold: 3
      {{- end }}
      lifecycle:
        # Serve starts elsewhere what is here, before it ends here.
        preStop: {exec: {command: [headrace, leave, --within, {{ .group.drainSeconds | quote }}]}}
      volumeMounts: {{- include "headrace.mounts" .root | nindent 8 }}
  volumes:
    {{- include "headrace.volumes" (dict "root" .root "resources" .group.resources) | nindent 4 }}
    - {name: home, emptyDir: {}}
{{- end }}
