{{- define "upright.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Never "upright" alone: a Service of that name would set UPRIGHT_PORT in every pod that wants service links. */}}
{{- define "upright.fullname" -}}
{{- default (printf "%s-%s" .Release.Name (include "upright.name" .)) .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "upright.selector" -}}
app.kubernetes.io/name: {{ include "upright.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "upright.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "upright.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "upright.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "upright.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* An image's reference. The argument: root, image. */}}
{{- define "upright.image" -}}
{{- if .image.digest }}
{{- printf "%s@%s" .image.repository .image.digest }}
{{- else }}
{{- printf "%s:%s" .image.repository (default .root.Chart.AppVersion .image.tag) }}
{{- end }}
{{- end }}

{{- define "upright.scheme" -}}
{{- ternary "https" "http" (ne .Values.tls.secretName "") }}
{{- end }}

{{/* Seconds that a pod gets to end: longer than the service takes at most. */}}
{{- define "upright.grace" -}}
{{- add (ceil (default 5 (index .Values.settings "drain"))) (default 10 (index .Values.settings "shutdown")) 10 }}
{{- end }}

{{/* The volume of a bundle's source. The argument: name, bundle. */}}
{{- define "upright.bundleVolume" -}}
- name: {{ .name }}
{{- if eq .bundle.source "configMap" }}
  configMap:
    name: {{ required "a bundle by ConfigMap needs its name, as bundle.configMap" .bundle.configMap }}
{{- else if eq .bundle.source "imageVolume" }}
  image:
    reference: {{ required "a bundle by image volume needs bundle.imageVolume.reference" .bundle.imageVolume.reference }}
    pullPolicy: {{ .bundle.imageVolume.pullPolicy }}
{{- else if eq .bundle.source "claim" }}
  persistentVolumeClaim:
    claimName: {{ required "a bundle by claim needs the claim's name, as bundle.claim" .bundle.claim }}
    readOnly: true
{{- else if eq .bundle.source "url" }}
  emptyDir:
    sizeLimit: 64Mi
{{- end }}
{{- end }}

{{- define "upright.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* A probe of a path under /health. With client certificates the kubelet, which has none, can only connect. */}}
{{- define "upright.probe" -}}
{{- if .root.Values.tls.clientCa.secretName -}}
tcpSocket:
  port: http
{{- else -}}
httpGet:
  path: {{ .path }}
  port: http
  scheme: {{ include "upright.scheme" .root | upper }}
{{- end }}
{{- end }}

{{- define "upright.arguments" -}}
- {{ printf "--host=%s" .root.Values.host | quote }}
- --port={{ .root.Values.ports.http }}
{{- if .root.Values.grpc.enabled }}
- --grpc-port={{ .root.Values.ports.grpc }}
{{- end }}
{{- if ne .bundle.source "image" }}
- {{ list "--bundle=/bundle" .bundle.path | compact | join "/" | quote }}
- --bundle-wait={{ .bundle.waitSeconds }}
{{- end }}
{{- if .bundle.verifyKey.secretName }}
- {{ printf "--verify-key=/etc/upright/verify/%s" .bundle.verifyKey.key | quote }}
{{- end }}
{{- with .root.Values.shadow }}
{{- if ne .source "none" }}
- {{ list "--shadow=/shadow" .path | compact | join "/" | quote }}
{{- end }}
{{- end }}
{{- with .bundle.watchSeconds }}
- --watch={{ . }}
{{- end }}
{{- with .root.Values.keys }}
{{- if .secretName }}
- {{ printf "--keys=/etc/upright/keys/%s" .key | quote }}
{{- end }}
{{- end }}
{{- with .root.Values.tls }}
{{- if .secretName }}
- --tls-cert=/etc/upright/tls/tls.crt
- --tls-key=/etc/upright/tls/tls.key
{{- end }}
{{- if .clientCa.secretName }}
- {{ printf "--tls-client-ca=/etc/upright/client-ca/%s" .clientCa.key | quote }}
{{- end }}
{{- end }}
{{- range $name, $value := .root.Values.settings }}
{{- if kindIs "bool" $value }}
{{- if $value }}
- --{{ $name }}
{{- end }}
{{- else if kindIs "slice" $value }}
{{- range $value }}
- {{ printf "--%s=%s" $name . | quote }}
{{- end }}
{{- else if kindIs "string" $value }}
- {{ printf "--%s=%s" $name $value | quote }}
{{- else if not (kindIs "invalid" $value) }}
- --{{ $name }}={{ toJson $value }}
{{- end }}
{{- end }}
{{- end }}

{{/* What cannot go together is refused here, before a pod refuses it. */}}
{{- define "upright.check" -}}
{{- $workers := default 1 (index .Values.settings "workers") | int }}
{{- if and .Values.grpc.enabled (gt $workers 1) }}
{{- fail "settings.workers above 1 needs grpc.enabled=false: one process alone can have gRPC's port; more replicas do the same" }}
{{- end }}
{{- if and .Values.tls.clientCa.secretName (not .Values.tls.secretName) }}
{{- fail "tls.clientCa needs tls.secretName: only over TLS does a client show a certificate" }}
{{- end }}
{{- if and (eq .Values.autoscaling.kind "keda") (not .Values.autoscaling.keda.serverAddress) }}
{{- fail "autoscaling.kind keda needs autoscaling.keda.serverAddress, where Prometheus answers" }}
{{- end }}
{{- if and .Values.serviceMonitor.enabled .Values.keys.secretName (not .Values.serviceMonitor.credentials.secretName) }}
{{- fail "serviceMonitor with keys needs serviceMonitor.credentials: a Secret that holds a key of the scope metrics" }}
{{- end }}
{{- range $name := list "httpRoute" "grpcRoute" }}
{{- $route := index $.Values $name }}
{{- if and $route.enabled (not $route.parentRefs) }}
{{- fail (printf "%s needs %s.parentRefs: the Gateway that it belongs to" $name $name) }}
{{- end }}
{{- end }}
{{- if and .Values.grpcRoute.enabled (not .Values.grpc.enabled) }}
{{- fail "grpcRoute needs grpc.enabled" }}
{{- end }}
{{- end }}

{{/* A Deployment. The argument: root, component, name, replicas (none: an autoscaler has them), image, bundle. */}}
{{- define "upright.deployment" -}}
{{- $root := .root }}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "upright.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
spec:
  {{- if not (kindIs "invalid" .replicas) }}
  replicas: {{ .replicas }}
  {{- end }}
  revisionHistoryLimit: 5
  minReadySeconds: 5
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxSurge: 1
      maxUnavailable: 0
  selector:
    matchLabels:
      {{- include "upright.selector" $root | nindent 6 }}
      app.kubernetes.io/component: {{ .component }}
  template:
    metadata:
      labels:
        {{- include "upright.selector" $root | nindent 8 }}
        app.kubernetes.io/component: {{ .component }}
        {{- with $root.Values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $root.Values.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      serviceAccountName: {{ include "upright.serviceAccount" $root }}
      automountServiceAccountToken: false
      # A Service named "upright" would set UPRIGHT_PORT to tcp://…, which is no port.
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ include "upright.grace" $root }}
      {{- with $root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $root.Values.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      securityContext:
        {{- toYaml $root.Values.podSecurityContext | nindent 8 }}
      topologySpreadConstraints:
        {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
        - maxSkew: 1
          topologyKey: {{ . }}
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "upright.selector" $root | nindent 14 }}
              app.kubernetes.io/component: {{ $.component }}
          matchLabelKeys: [pod-template-hash]
        {{- end }}
      {{- if eq .bundle.source "url" }}
      initContainers:
        - name: fetch
          image: {{ include "upright.image" . }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          command: [python, -c]
          args:
            - |
              {{- $root.Files.Get "files/fetch_bundle.py" | nindent 14 }}
            - {{ required "a bundle by URL needs bundle.url.address" .bundle.url.address | quote }}
            - {{ required "a bundle by URL needs bundle.url.sha256, of the file" .bundle.url.sha256 | quote }}
            - /bundle
          securityContext:
            {{- include "upright.containerSecurity" $root | nindent 12 }}
          resources:
            {{- toYaml $root.Values.resources | nindent 12 }}
          volumeMounts:
            - name: bundle
              mountPath: /bundle
      {{- end }}
      containers:
        - name: upright
          image: {{ include "upright.image" . }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          args:
            {{- include "upright.arguments" . | nindent 12 }}
          {{- with $root.Values.env }}
          env:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          ports:
            - name: http
              containerPort: {{ $root.Values.ports.http }}
            {{- if $root.Values.grpc.enabled }}
            - name: grpc
              containerPort: {{ $root.Values.ports.grpc }}
            {{- end }}
          # Alive within a minute, also where its bundle comes late; then out of the Services after
          # 4 seconds, and started anew only after a minute: the slower must be the harder.
          startupProbe:
            {{- include "upright.probe" (dict "root" $root "path" "/health/live") | nindent 12 }}
            periodSeconds: 1
            timeoutSeconds: 1
            failureThreshold: 60
          readinessProbe:
            {{- include "upright.probe" (dict "root" $root "path" "/health/ready") | nindent 12 }}
            periodSeconds: 2
            timeoutSeconds: 1
            failureThreshold: 2
          livenessProbe:
            {{- include "upright.probe" (dict "root" $root "path" "/health/live") | nindent 12 }}
            periodSeconds: 10
            timeoutSeconds: 2
            failureThreshold: 6
          securityContext:
            {{- include "upright.containerSecurity" $root | nindent 12 }}
          resources:
            {{- toYaml $root.Values.resources | nindent 12 }}
          volumeMounts:
            - name: tmp
              mountPath: /tmp
            {{- if ne .bundle.source "image" }}
            - name: bundle
              mountPath: /bundle
              readOnly: true
            {{- end }}
            {{- if ne $root.Values.shadow.source "none" }}
            - name: shadow
              mountPath: /shadow
              readOnly: true
            {{- end }}
            {{- if .bundle.verifyKey.secretName }}
            - name: verify
              mountPath: /etc/upright/verify
              readOnly: true
            {{- end }}
            {{- if $root.Values.keys.secretName }}
            - name: keys
              mountPath: /etc/upright/keys
              readOnly: true
            {{- end }}
            {{- if $root.Values.tls.secretName }}
            - name: tls
              mountPath: /etc/upright/tls
              readOnly: true
            {{- end }}
            {{- if $root.Values.tls.clientCa.secretName }}
            - name: client-ca
              mountPath: /etc/upright/client-ca
              readOnly: true
            {{- end }}
            {{- with $root.Values.extraVolumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        - name: tmp
          emptyDir:
            sizeLimit: 64Mi
        {{- if ne .bundle.source "image" }}
        {{- include "upright.bundleVolume" (dict "name" "bundle" "bundle" .bundle) | nindent 8 }}
        {{- end }}
        {{- if ne $root.Values.shadow.source "none" }}
        {{- include "upright.bundleVolume" (dict "name" "shadow" "bundle" $root.Values.shadow) | nindent 8 }}
        {{- end }}
        {{- $secrets := dict "verify" .bundle.verifyKey "keys" $root.Values.keys "tls" $root.Values.tls "client-ca" $root.Values.tls.clientCa }}
        {{- range $name, $source := $secrets }}
        {{- if $source.secretName }}
        - name: {{ $name }}
          secret:
            secretName: {{ $source.secretName }}
            defaultMode: 0440
        {{- end }}
        {{- end }}
        {{- with $root.Values.extraVolumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $root.Values.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $root.Values.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $root.Values.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
{{- end }}

{{/* A Service. The argument: root, name, component, headless. */}}
{{- define "upright.service" -}}
{{- $root := .root }}
apiVersion: v1
kind: Service
metadata:
  name: {{ .name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "upright.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ ternary "headless" .component .headless }}
  {{- with $root.Values.service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- if .headless }}
  clusterIP: None
  {{- else }}
  type: {{ $root.Values.service.type }}
  {{- end }}
  selector:
    {{- include "upright.selector" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
  ports:
    - name: http
      port: {{ $root.Values.service.port }}
      targetPort: http
      appProtocol: {{ include "upright.scheme" $root }}
    {{- if $root.Values.grpc.enabled }}
    - name: grpc
      port: {{ $root.Values.service.grpcPort }}
      targetPort: grpc
      {{- /* In plain text a proxy must be told that it is HTTP/2; in TLS they agree on it. */}}
      appProtocol: {{ ternary "https" "kubernetes.io/h2c" (ne $root.Values.tls.secretName "") }}
    {{- end }}
{{- end }}

{{/* The backends of a route's rule. The argument: root, port, canary (all go there). */}}
{{- define "upright.backends" -}}
{{- $name := include "upright.fullname" .root }}
{{- $canary := .root.Values.canary }}
{{- if .canary }}
- name: {{ $name }}-canary
  port: {{ .port }}
{{- else }}
- name: {{ $name }}
  port: {{ .port }}
{{- if $canary.enabled }}
  weight: {{ sub 100 $canary.weight }}
- name: {{ $name }}-canary
  port: {{ .port }}
  weight: {{ $canary.weight }}
{{- end }}
{{- end }}
{{- end }}
