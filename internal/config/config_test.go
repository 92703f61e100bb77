package config_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	configv1 "github.com/kelpie-authz/kelpie/gen/kelpie/config/v1"
	"github.com/kelpie-authz/kelpie/internal/config"
)

func env(vars map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := vars[name]
		return v, ok
	}
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadDefaults(t *testing.T) {
	t.Parallel()
	got, err := config.Load(config.Sources{Flags: map[string]string{"policy": "p"}})
	if err != nil {
		t.Fatal(err)
	}
	want := &config.Config{
		Policy: "p", GRPCAddr: "127.0.0.1:7070", AdminAddr: "127.0.0.1:7072", HealthAddr: "127.0.0.1:7073",
		State: ".kelpie", LogLevel: slog.LevelInfo, MaxInFlight: 4096, MaxLimitKeys: 1_000_000,
		DrainTimeout: 15 * time.Second, GCPercent: 400,
		Redis: config.Redis{Prefix: "kelpie", Timeout: 100 * time.Millisecond},
		Audit: config.Audit{Mode: config.AuditWrites},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
}

func TestLoadPrecedence(t *testing.T) {
	t.Parallel()
	path := file(t, "policy: from-file\nstate: from-file\ngrpc_addr: 127.0.0.1:1\ndrain_timeout: 3s\nmax_in_flight: 7\ninsecure: true\nlog_level: warn\n")
	got, err := config.Load(config.Sources{
		File: path,
		Lookup: env(map[string]string{
			"KELPIE_STATE": "from-env", "KELPIE_GRPC_ADDR": "127.0.0.1:2", "KELPIE_MAX_IN_FLIGHT": "",
			"KELPIE_SERVICE_HOST": "10.0.0.1", "KELPIE_DRAIN_DELAY": "2s",
		}),
		Flags: map[string]string{"grpc_addr": "127.0.0.1:3", "insecure": "false", "drain_delay": "0s"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := config.Default()
	want.Policy, want.State, want.GRPCAddr = "from-file", "from-env", "127.0.0.1:3"
	want.DrainTimeout, want.MaxInFlight, want.LogLevel = 3*time.Second, 7, slog.LevelWarn
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLoadFileFromEnvironment(t *testing.T) {
	t.Parallel()
	path := file(t, "policy: here\n")
	got, err := config.Load(config.Sources{Lookup: env(map[string]string{"KELPIE_CONFIG": path})})
	if err != nil {
		t.Fatal(err)
	}
	if got.Policy != "here" {
		t.Errorf("policy %q", got.Policy)
	}
}

func TestLoadFaults(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		yaml  string
		flags map[string]string
		env   map[string]string
		want  []string
	}{
		"no policy":         {want: []string{"policy: no policy directory"}},
		"unknown key":       {yaml: "policy: p\npolicies: q\n", want: []string{`config.yaml:2:1: there is no key "policies"`}},
		"camel case":        {yaml: "policy: p\ngrpcAddr: 127.0.0.1:1\n", want: []string{`there is no key "grpcAddr"`}},
		"twice":             {yaml: "policy: p\npolicy: q\n", want: []string{"config.yaml:2:1: policy is given twice, first in line 1"}},
		"null":              {yaml: "policy:\n", want: []string{"config.yaml:1:1: policy has no value"}},
		"two documents":     {yaml: "policy: p\n---\npolicy: q\n", want: []string{"more than one YAML document"}},
		"a list":            {yaml: "- policy\n", want: []string{"config.yaml:1:1: is not a map"}},
		"bad YAML":          {yaml: "policy: [\n", want: []string{"config.yaml"}},
		"bad level":         {yaml: "policy: p\nlog_level: loud\n", want: []string{`config.yaml:2:12: log_level: "loud" is not known; write debug, info, warn or error`}},
		"bad duration":      {yaml: "policy: p\ndrain_timeout: soon\n", want: []string{`config.yaml:2:16: drain_timeout: "soon" is not a duration; write a number and its unit, such as 100ms, 15s or 2m`}},
		"too long a drain":  {yaml: "policy: p\ndrain_timeout: 601s\n", want: []string{"config.yaml:2:16: drain_timeout: 601s is out of bounds; write more than 0s and at most 600s"}},
		"bad env":           {env: map[string]string{"KELPIE_INSECURE": "maybe"}, want: []string{`KELPIE_INSECURE: "maybe" is neither true nor false`}},
		"bad flag":          {flags: map[string]string{"max_in_flight": "-1"}, want: []string{"--max-in-flight: \"-1\" is not a whole number"}},
		"bad flag duration": {flags: map[string]string{"drain_delay": "1"}, want: []string{"--drain-delay"}},
		"negative delay":    {flags: map[string]string{"policy": "p", "drain_delay": "-1s"}, want: []string{"--drain-delay: -1s is out of bounds; write 0s to 600s"}},
		"no such flag key":  {flags: map[string]string{"grpc-addr": "x"}, want: []string{`there is no such key`}},
		"address":           {flags: map[string]string{"policy": "p", "grpc_addr": "7070"}, want: []string{`grpc_addr: "7070" is not an address`}},
		"port":              {flags: map[string]string{"policy": "p", "health_addr": "127.0.0.1:70000"}, want: []string{"health_addr:"}},
		"relative socket":   {flags: map[string]string{"policy": "p", "grpc_addr": "unix:kelpie.sock"}, want: []string{"unix:///absolute/path"}},
		"key without cert":  {flags: map[string]string{"policy": "p", "tls_key": "k"}, want: []string{"TLS needs both"}},
		"CA without TLS":    {flags: map[string]string{"policy": "p", "client_ca": "k"}, want: []string{"client_ca:"}},
		"off loopback": {
			flags: map[string]string{"policy": "p", "grpc_addr": "0.0.0.0:7070", "admin_addr": "[::]:7072"},
			want:  []string{"grpc_addr: 0.0.0.0:7070 is not a loopback address", "admin_addr: [::]:7072 is not a loopback address", "insecure"},
		},
		"a name is not local": {flags: map[string]string{"policy": "p", "grpc_addr": "kelpie.example.com:7070"}, want: []string{"grpc_addr:"}},
		"redis settings without redis": {
			flags: map[string]string{"policy": "p", "redis_password_file": "f", "redis_sentinel_password_file": "f", "redis_ca": "f", "redis_cert": "f", "redis_key": "f"},
			want: []string{
				"redis_password_file: is set, but redis is not", "redis_sentinel_password_file: is set", "redis_ca: is set", "redis_cert: is set", "redis_key: is set",
			},
		},
		"redis key without cert": {flags: map[string]string{"policy": "p", "redis": "rediss://h", "redis_key": "k"}, want: []string{"redis_cert, redis_key: one is set without the other"}},
		"redis CA without TLS":   {flags: map[string]string{"policy": "p", "redis": "redis://h", "redis_ca": "c"}, want: []string{"redis_ca, redis_cert: TLS is off; write rediss://"}},
		"two redis passwords": {
			flags: map[string]string{"policy": "p", "redis": "redis://h", "redis_password_file": "f", "redis_sentinel_password_file": "g"},
			env:   map[string]string{"KELPIE_REDIS_PASSWORD": "hunter2", "KELPIE_REDIS_SENTINEL_PASSWORD": "hunter2"},
			want:  []string{"redis_password_file: KELPIE_REDIS_PASSWORD is set too", "redis_sentinel_password_file: KELPIE_REDIS_SENTINEL_PASSWORD is set too"},
		},
		"redis password as a flag":   {flags: map[string]string{"policy": "p", "redis_password": "hunter2"}, want: []string{"there is no such key"}},
		"redis password in a file":   {yaml: "policy: p\nredis_password: hunter2\n", want: []string{`there is no key "redis_password"`}},
		"redis prefix with a colon":  {flags: map[string]string{"policy": "p", "redis_prefix": "a:b"}, want: []string{`--redis-prefix: "a:b" cannot begin a key; write 1 to 32 letters`}},
		"redis prefix too long":      {flags: map[string]string{"policy": "p", "redis_prefix": strings.Repeat("x", 33)}, want: []string{"--redis-prefix:", "1 to 32 letters"}},
		"redis timeout too short":    {flags: map[string]string{"policy": "p", "redis_timeout": "4ms"}, want: []string{"--redis-timeout: 4ms is out of bounds; write 5ms to 5s"}},
		"redis timeout too long":     {yaml: "policy: p\nredis_timeout: 5.1s\n", want: []string{"config.yaml:2:16: redis_timeout: 5.1s is out of bounds; write 5ms to 5s"}},
		"redis switch":               {flags: map[string]string{"policy": "p", "redis_coalescing": "yes"}, want: []string{`--redis-coalescing: "yes" is not known; write on or off`}},
		"redis switch in a variable": {env: map[string]string{"KELPIE_REDIS_DENY_CACHE": "1"}, want: []string{`KELPIE_REDIS_DENY_CACHE: "1" is not known; write on or off`}},
		"redis timeout without unit": {yaml: "policy: p\nredis_timeout: 100\n", want: []string{`config.yaml:2:16: redis_timeout: "100" is not a duration; write a number and its unit, such as 100ms`}},
		"several in a file": {
			yaml: "policy: p\nredis_prefix: \"a:b\"\nredis_timeout: 1ms\nredis_coalescing: true\ninsecure: yes\nmax_in_flight: many\nstate: [a]\n",
			want: []string{
				`config.yaml:2:15: redis_prefix: "a:b" cannot begin a key`, "config.yaml:3:16: redis_timeout: 1ms is out of bounds",
				`config.yaml:4:19: redis_coalescing: "true" is not known`, `config.yaml:5:11: insecure: "yes" is neither true nor false`,
				`config.yaml:6:16: max_in_flight: "many" is not a whole number`, "config.yaml:7:8: state: is not a single value",
			},
		},
		"a bad value that a flag beats": {
			yaml: "policy: p\nredis_timeout: 1ms\n", flags: map[string]string{"redis_timeout": "1s"}, want: []string{"config.yaml:2:16: redis_timeout: 1ms is out of bounds"},
		},
		"redis tuning without redis": {
			flags: map[string]string{"policy": "p", "redis_prefix": "kelpie", "redis_coalescing": "off"},
			yaml:  "redis_timeout: 100ms\n", env: map[string]string{"KELPIE_REDIS_DENY_CACHE": "on"},
			want: []string{
				"redis_prefix: is set, but redis is not, so each replica would count by itself; name where Redis is (--redis, KELPIE_REDIS), or leave this out",
				"redis_timeout: is set, but redis is not", "redis_coalescing: is set, but redis is not", "redis_deny_cache: is set, but redis is not",
			},
		},
		"approvers' certificates without TLS": {
			flags: map[string]string{"policy": "p", "approver_client_ca": "ca"},
			want:  []string{"approver_client_ca: certificates need TLS; set tls_cert and tls_key too"},
		},
		"a provider without an audience": {
			flags: map[string]string{"policy": "p", "approver_oidc_issuer": "https://login.example.com"},
			want:  []string{"approver_oidc_audience: is missing; name the client or API that only the log-ins of approvers are made for"},
		},
		"an audience without a provider": {
			flags: map[string]string{"policy": "p", "approver_oidc_audience": "kelpie"},
			want:  []string{"approver_oidc_issuer: is missing, and other approver_oidc keys are set; name the identity provider"},
		},
		"an approvals' key without redis": {
			flags: map[string]string{"policy": "p", "approvals_key_file": "k"},
			want:  []string{"approvals_key_file: is set, but redis is not, so each replica would keep approvals by itself; name where Redis is (--redis, KELPIE_REDIS), or leave this out"},
		},
		"redis passwords without redis": {
			env:  map[string]string{"KELPIE_POLICY": "p", "KELPIE_REDIS_PASSWORD": "hunter2", "KELPIE_REDIS_SENTINEL_PASSWORD": "hunter2"},
			want: []string{"KELPIE_REDIS_PASSWORD: is set, but redis is not", "KELPIE_REDIS_SENTINEL_PASSWORD: is set, but redis is not"},
		},
		"without redis and without a policy": {flags: map[string]string{"redis_ca": "f"}, want: []string{"policy: no policy directory", "redis_ca: is set"}},
		"several at once": {
			flags: map[string]string{"grpc_addr": "x", "admin_addr": "y", "tls_cert": "c"},
			want:  []string{"policy:", "grpc_addr:", "admin_addr:", "TLS needs both"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src := config.Sources{Flags: tc.flags, Lookup: env(tc.env)}
			if tc.yaml != "" {
				src.File = file(t, tc.yaml)
			}
			cfg, err := config.Load(src)
			if err == nil {
				t.Fatalf("loaded %+v", cfg)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error lacks %q:\n%v", want, err)
				}
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error tells a password:\n%v", err)
			}
		})
	}
}

// What is empty counts as not set, also where there is no redis.
func TestEmptyRedisVariables(t *testing.T) {
	t.Parallel()
	_, err := config.Load(config.Sources{Lookup: env(map[string]string{
		"KELPIE_POLICY": "p", "KELPIE_REDIS_PASSWORD": "", "KELPIE_REDIS_TIMEOUT": "", "KELPIE_REDIS": "",
	})})
	if err != nil {
		t.Error(err)
	}
}

// Every rule of the schema is told in words, and not in those of the validator.
func TestRulesAreTold(t *testing.T) {
	t.Parallel()
	rules := 0
	fields := (&configv1.Config{}).ProtoReflect().Descriptor().Fields()
	for i, key := range config.Keys() {
		if !proto.HasExtension(fields.Get(i).Options(), validate.E_Field) {
			continue
		}
		rules++
		bad := map[string]string{"uint32": "4294967295", "message": "9000s", "string": strings.Repeat("?", 5000)}[fields.Get(i).Kind().String()]
		if key.Name == "audit_keep_age" {
			bad = "59m"
		}
		if key.Name == "approver_oidc_max_age" {
			bad = "59s"
		}
		_, err := config.Load(config.Sources{Flags: map[string]string{"policy": "p", key.Name: bad}})
		if err == nil || !strings.Contains(err.Error(), "--"+key.Flag+": ") || !regexp.MustCompile("; (write|shorten) ").MatchString(err.Error()) {
			t.Errorf("%s: %v", key.Name, err)
		}
	}
	if rules < 9 {
		t.Errorf("only %d keys have rules", rules)
	}
}

func TestHealthMayBeOffLoopback(t *testing.T) {
	t.Parallel()
	if _, err := config.Load(config.Sources{Flags: map[string]string{"policy": "p", "health_addr": "0.0.0.0:7073"}}); err != nil {
		t.Error(err)
	}
}

func TestOffLoopbackAllowed(t *testing.T) {
	t.Parallel()
	for name, extra := range map[string]map[string]string{
		"insecure": {"insecure": "true"},
		"TLS":      {"tls_cert": "c", "tls_key": "k"},
	} {
		flags := map[string]string{"policy": "p", "grpc_addr": "0.0.0.0:7070"}
		maps.Copy(flags, extra)
		if _, err := config.Load(config.Sources{Flags: flags}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLocal(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]bool{
		"127.0.0.1:1": true, "127.9.9.9:1": true, "[::1]:1": true, "localhost:1": true, "unix:///x": true,
		"[::ffff:127.0.0.1]:1": true, "0.0.0.0:1": false, ":1": false, "[::]:1": false, "10.0.0.1:1": false,
		"example.com:1": false, "nonsense": false,
	} {
		if got := config.Local(addr); got != want {
			t.Errorf("Local(%q) = %v", addr, got)
		}
	}
}

// Every field of the schema is a key with a flag, a variable, a sentence, and a way to set it.
func TestKeysCoverTheSchema(t *testing.T) {
	t.Parallel()
	keys := config.Keys()
	fields := (&configv1.Config{}).ProtoReflect().Descriptor().Fields()
	if len(keys)+len(config.FileKeys()) != fields.Len() {
		t.Fatalf("%d keys for %d fields", len(keys), fields.Len())
	}
	samples := map[string]string{"bool": "true", "uint32": "9", "message": "9s"}
	for i, key := range keys {
		if key.Usage == "" {
			t.Errorf("%s has no usage", key.Name)
		}
		sample, ok := samples[fields.Get(i).Kind().String()]
		switch {
		case key.Name == "log_level":
			sample = "debug"
		case strings.HasSuffix(key.Name, "_addr"):
			sample = "127.0.0.1:9"
		case key.Name == "redis_coalescing" || key.Name == "redis_deny_cache" || key.Name == "redis_leases":
			sample = "off"
		case key.Name == "audit":
			sample = "async"
		case key.Name == "audit_keep_age":
			sample = "48h"
		case key.Name == "redis_timeout":
			sample = "1s"
		case key.Name == "approver_oidc_max_age":
			sample = "1h"
		case !ok:
			sample = "text"
		}
		flags := map[string]string{"policy": "p", "tls_cert": "c", "tls_key": "k"}
		if strings.HasPrefix(key.Name, "redis_") || key.Name == "approvals_key_file" {
			flags["redis"] = "rediss://127.0.0.1"
		}
		if key.Name == "redis_cert" || key.Name == "redis_key" {
			flags["redis_cert"], flags["redis_key"] = "c", "k"
		}
		if strings.HasPrefix(key.Name, "approver_oidc_") {
			flags["approver_oidc_issuer"], flags["approver_oidc_audience"] = "https://login.example.com", "kelpie"
		}
		base, err := config.Load(config.Sources{Flags: flags})
		if err != nil {
			t.Fatal(err)
		}
		got, err := config.Load(config.Sources{Flags: flags, Lookup: env(map[string]string{key.Env: sample})})
		if err != nil {
			t.Errorf("%s=%s: %v", key.Env, sample, err)
			continue
		}
		if _, fixed := flags[key.Name]; !fixed && cmp.Equal(base, got) {
			t.Errorf("%s changes nothing in Config", key.Env)
		}
	}
}

func TestRedis(t *testing.T) {
	t.Parallel()
	got, err := config.Load(config.Sources{
		File: file(t, "policy: p\nredis: rediss-sentinel://app@a,b/m\nredis_deny_cache: \"off\"\nredis_coalescing: off\nredis_prefix: team.a-b_c\nredis_timeout: 0.005s\n"),
		Lookup: env(map[string]string{
			"KELPIE_REDIS_PASSWORD_FILE": "pw", "KELPIE_REDIS_SENTINEL_PASSWORD": "hunter2",
			"KELPIE_REDIS_CA": "ca", "KELPIE_REDIS_CERT": "cert", "KELPIE_REDIS_KEY": "key",
		}),
		Flags: map[string]string{"redis_deny_cache": "on"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := config.Redis{
		URL: "rediss-sentinel://app@a,b/m", PasswordFile: "pw", SentinelPassword: "hunter2", CA: "ca", Cert: "cert", Key: "key",
		Prefix: "team.a-b_c", Timeout: 5 * time.Millisecond, NoCoalescing: true,
	}
	if diff := cmp.Diff(want, got.Redis); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A secret is not printed, however one tries.
func TestSecretIsHidden(t *testing.T) {
	t.Parallel()
	cfg := config.Redis{Password: "hunter2", SentinelPassword: "hunter2"}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		fmt.Fprintf(&out, verb+"\n", cfg)
		fmt.Fprintf(&out, verb+"\n", cfg.Password)
		fmt.Fprintf(&out, verb+"\n", &cfg)
	}
	text, err := json.Marshal(map[string]config.Secret{"password": cfg.Password})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(text)
	slog.New(slog.NewTextHandler(&out, nil)).Info("", "cfg", cfg, "password", cfg.Password)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("", "cfg", cfg, "password", cfg.Password)
	if s := strings.ToLower(out.String()); strings.Contains(s, "hunter2") || strings.Contains(s, "68756e74657232") {
		t.Errorf("a secret was printed:\n%s", s)
	}
	if got := config.Secret("").String(); got != "" {
		t.Errorf("no secret is shown as %q", got)
	}
}
