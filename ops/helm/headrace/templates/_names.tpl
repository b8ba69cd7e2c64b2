{{/* The cluster's name: KubeRay takes 53 characters, and names of Services begin with a letter. */}}
{{- define "headrace.name" -}}
{{- if eq .Release.Name "headrace" }}headrace{{ else }}{{ printf "%s-headrace" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "headrace.labels" -}}
app.kubernetes.io/name: headrace
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "headrace.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "headrace.scheme" -}}{{ if .Values.gateway.tls.secretName }}https{{ else }}http{{ end }}{{- end }}

{{- define "headrace.host" -}}{{ include "headrace.name" . }}-gateway.{{ .Release.Namespace }}.svc{{- end }}

{{/* Of a group with its bounds: how many must stay; empty where none must. */}}
{{- define "headrace.minAvailable" -}}
{{- if kindIs "invalid" .minAvailable }}{{ if gt (int .minReplicas) 1 }}{{ sub (int .minReplicas) 1 }}{{ end }}
{{- else if gt (int .minAvailable) 0 }}{{ int .minAvailable }}{{ end }}
{{- end }}
