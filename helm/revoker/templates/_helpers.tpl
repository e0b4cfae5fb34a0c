{{- define "revoker.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "revoker.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 48 | trimSuffix "-" -}}
{{- else if contains (include "revoker.name" .) .Release.Name -}}
{{- .Release.Name | trunc 48 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "revoker.name" .) | trunc 48 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "revoker.selectorLabels" -}}
app.kubernetes.io/name: {{ include "revoker.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- /*
The labels of an object, from (list ROOT [COMPONENT [LABELS]]). Made as one dictionary, since two lists of
labels may name the same one. The chart's own come first: selectors depend on them.
*/ -}}
{{- define "revoker.labels" -}}
{{- $root := first . -}}
{{- $labels := include "revoker.selectorLabels" $root | fromYaml -}}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_") -}}
{{- $_ := set $labels "app.kubernetes.io/version" $root.Chart.AppVersion -}}
{{- $_ := set $labels "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- if gt (len .) 1 -}}
  {{- with index . 1 -}}
    {{- $_ := set $labels "app.kubernetes.io/component" . -}}
  {{- end -}}
{{- end -}}
{{- if gt (len .) 2 -}}
  {{- $labels = merge $labels (index . 2) -}}
{{- end -}}
{{- toYaml (merge $labels (default dict $root.Values.commonLabels)) -}}
{{- end -}}

{{- define "revoker.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "revoker.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "revoker.image" -}}
{{- include "revoker.registry" . -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- /* What goes before the repository of every image. */ -}}
{{- define "revoker.registry" -}}
{{- with (.Values.global).imageRegistry -}}
{{- printf "%s/" (trimSuffix "/" .) -}}
{{- end -}}
{{- end -}}

{{- /* The pull secrets of a pod, from (list ROOT SECRETS): the global ones, by name or as objects, and its own. */ -}}
{{- define "revoker.pullSecrets" -}}
{{- $names := list -}}
{{- range concat (default list ((first .).Values.global).imagePullSecrets) (default list (last .)) -}}
  {{- if kindIs "string" . -}}
    {{- $names = append $names . -}}
  {{- else -}}
    {{- $names = append $names .name -}}
  {{- end -}}
{{- end -}}
{{- with uniq $names -}}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end -}}
{{- end -}}

{{- /* A security context without what a null in the values has removed. */ -}}
{{- define "revoker.securityContext" -}}
{{- $context := dict -}}
{{- range $key, $value := . -}}
  {{- if not (kindIs "invalid" $value) -}}
    {{- $_ := set $context $key $value -}}
  {{- end -}}
{{- end -}}
{{- toYaml $context -}}
{{- end -}}

