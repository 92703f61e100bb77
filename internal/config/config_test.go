package config_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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
		"bad level":         {yaml: "policy: p\nlog_level: loud\n", want: []string{"config.yaml:2", "log_level"}},
		"bad duration":      {yaml: "policy: p\ndrain_timeout: soon\n", want: []string{"config.yaml:2"}},
		"too long a drain":  {yaml: "policy: p\ndrain_timeout: 601s\n", want: []string{"drain_timeout"}},
		"bad env":           {env: map[string]string{"KELPIE_INSECURE": "maybe"}, want: []string{`KELPIE_INSECURE: "maybe" is neither true nor false`}},
		"bad flag":          {flags: map[string]string{"max_in_flight": "-1"}, want: []string{"--max-in-flight: \"-1\" is not a whole number"}},
		"bad flag duration": {flags: map[string]string{"drain_delay": "1"}, want: []string{"--drain-delay"}},
		"negative delay":    {flags: map[string]string{"policy": "p", "drain_delay": "-1s"}, want: []string{"drain_delay"}},
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
		"redis password as a flag":  {flags: map[string]string{"policy": "p", "redis_password": "hunter2"}, want: []string{"there is no such key"}},
		"redis password in a file":  {yaml: "policy: p\nredis_password: hunter2\n", want: []string{`there is no key "redis_password"`}},
		"redis prefix with a colon": {flags: map[string]string{"policy": "p", "redis_prefix": "a:b"}, want: []string{"redis_prefix"}},
		"redis prefix too long":     {flags: map[string]string{"policy": "p", "redis_prefix": strings.Repeat("x", 33)}, want: []string{"redis_prefix"}},
		"redis timeout too short":   {flags: map[string]string{"policy": "p", "redis_timeout": "4ms"}, want: []string{"redis_timeout"}},
		"redis timeout too long":    {yaml: "policy: p\nredis_timeout: 5.1s\n", want: []string{"config.yaml:2", "redis_timeout"}},
		"redis switch":              {flags: map[string]string{"policy": "p", "redis_coalescing": "yes"}, want: []string{"redis_coalescing"}},
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
	if len(keys) != fields.Len() {
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
		case key.Name == "redis_coalescing" || key.Name == "redis_deny_cache":
			sample = "off"
		case key.Name == "redis_timeout":
			sample = "1s"
		case !ok:
			sample = "text"
		}
		flags := map[string]string{"policy": "p", "tls_cert": "c", "tls_key": "k"}
		if strings.HasPrefix(key.Name, "redis_") {
			flags["redis"] = "rediss://127.0.0.1"
		}
		if key.Name == "redis_cert" || key.Name == "redis_key" {
			flags["redis_cert"], flags["redis_key"] = "c", "k"
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
