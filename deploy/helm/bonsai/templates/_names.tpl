{{- define "bonsai.name" -}}
{{ printf "%s-controller" .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end -}}
{{- define "bonsai.selector" -}}
app.kubernetes.io/name: bonsai
app.kubernetes.io/component: controller
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
{{- define "bonsai.labels" -}}
{{ include "bonsai.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}
{{- define "bonsai.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- define "bonsai.jobLabels" -}}
app.kubernetes.io/name: bonsai
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}
{{- define "bonsai.jobPod" -}}
restartPolicy: OnFailure
automountServiceAccountToken: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .job.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .job.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  seccompProfile: {type: RuntimeDefault}
volumes:
  - {name: work, emptyDir: {}}
  - {name: tmp, emptyDir: {}}
  {{- with .job.volume }}
  - name: training
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
{{- define "bonsai.jobContainer" -}}
image: {{ include "bonsai.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
envFrom:
  - secretRef: {name: {{ .root.Values.jobs.secret }}}
resources:
  requests: {cpu: {{ .cpus | quote }}, memory: {{ .job.memory | default "2Gi" | quote }}}
  limits: {cpu: {{ .cpus | quote }}, memory: {{ .job.memory | default "2Gi" | quote }}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: work, mountPath: /work}
  - {name: tmp, mountPath: /tmp}
  {{- if .job.volume }}
  - {name: training, mountPath: /training, readOnly: true}
  {{- end }}
{{- end -}}