{{- /*
The security context of the trial Valkey's pod. A uid or gid that is null for the service is not set here
either: OpenShift gives each namespace its own. `helm upgrade --reuse-values` from 0.1 has no such value.
*/ -}}
{{- define "revoker.valkeyPodSecurityContext" -}}
{{- $default := dict "runAsNonRoot" true "runAsUser" 999 "runAsGroup" 1000 "fsGroup" 1000 "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- $context := default $default .Values.valkey.podSecurityContext -}}
{{- $ofService := default dict .Values.podSecurityContext -}}
{{- range list "runAsUser" "runAsGroup" "fsGroup" -}}
  {{- if kindIs "invalid" (index $ofService .) -}}
    {{- $context = omit $context . -}}
  {{- end -}}
{{- end -}}
{{- include "revoker.securityContext" $context -}}
{{- end -}}

{{- /* How a pod finds the store and the identity providers. */ -}}
{{- define "revoker.nameResolution" -}}
{{- $fields := dict -}}
{{- range $key := list "dnsPolicy" "dnsConfig" "hostAliases" -}}
  {{- with index $.Values $key -}}
    {{- $_ := set $fields $key . -}}
  {{- end -}}
{{- end -}}
{{- with $fields -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{- define "revoker.callersSecretName" -}}
{{- default (printf "%s-callers" (include "revoker.fullname" .)) .Values.callersSecret.existing -}}
{{- end -}}
{{- define "revoker.signingSecretName" -}}
{{- default (printf "%s-signing-keys" (include "revoker.fullname" .)) .Values.sessionKeys.existingSigningSecret -}}
{{- end -}}
{{- define "revoker.refreshSecretName" -}}
{{- default (printf "%s-refresh-key" (include "revoker.fullname" .)) .Values.sessionKeys.existingRefreshSecret -}}
{{- end -}}
{{- define "revoker.tlsSecretName" -}}
{{- default (printf "%s-tls" (include "revoker.fullname" .)) .Values.tls.existingSecret -}}
{{- end -}}
{{- define "revoker.valkeyName" -}}
{{- printf "%s-valkey" (include "revoker.fullname" .) -}}
{{- end -}}

{{- /* The Secret with the store's password or URL; empty where there is none. */ -}}
{{- define "revoker.redisSecretName" -}}
{{- if .Values.redis.existingSecret.name -}}
{{- .Values.redis.existingSecret.name -}}
{{- else if .Values.valkey.enabled -}}
{{- include "revoker.valkeyName" . -}}
{{- end -}}
{{- end -}}

{{- /* 256 random bits as base64url, as `revoker secret` makes them. */ -}}
{{- define "revoker.newSecret" -}}
{{- randBytes 32 | replace "+" "-" | replace "/" "_" | trimSuffix "=" -}}
{{- end -}}

{{- define "revoker.edgeName" -}}
{{- printf "%s-edge" (include "revoker.fullname" .) -}}
{{- end -}}

{{- define "revoker.canaryName" -}}
{{- printf "%s-canary" (include "revoker.fullname" .) -}}
{{- end -}}
{{- define "revoker.edgePodsName" -}}
{{- printf "%s-edge-pods" (include "revoker.fullname" .) -}}
{{- end -}}

{{- /* All issuers, as JSON: those of the values, and that of the canary. */ -}}
{{- define "revoker.issuers" -}}
{{- $issuers := default list .Values.config.issuers -}}
{{- if (.Values.canary).enabled -}}
  {{- $issuer := dict "name" "canary" "issuer" "urn:revoker:canary" "audiences" (list "urn:revoker:canary") -}}
  {{- $keys := dict "algorithms" (list "ES256") "jwks_file" "/etc/revoker/jwks/canary.json" -}}
  {{- $limits := dict "max_token_lifetime" 300 "restricted" true -}}
  {{- $issuers = append $issuers (merge $issuer $keys $limits) -}}
{{- end -}}
{{- toJson $issuers -}}
{{- end -}}

{{- /* All JWK Sets by file name, as JSON. */ -}}
{{- define "revoker.jwks" -}}
{{- $sets := deepCopy (default dict .Values.jwks) -}}
{{- if (.Values.canary).enabled -}}
  {{- $_ := set $sets "canary.json" (required "canary.jwks: give the contents of canary.jwks.json, which `revoker canary init` writes" .Values.canary.jwks) -}}
{{- end -}}
{{- toJson $sets -}}
{{- end -}}

{{- /* The callers of the values and the canary, as JSON. */ -}}
{{- define "revoker.callersWithCanary" -}}
{{- $callers := .Values.callers -}}
{{- if (.Values.canary).enabled -}}
  {{- $digest := required "canary.secretSha256: give the digest that `revoker canary init` prints" .Values.canary.secretSha256 -}}
  {{- $callers = append $callers (dict "name" "canary" "secret_sha256" (list $digest) "scopes" (list "introspect" "revoke") "issuers" (list "canary")) -}}
{{- end -}}
{{- toJson $callers -}}
{{- end -}}

{{- /* All callers, as JSON: the edges are added where they are not among those of the values. */ -}}
{{- define "revoker.callers" -}}
{{- $callers := include "revoker.callersWithCanary" . | fromJsonArray -}}
{{- if and (.Values.edge).enabled (not .Values.edge.existingSecret.name) -}}
  {{- $names := list -}}
  {{- range $callers -}}
    {{- $names = append $names .name -}}
  {{- end -}}
  {{- if not (has .Values.edge.caller $names) -}}
    {{- $callers = append $callers (dict "name" .Values.edge.caller "scopes" (list "feed" "introspect")) -}}
  {{- end -}}
{{- end -}}
{{- toJson $callers -}}
{{- end -}}

{{- /* The table of the listener, of the service and of edges. What is off and newer than 0.1 is left out:
otherwise an upgrade would replace pods for nothing. */ -}}
{{- define "revoker.server" -}}
{{- $server := merge (dict "port" .Values.ports.http "ops_port" .Values.ports.ops) .Values.config.server -}}
{{- range list "grpc_port" "trusted_proxies" -}}
  {{- if not (get $server .) -}}
    {{- $server = omit $server . -}}
  {{- end -}}
{{- end -}}
{{- if .Values.tls.enabled -}}
  {{- $_ := set $server "tls_cert_file" "/etc/revoker/tls/tls.crt" -}}
  {{- $_ := set $server "tls_key_file" "/etc/revoker/tls/tls.key" -}}
  {{- if .Values.tls.clientCASecret -}}
    {{- $_ := set $server "tls_client_ca_file" "/etc/revoker/client-ca/ca.crt" -}}
  {{- end -}}
{{- end -}}
[server]
{{- include "revoker.table" $server }}
{{- end -}}

{{- /* The configuration of an edge: issuers and callers are those of the service. */ -}}
{{- define "revoker.edgeToml" -}}
{{- $config := .Values.config -}}
{{- $scheme := ternary "https" "http" .Values.tls.enabled -}}
{{- $url := printf "%s://%s.%s.svc:%v" $scheme (include "revoker.fullname" .) .Release.Namespace .Values.service.port -}}
{{- $upstream := dict "url" (list $url) "secret_file" "/etc/revoker/upstream/secret" -}}
{{- if not .Values.tls.enabled -}}
  {{- $_ := set $upstream "insecure" true -}}
{{- end -}}
{{- $secrets := include "revoker.callerSecrets" . | fromJson -}}
{{ include "revoker.server" . }}

[upstream]
{{- include "revoker.table" (merge (deepCopy .Values.edge.upstream) $upstream) }}

[revocation]
{{- include "revoker.table" (pick $config.revocation "leeway" "max_token_lifetime") }}
{{- range include "revoker.issuers" . | fromJsonArray }}

[[issuers]]
{{- include "revoker.table" . }}
{{- end }}
{{- range include "revoker.callersWithCanary" . | fromJsonArray }}
{{- if has "introspect" .scopes }}

[[callers]]
{{- $caller := deepCopy . }}
{{- if hasKey $secrets .name }}
{{- $_ := set $caller "secret_sha256" (list (get $secrets .name | sha256sum)) }}
{{- end }}
{{- include "revoker.table" $caller }}
{{- end }}
{{- end }}
{{- with $config.sessions }}

[sessions]
{{- include "revoker.table" (pick . "issuer" "audiences" "revocable" "absolute_timeout") }}
{{- end }}
{{ end -}}

{{- /* The configuration of a canary. Its targets are the service and all edges, unless the values have others. */ -}}
{{- define "revoker.canaryToml" -}}
{{- $canary := .Values.canary -}}
{{- $scheme := ternary "https" "http" .Values.tls.enabled -}}
{{- $here := dict -}}
{{- if not .Values.tls.enabled -}}
  {{- $_ := set $here "insecure" true -}}
{{- end -}}
{{- $host := printf "%s.%s.svc" (include "revoker.fullname" .) .Release.Namespace -}}
{{- $url := printf "%s://%s:%v" $scheme $host .Values.service.port -}}
{{- $upstream := merge (deepCopy (default dict $canary.upstream)) (dict "url" $url) $here -}}
{{- $targets := $canary.targets -}}
{{- if not $targets -}}
  {{- $terms := merge (pick $upstream "ca_file") $here -}}
  {{- $targets = list (merge (dict "name" "service" "url" $url) $terms) -}}
  {{- if (.Values.edge).enabled -}}
    {{- $pods := printf "%s://%s.%s.svc:%v" $scheme (include "revoker.edgePodsName" .) .Release.Namespace .Values.ports.http -}}
    {{- $edges := dict "name" "edges" "url" $pods "all_addresses" true -}}
    {{- if .Values.tls.enabled -}}
      {{- $_ := set $edges "server_name" $host -}}{{- /* every certificate has it: edges follow the service by it */ -}}
    {{- end -}}
    {{- $targets = append $targets (merge $edges $terms) -}}
  {{- end -}}
{{- end -}}
[server]
{{- include "revoker.table" (dict "host" .Values.config.server.host "port" .Values.ports.ops) }}

[upstream]
{{- include "revoker.table" (merge $upstream (dict "secret_file" "/etc/revoker/canary/canary.secret")) }}

[canary]
{{- include "revoker.table" (merge (deepCopy (default dict $canary.rounds)) (dict "key_file" "/etc/revoker/canary/canary.key")) }}
{{- range $targets }}

[[targets]]
{{- include "revoker.table" . }}
{{- end }}
{{ end -}}

{{- /* Whether the whole configuration is somebody else's. */ -}}
{{- define "revoker.foreignConfig" -}}
{{- if or .Values.existingConfig.configMap .Values.existingConfig.secret -}}true{{- end -}}
{{- end -}}

{{- /*
The callers' secrets by name, as JSON: those that stand in the cluster, and new ones for callers that
have neither a secret there nor a digest in the values. Made once in a rendering, since the Secret and
the digests in the configuration must agree.
*/ -}}
{{- define "revoker.callerSecrets" -}}
{{- if not (hasKey .Values "madeCallerSecrets") -}}
  {{- $name := include "revoker.callersSecretName" . -}}
  {{- $standing := dict -}}
  {{- with lookup "v1" "Secret" .Release.Namespace $name -}}
    {{- $standing = default dict .data -}}
  {{- end -}}
  {{- $secrets := dict -}}
  {{- range include "revoker.callers" . | fromJsonArray -}}
    {{- if not .secret_sha256 -}}
      {{- if hasKey $standing .name -}}
        {{- $_ := set $secrets .name (get $standing .name | b64dec) -}}
      {{- else if $.Values.callersSecret.existing -}}
        {{- fail (printf "callersSecret.existing: the Secret %s has no item %s that could be read; make it first, or give the caller's secret_sha256" $name .name) -}}
      {{- else -}}
        {{- $_ := set $secrets .name (include "revoker.newSecret" $) -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
  {{- $_ := set .Values "madeCallerSecrets" $secrets -}}
{{- end -}}
{{- toJson .Values.madeCallerSecrets -}}
{{- end -}}

{{- /* One table of TOML: JSON's strings, numbers, booleans and flat lists are TOML's too. */ -}}
{{- define "revoker.table" -}}
{{- range $key, $value := . }}
{{- if not (kindIs "invalid" $value) }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "revoker.toml" -}}
{{- $config := .Values.config -}}
{{- $redis := omit $config.redis "url" -}}
{{- $secret := include "revoker.redisSecretName" . -}}
{{- if and .Values.redis.existingSecret.name .Values.redis.existingSecret.urlKey -}}
  {{- $_ := set $redis "url_file" "/etc/revoker/redis/url" -}}
{{- else -}}
  {{- $url := $config.redis.url -}}
  {{- if and (not $url) .Values.valkey.enabled -}}
    {{- $url = printf "redis://%s:6379/0" (include "revoker.valkeyName" .) -}}
  {{- end -}}
  {{- $_ := set $redis "url" (required "config.redis.url: give the store's URL, or try it with valkey.enabled=true" $url) -}}
  {{- if $secret -}}
    {{- $_ := set $redis "password_file" "/etc/revoker/redis/password" -}}
  {{- end -}}
{{- end -}}
{{- if and .Values.redis.existingSecret.name .Values.redis.existingSecret.sentinelPasswordKey -}}
  {{- $_ := set $redis "sentinel_password_file" "/etc/revoker/redis/sentinel-password" -}}
{{- end -}}
{{- if not (or $config.issuers $config.sessions) -}}
  {{- fail "config.issuers: at least one issuer, or config.sessions, is needed" -}}
{{- end -}}
{{- $secrets := include "revoker.callerSecrets" . | fromJson -}}
{{ include "revoker.server" . }}

[redis]
{{- include "revoker.table" $redis }}

[revocation]
{{- include "revoker.table" $config.revocation }}
{{- range include "revoker.issuers" . | fromJsonArray }}

[[issuers]]
{{- include "revoker.table" . }}
{{- end }}
{{- range include "revoker.callers" . | fromJsonArray }}

[[callers]]
{{- $caller := deepCopy . }}
{{- if hasKey $secrets .name }}
{{- $_ := set $caller "secret_sha256" (list (get $secrets .name | sha256sum)) }}
{{- end }}
{{- include "revoker.table" $caller }}
{{- end }}
{{- with $config.console }}

[console]
{{- $console := deepCopy . }}
{{- if (($.Values.console).existingSecret).name }}
{{- $_ := set $console "client_secret_file" "/etc/revoker/console/client-secret" }}
{{- end }}
{{- include "revoker.table" $console }}
{{- end }}
{{- with $config.sessions }}

[sessions]
{{- include "revoker.table" (merge (dict "signing_keys_dir" "/etc/revoker/signing-keys" "refresh_key_file" "/etc/revoker/refresh/refresh.key") .) }}
{{- end }}
{{ end -}}

{{- /* Seconds of preStop and of draining, whole. */ -}}
{{- define "revoker.drainSeconds" -}}
{{- ceil (default 0 .Values.config.server.drain_seconds) | int -}}
{{- end -}}

{{- define "revoker.volumeMounts" -}}
- name: config
  mountPath: /etc/revoker/config
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- if include "revoker.redisSecretName" . }}
- name: redis
  mountPath: /etc/revoker/redis
  readOnly: true
{{- end }}
{{- if .Values.redis.tlsSecret }}
- name: redis-tls
  mountPath: /etc/revoker/redis-tls
  readOnly: true
{{- end }}
{{- if include "revoker.jwks" . | fromJson }}
- name: jwks
  mountPath: /etc/revoker/jwks
  readOnly: true
{{- end }}
{{- if .Values.config.sessions }}
- name: signing-keys
  mountPath: /etc/revoker/signing-keys
  readOnly: true
- name: refresh-key
  mountPath: /etc/revoker/refresh
  readOnly: true
{{- end }}
{{- if ((.Values.console).existingSecret).name }}
- name: console
  mountPath: /etc/revoker/console
  readOnly: true
{{- end }}
{{- if .Values.tls.enabled }}
- name: tls
  mountPath: /etc/revoker/tls
  readOnly: true
{{- if .Values.tls.clientCASecret }}
- name: client-ca
  mountPath: /etc/revoker/client-ca
  readOnly: true
{{- end }}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "revoker.volumes" -}}
- name: config
{{- if .Values.existingConfig.secret }}
  secret:
    secretName: {{ .Values.existingConfig.secret }}
{{- else }}
  configMap:
    name: {{ default (include "revoker.fullname" .) .Values.existingConfig.configMap }}
{{- end }}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- with include "revoker.redisSecretName" . }}
- name: redis
  secret:
    secretName: {{ . }}
    items:
      {{- if and $.Values.redis.existingSecret.name $.Values.redis.existingSecret.urlKey }}
      - key: {{ $.Values.redis.existingSecret.urlKey }}
        path: url
      {{- else }}
      - key: {{ ternary $.Values.redis.existingSecret.passwordKey "password" (not (empty $.Values.redis.existingSecret.name)) }}
        path: password
      {{- end }}
      {{- if and $.Values.redis.existingSecret.name $.Values.redis.existingSecret.sentinelPasswordKey }}
      - key: {{ $.Values.redis.existingSecret.sentinelPasswordKey }}
        path: sentinel-password
      {{- end }}
{{- end }}
{{- with .Values.redis.tlsSecret }}
- name: redis-tls
  secret:
    secretName: {{ . }}
{{- end }}
{{- with (.Values.console).existingSecret }}
{{- if .name }}
- name: console
  secret:
    secretName: {{ .name }}
    items:
      - key: {{ default "client-secret" .key }}
        path: client-secret
{{- end }}
{{- end }}
{{- if include "revoker.jwks" . | fromJson }}
- name: jwks
  configMap:
    name: {{ include "revoker.fullname" . }}-jwks
{{- end }}
{{- if .Values.config.sessions }}
- name: signing-keys
  secret:
    secretName: {{ include "revoker.signingSecretName" . }}
