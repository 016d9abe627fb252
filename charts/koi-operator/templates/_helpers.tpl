{{/* Name part of all objects. */}}
{{- define "koi.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Full name of all objects: the release's name, with the chart's name unless the one holds the other. */}}
{{- define "koi.fullname" -}}
{{- $name := include "koi.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains .Release.Name $name -}}
{{- $name -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Name of cluster-scoped objects: two releases of one name in two namespaces must not meet. */}}
{{- define "koi.clusterName" -}}
{{- printf "%s:%s" .Release.Namespace (include "koi.fullname" .) -}}
{{- end -}}

{{/* The same for kinds whose names must be DNS names. */}}
{{- define "koi.clusterDnsName" -}}
{{- printf "%s.%s" (include "koi.fullname" .) .Release.Namespace -}}
{{- end -}}

{{- define "koi.selectorLabels" -}}
app.kubernetes.io/name: {{ include "koi.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "koi.labels" -}}
{{ include "koi.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: koi
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "koi.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "koi.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "koi.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The one value that has no sensible default. */}}
{{- define "koi.clusterId" -}}
{{- required "clusterId is required: an id for this installation, unique in the AWS account and never changed afterwards (a-z, 0-9 and -, at most 63). For example: --set clusterId=prod-eu" .Values.clusterId -}}
{{- end -}}

{{/* YAML reads a bare `off` as false. */}}
{{- define "koi.reap" -}}
{{- if kindIs "bool" .Values.operator.reap -}}off{{- else -}}{{ .Values.operator.reap }}{{- end -}}
{{- end -}}

{{/* The same. */}}
{{- define "koi.awsRate" -}}
{{- if kindIs "bool" .Values.operator.awsRate -}}off{{- else -}}{{ .Values.operator.awsRate }}{{- end -}}
{{- end -}}

{{/* Not empty where the operator knows a gateway artifact: URL and checksum come together. */}}
{{- define "koi.artifact" -}}
{{- $artifact := .Values.gateway.artifact -}}
{{- if ne (empty $artifact.url) (empty $artifact.sha256) -}}
{{- fail "gateway.artifact.url and gateway.artifact.sha256 go together: set both, or none" -}}
{{- end -}}
{{- $artifact.url -}}
{{- end -}}

{{/* Rights on what agents live from, in every namespace that is looked after. */}}
{{- define "koi.agentRules" -}}
# patch is for metadata.finalizers alone: Kubernetes has no subresource for them. That spec stays as people wrote it is held by the
# admission policy (guard.enabled), since RBAC knows no fields.
- apiGroups: [skykoi.io]
  resources: [koiagents]
  verbs: [get, list, watch, patch]
- apiGroups: [skykoi.io]
  resources: [koiagents/status]
  verbs: [get, patch]
# Owner references with blockOwnerDeletion, where the cluster checks who may set them.
- apiGroups: [skykoi.io]
  resources: [koiagents/finalizers]
  verbs: [update]
# The Secret <agent>-gateway stands beside each KoiAgent. RBAC can select neither by label nor by a pattern of names, so this reads
# every Secret of these namespaces: use watchNamespace where that is too much. No delete: the garbage collector follows the owner.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch]
# spec.workspace.configMapRef
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
