package app

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"

	"github.com/kelpie-authz/kelpie/internal/obs"
	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/pdp"
)

func env(pairs map[string]string) func(string) string {
	return func(key string) string { return pairs[key] }
}

const endpointKey = "OTEL_EXPORTER_OTLP_ENDPOINT"

// No error says what was written into a variable that may hold a secret.
func TestTraceVariablesRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	noPEM := filepath.Join(dir, "none.pem")
	testkit.WriteFile(t, noPEM, []byte("nothing"))
	good := "https://collector:4317"
	for _, tc := range []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{endpointKey: "collector:4317"}, endpointKey + " has no scheme"},
		{map[string]string{endpointKey: "http://collector"}, "has no port"},
		{map[string]string{endpointKey: "http://hunter2\x7f"}, "is not a URL"},
		{map[string]string{endpointKey: "grpc://collector:4317"}, "must begin with http://"},
		{map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://me:hunter2@collector"}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT has a user or a password"},
		{map[string]string{endpointKey: good, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "OTEL_EXPORTER_OTLP_PROTOCOL is \"http/protobuf\""},
		{map[string]string{endpointKey: good, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "smoke"}, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL is \"smoke\""},
		{map[string]string{endpointKey: good, "OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER is \"zipkin\""},
		{map[string]string{endpointKey: good, "OTEL_TRACES_SAMPLER": "sometimes"}, "OTEL_TRACES_SAMPLER is \"sometimes\""},
		{map[string]string{endpointKey: good, "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "10%"}, "OTEL_TRACES_SAMPLER_ARG"},
		{map[string]string{endpointKey: good, "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "NaN"}, "from 0 to 1"},
		{map[string]string{endpointKey: good, "OTEL_EXPORTER_OTLP_TIMEOUT": "10s"}, "write milliseconds"},
		{map[string]string{endpointKey: good, "OTEL_EXPORTER_OTLP_HEADERS": "a=1,hunter2"}, "OTEL_EXPORTER_OTLP_HEADERS: entry 2"},
		{map[string]string{endpointKey: good, "OTEL_EXPORTER_OTLP_HEADERS": "a=hunter2%zz"}, "entry 1"},
		{map[string]string{endpointKey: good, "OTEL_EXPORTER_OTLP_HEADERS": "a=hunter2%0ax"}, "entry 1"},
		{map[string]string{endpointKey: good, "OTEL_EXPORTER_OTLP_HEADERS": "grpc-timeout=hunter2"}, "entry 1"},
		{map[string]string{endpointKey: good, "OTEL_EXPORTER_OTLP_CERTIFICATE": noPEM}, "holds no certificate"},
		{map[string]string{endpointKey: good, "OTEL_EXPORTER_OTLP_CERTIFICATE": filepath.Join(dir, "gone")}, "OTEL_EXPORTER_OTLP_CERTIFICATE"},
		{map[string]string{endpointKey: good, "OTEL_EXPORTER_OTLP_CLIENT_KEY": noPEM}, "go together"},
		{map[string]string{endpointKey: good, "OTEL_EXPORTER_OTLP_CLIENT_KEY": noPEM, "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": noPEM}, "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE, "},
	} {
		_, err := readTraceSettings(env(tc.env))
		switch {
		case err == nil:
			t.Errorf("%v is taken", tc.env)
		case !strings.Contains(err.Error(), tc.want) || !strings.HasPrefix(err.Error(), "traces: ") || strings.Contains(err.Error(), "hunter2"):
			t.Errorf("%v: %v; want %q", tc.env, err, tc.want)
		}
	}
}

func TestTraceVariables(t *testing.T) {
	t.Parallel()
	for _, off := range []map[string]string{
		nil,
		{endpointKey: " "},
		{"OTEL_SERVICE_NAME": "x", "OTEL_EXPORTER_OTLP_PROTOCOL": "smoke"},
		{endpointKey: "http://c:1", "OTEL_SDK_DISABLED": "TRUE"},
		{endpointKey: "http://c:1", "OTEL_TRACES_EXPORTER": "none"},
	} {
		if s, err := readTraceSettings(env(off)); s != nil || err != nil {
			t.Errorf("%v: %v, %v; want no traces", off, s, err)
		}
	}
	ca := testkit.NewCA(t)
	cert, key := ca.Issue(t, testkit.Leaf{}).Write(t, t.TempDir())
	s, err := readTraceSettings(env(map[string]string{
		endpointKey: "http://other:1", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://collector/", "OTEL_EXPORTER_OTLP_TIMEOUT": "250",
		"OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer%20hunter2, x-tenant=7", "OTEL_EXPORTER_OTLP_CERTIFICATE": cert,
		"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": cert, "OTEL_EXPORTER_OTLP_CLIENT_KEY": key,
		"OTEL_TRACES_SAMPLER": "ParentBased_TraceIDRatio", "OTEL_TRACES_SAMPLER_ARG": "0.1", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
	}))
	if err != nil {
		t.Fatal(err)
	}
	if s.target != "collector" || s.tls == nil || s.tls.RootCAs == nil || len(s.tls.Certificates) != 1 || s.timeout.Milliseconds() != 250 || !s.gzip ||
		!slices.Equal(s.headers["authorization"], []string{"Bearer hunter2"}) || !slices.Equal(s.headers["x-tenant"], []string{"7"}) {
		t.Errorf("settings %+v", s)
	}
	c := collector{settings: s}
	if got := c.redact("no such key hunter2 (Bearer hunter2, Bearer%20hunter2)"); strings.Contains(got, "hunter2") {
		t.Errorf("redacted to %q", got)
	}
	if s, err := readTraceSettings(env(map[string]string{endpointKey: "unix:///run/otel.sock"})); err != nil || s.target != "unix:///run/otel.sock" || s.tls != nil {
		t.Errorf("a socket: %+v, %v", s, err)
	}
}

// Without traces nothing stands between the parts.
func TestNoTracesNoWrapper(t *testing.T) {
	t.Parallel()
	var none *traces
	recorder, svc := &obs.Recorder{}, &pdp.Service{}
	services := grpc.NewServer()
	t.Cleanup(services.Stop)
	if none.recorder(recorder) != pdp.Recorder(recorder) || none.decider(svc) != any(svc) || none.services(services) != grpc.ServiceRegistrar(services) {
		t.Error("something is wrapped without traces")
	}
	none.close(t.Context(), nil)
	if encoding.GetCompressor("gzip") != nil {
		t.Error("gRPC's gzip is linked in: every caller can send 8 MiB as 8 KiB")
	}
}