- name: refresh-key
  secret:
    secretName: {{ include "revoker.refreshSecretName" . }}
    items:
      - key: refresh.key
        path: refresh.key
{{- end }}
{{- if .Values.tls.enabled }}
- name: tls
  secret:
    secretName: {{ include "revoker.tlsSecretName" . }}
{{- with .Values.tls.clientCASecret }}
- name: client-ca
  secret:
    secretName: {{ . }}
    items:
      - key: ca.crt
        path: ca.crt
{{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "revoker.env" -}}
- name: REVOKER_CONFIG
  value: /etc/revoker/config/revoker.toml
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "revoker.otelEnv" -}}
{{- with .Values.otel }}
{{- if .endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .endpoint | quote }}
- name: OTEL_TRACES_SAMPLER
  value: {{ .sampler | quote }}
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ .samplerArg | quote }}
{{- range $name, $value := .env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- /*
Declares a new store as new, unless the ConfigMap <release>-store says that this was done already. It
is looked at when the container runs, since not everything that renders this chart asks the cluster.
*/ -}}
{{- define "revoker.storeInitContainer" -}}
name: store-init
image: {{ include "revoker.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [store, init, --unless, /etc/revoker/store/initialised, --or-known]
env:
  {{- include "revoker.env" . | nindent 2 }}
{{- with .Values.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "revoker.securityContext" .Values.securityContext | nindent 2 }}
resources:
  requests: {cpu: 50m, memory: 96Mi}
  limits: {memory: 256Mi}
volumeMounts:
  {{- include "revoker.volumeMounts" . | nindent 2 }}
  - name: store
    mountPath: /etc/revoker/store
    readOnly: true
{{- end -}}

{{- define "revoker.storeVolume" -}}
- name: store
  configMap:
    name: {{ .Release.Name }}-store
    optional: true
{{- end -}}
