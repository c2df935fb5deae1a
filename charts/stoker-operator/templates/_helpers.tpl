{{- define "stoker.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Room for the longest suffix, "-controller-manager", within the 63 characters of a Service's name. */}}
{{- define "stoker.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- default $full .Values.fullnameOverride | trunc 44 | trimSuffix "-" }}
{{- end }}

{{- define "stoker.selectorLabels" -}}
app.kubernetes.io/name: {{ include "stoker.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "stoker.labels" -}}
{{ include "stoker.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "stoker.manager" -}}
{{ include "stoker.fullname" . }}-controller-manager
{{- end }}

{{/* Where one of the receiver's secrets ("hmac", "token") lies: {name, key} as JSON, or nothing. */}}
{{- define "stoker.credential" -}}
{{- $credential := index .root.Values.webhookReceiver .kind }}
{{- if $credential.secretRef.name }}
{{- pick $credential.secretRef "name" "key" | toJson }}
{{- else if $credential.secret }}
{{- dict "name" (printf "%s-webhook-receiver" (include "stoker.fullname" .root)) "key" .kind | toJson }}
{{- end }}
{{- end }}

{{/* Whether a request may show a secret of this kind ("hmac", "token"): by the values, or by extraEnv. Else nothing. */}}
{{- define "stoker.asksFor" -}}
{{- include "stoker.credential" . }}
{{- $variable := get (dict "hmac" "WEBHOOK_HMAC_SECRET" "token" "WEBHOOK_BEARER_TOKEN") .kind }}
{{- range .root.Values.extraEnv }}
{{- if has .name (list $variable (printf "%s_FILE" $variable)) }}{{ .name }}{{ end }}
{{- end }}
{{- end }}

{{- define "stoker.image" -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}

{{/* As the restricted Pod Security Standard asks. */}}
{{- define "stoker.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "stoker.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
