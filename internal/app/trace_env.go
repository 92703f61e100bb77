package app

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
	"google.golang.org/grpc/metadata"
)

// traceSettings is what the environment says of the collector.
type traceSettings struct {
	endpointKey string // The variable that named the collector.
	target      string // For gRPC.
	host        string // For people.
	tls         *tls.Config
	headers     metadata.MD
	// secrets are the headers' values and the words of them, longest first.
	secrets []string
	timeout time.Duration
	gzip    bool
}

// traceEnv reads the variables of OTLP: one for traces alone beats the one for
// all signals, and one that is set to nothing is not set.
type traceEnv func(key string) string

func (get traceEnv) find(name string) (key, value string) {
	for _, key := range []string{"OTEL_EXPORTER_OTLP_TRACES_" + name, "OTEL_EXPORTER_OTLP_" + name} {
		if value := strings.TrimSpace(get(key)); value != "" {
			return key, value
		}
	}
	return "OTEL_EXPORTER_OTLP_" + name, ""
}

// readTraceSettings returns nil if there are to be no traces. Errors name the
// variable and never a header's value.
func readTraceSettings(getenv func(string) string) (*traceSettings, error) {
	get := traceEnv(getenv)
	key, endpoint := get.find("ENDPOINT")
	if endpoint == "" || strings.EqualFold(strings.TrimSpace(get("OTEL_SDK_DISABLED")), "true") {
		return nil, nil //nolint:nilnil // No traces are no error.
	}
	switch exporter := strings.TrimSpace(get("OTEL_TRACES_EXPORTER")); exporter {
	case "", "otlp":
	case "none":
		return nil, nil //nolint:nilnil // As above.
	default:
		return nil, fmt.Errorf("traces: OTEL_TRACES_EXPORTER is %q, and Kelpie knows otlp and none", exporter)
	}
	s := &traceSettings{endpointKey: key}
	for _, read := range []func(traceEnv) error{s.readProtocol, checkSampler, s.readHeaders, s.readTimeout} {
		if err := read(get); err != nil {
			return nil, fmt.Errorf("traces: %w", err)
		}
	}
	_, compression := get.find("COMPRESSION")
	s.gzip = compression == "gzip"
	if err := s.readEndpoint(get, endpoint); err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	return s, nil
}

func (*traceSettings) readProtocol(get traceEnv) error {
	if key, protocol := get.find("PROTOCOL"); protocol != "" && protocol != "grpc" {
		return fmt.Errorf("%s is %q, and Kelpie exports by grpc alone (mostly port 4317); "+
			"set OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc and the endpoint that fits", key, protocol)
	}
	return nil
}

// readEndpoint never says the endpoint, since people write passwords into it.
func (s *traceSettings) readEndpoint(get traceEnv, endpoint string) error {
	u, err := url.Parse(endpoint)
	switch {
	case err != nil:
		return fmt.Errorf("%s is not a URL; write http://HOST:4317, or https:// for TLS", s.endpointKey)
	case u.User != nil:
		return fmt.Errorf("%s has a user or a password in it; put credentials into OTEL_EXPORTER_OTLP_HEADERS", s.endpointKey)
	case strings.EqualFold(u.Scheme, "unix") && u.Path != "":
		s.target, s.host = "unix://"+u.Path, "unix://"+u.Path
		return nil
	case u.Hostname() == "":
		return fmt.Errorf("%s has no scheme or no host; write http://HOST:4317, or https:// for TLS", s.endpointKey)
	case strings.EqualFold(u.Scheme, "http") && u.Port() == "":
		return fmt.Errorf("%s has no port; write http://HOST:4317", s.endpointKey)
	}
	s.target, s.host = u.Host, u.Host
	switch strings.ToLower(u.Scheme) {
	case "http":
		return nil
	case "https":
		return s.readTLS(get)
	default:
		return fmt.Errorf("%s must begin with http://, https:// or unix://", s.endpointKey)
	}
}

func (s *traceSettings) readTLS(get traceEnv) error {
	s.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	if key, file := get.find("CERTIFICATE"); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		s.tls.RootCAs = x509.NewCertPool()
		if !s.tls.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("%s: %s holds no certificate in PEM", key, file)
		}
	}
	certKey, cert := get.find("CLIENT_CERTIFICATE")
	keyKey, key := get.find("CLIENT_KEY")
	switch {
	case cert == "" && key == "":
		return nil
	case cert == "" || key == "":
		return fmt.Errorf("%s and %s go together; set both or none", certKey, keyKey)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("%s, %s: %w", certKey, keyKey, err)
	}
	s.tls.Certificates = []tls.Certificate{pair}
	return nil
}

// readHeaders reads `name=value,name=value` with values as in a URL.
func (s *traceSettings) readHeaders(get traceEnv) error {
	key, list := get.find("HEADERS")
	s.headers = metadata.MD{}
	if list == "" {
		return nil
	}
	for i, pair := range strings.Split(list, ",") {
		name, raw, found := strings.Cut(pair, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		value, err := url.PathUnescape(strings.TrimSpace(raw))
		value = strings.TrimSpace(value)
		if !found || err != nil || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) || strings.HasPrefix(name, "grpc-") {
			return fmt.Errorf("%s: entry %d is no header; write name=value,name=value, values with %%XX as in a URL", key, i+1)
		}
		s.headers.Append(name, value)
		s.secrets = append(append(s.secrets, raw, value), strings.Fields(value)...)
	}
	// A word of a letter or two would take the sense out of every message, and is no secret.
	s.secrets = slices.DeleteFunc(s.secrets, func(text string) bool { return len(text) < 4 })
	slices.SortFunc(s.secrets, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	return nil
}

func (s *traceSettings) readTimeout(get traceEnv) error {
	s.timeout = 10 * time.Second
	key, text := get.find("TIMEOUT")
	if text == "" {
		return nil
	}
	ms, err := strconv.ParseInt(text, 10, 32)
	if err != nil || ms <= 0 {
		return fmt.Errorf("%s is %q; write milliseconds, such as 10000", key, text)
	}
	s.timeout = time.Duration(ms) * time.Millisecond
	return nil
}

// checkSampler refuses what the SDK would take for "all".
func checkSampler(get traceEnv) error {
	sampler := strings.ToLower(strings.TrimSpace(get("OTEL_TRACES_SAMPLER")))
	switch sampler {
	case "", "always_on", "always_off", "parentbased_always_on", "parentbased_always_off":
		return nil
	case "traceidratio", "parentbased_traceidratio":
	default:
		return fmt.Errorf("OTEL_TRACES_SAMPLER is %q; write always_on, always_off or traceidratio, or one of them with parentbased_ before it", sampler)
	}
	arg := strings.TrimSpace(get("OTEL_TRACES_SAMPLER_ARG"))
	if arg == "" {
		return nil
	}
	if ratio, err := strconv.ParseFloat(arg, 64); err != nil || math.IsNaN(ratio) || ratio < 0 || ratio > 1 {
		return errors.New("OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1")
	}
	return nil
}
