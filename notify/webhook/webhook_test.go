package webhook_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.uber.org/goleak"

	"github.com/kelpie-authz/kelpie/notify"
	"github.com/kelpie-authz/kelpie/notify/webhook"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func secretOf(b byte) string {
	return "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat(string(rune(b)), 32)))
}

func fixed(secrets ...string) func() ([]string, error) {
	return func() ([]string, error) { return secrets, nil }
}

func delivery() *notify.Delivery {
	at := time.Date(2026, 6, 17, 12, 0, 0, 0, time.UTC)
	return &notify.Delivery{Channel: "webhook:t", Event: notify.Event{
		ID: "apr_1_requested_1", Type: notify.Requested, Time: at,
		Approval: notify.About{
			ID: "apr_1", Digest: "d1", Agent: "data-cleaner", Subject: "ann@example.com", Action: "delete", Resource: "crm/1\u202e\n", Risk: "delete", ExpiresAt: at.Add(time.Hour),
		},
	}}
}

// endpoint is a real server that answers as a test says, and keeps the last call.
type endpoint struct {
	*httptest.Server
	calls  atomic.Int64
	last   *http.Request
	body   []byte
	answer func(w http.ResponseWriter)
}

func serve(t *testing.T, secure bool, answer func(w http.ResponseWriter)) *endpoint {
	t.Helper()
	e := &endpoint{answer: answer}
	e.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.last = r
		e.body, _ = io.ReadAll(r.Body)
		e.calls.Add(1)
		if e.answer != nil {
			e.answer(w)
		}
	}))
	if secure {
		e.StartTLS()
	} else {
		e.Start()
	}
	t.Cleanup(e.Close)
	return e
}

func status(code int, headers ...string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(code)
	}
}

func channel(t *testing.T, cfg webhook.Config) *webhook.Channel {
	t.Helper()
	if cfg.Secrets == nil {
		cfg.Secrets = fixed(secretOf('a'))
	}
	cfg.Name = "t"
	c, err := webhook.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The body is what docs/notify.md says, and each secret's holder can verify it
// with the vendor's own library.
func TestSigned(t *testing.T) {
	t.Parallel()
	e := serve(t, false, nil)
	fresh, old := secretOf('n'), secretOf('o')
	c := channel(t, webhook.Config{URL: e.URL + "/hook?key=1", Loopback: true, Secrets: fixed(fresh, old)})
	if c.Name() != "webhook:t" || !c.Wants(notify.Denied) {
		t.Errorf("%s", c.Name())
	}
	if _, err := c.Deliver(t.Context(), delivery()); err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{fresh, old} {
		v, err := standardwebhooks.NewWebhook(secret)
		if err != nil {
			t.Fatal(err)
		}
		if err := v.Verify(e.body, e.last.Header); err != nil {
			t.Errorf("a holder of a secret: %v", err)
		}
		if err := v.Verify(append(e.body, ' '), e.last.Header); err == nil {
			t.Error("another body verifies")
		}
	}
	if v, _ := standardwebhooks.NewWebhook(secretOf('x')); v.Verify(e.body, e.last.Header) == nil {
		t.Error("another secret verifies")
	}
	if got := e.last.Header.Get("Webhook-Id"); got != "apr_1_requested_1" {
		t.Errorf("webhook-id %s", got)
	}
	var got any
	if err := json.Unmarshal(e.body, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"type": "approval.requested", "timestamp": "2026-06-17T12:00:00Z", "data": map[string]any{
		"approval_id": "apr_1", "digest": "d1", "agent": "data-cleaner", "subject": "ann@example.com", "action": "delete",
		"resource": "crm/1\u202e\n", "risk": "delete", "expires_at": "2026-06-17T13:00:00Z",
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if e.last.Method != http.MethodPost || e.last.URL.RequestURI() != "/hook?key=1" || e.last.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%s %s %v", e.last.Method, e.last.URL, e.last.Header)
	}
}

// Secrets are read at each call, so that one can be changed without a restart.
func TestSecretFiles(t *testing.T) {
	t.Parallel()
	e := serve(t, false, nil)
	path := filepath.Join(t.TempDir(), "secret")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"none": "# only words\n\n", "no prefix": strings.TrimPrefix(secretOf('a'), "whsec_") + "\n", "short": "whsec_YWJj\n",
		"no base64": "whsec_!!!" + strings.Repeat("a", 40), "long": "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 65)),
		"nine": strings.Repeat(secretOf('a')+"\n", 9), "a large file": strings.Repeat("#\n", 40<<10),
	} {
		write(text)
		_, err := webhook.New(webhook.Config{Name: "t", URL: e.URL, Loopback: true, Secrets: webhook.SecretFiles(path)})
		if err == nil || strings.Contains(err.Error(), "YWFh") || strings.Contains(err.Error(), "YWJj") {
			t.Errorf("%s: %v", name, err)
		}
	}
	write("# the old one\n" + secretOf('a') + "\n")
	c := channel(t, webhook.Config{URL: e.URL, Loopback: true, Secrets: webhook.SecretFiles(path)})
	write("  " + secretOf('b') + "\r\n" + secretOf('a'))
	if _, err := c.Deliver(t.Context(), delivery()); err != nil {
		t.Fatal(err)
	}
	v, err := standardwebhooks.NewWebhook(secretOf('b'))
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Verify(e.body, e.last.Header); err != nil {
		t.Errorf("the new secret: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Deliver(t.Context(), delivery()); err == nil || e.calls.Load() != 1 {
		t.Errorf("without a secret: %v", err)
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	e := serve(t, false, nil)
	c := channel(t, webhook.Config{URL: e.URL, Loopback: true})
	for name, tc := range map[string]struct {
		answer func(http.ResponseWriter)
		want   *notify.RefusedError
	}{
		"200":                 {status(200), nil},
		"204":                 {status(204), nil},
		"299":                 {status(299), nil},
		"400":                 {status(400), &notify.RefusedError{Why: "the endpoint answered 400", Final: true}},
		"408":                 {status(408), &notify.RefusedError{Why: "the endpoint answered 408"}},
		"410":                 {status(410), &notify.RefusedError{Why: "the endpoint answered 410", Gone: true}},
		"429":                 {status(429, "Retry-After", "7"), &notify.RefusedError{Why: "the endpoint answered 429", RetryAfter: 7 * time.Second}},
		"503 for long":        {status(503, "Retry-After", "86400"), &notify.RefusedError{Why: "the endpoint answered 503", RetryAfter: time.Hour}},
		"500":                 {status(500, "Retry-After", "7"), &notify.RefusedError{Why: "the endpoint answered 500"}},
		"302 to the metadata": {status(302, "Location", "http://169.254.169.254/"), &notify.RefusedError{Why: "the endpoint answered 302, a redirect, which is not followed", Final: true}},
		"307 to itself":       {status(307, "Location", "/again"), &notify.RefusedError{Why: "the endpoint answered 307, a redirect, which is not followed", Final: true}},
		"a long body":         {func(w http.ResponseWriter) { _, _ = w.Write(make([]byte, 8<<20)) }, nil},
	} {
		e.answer = tc.answer
		before := e.calls.Load()
		_, err := c.Deliver(t.Context(), delivery())
		if n := e.calls.Load() - before; n != 1 {
			t.Errorf("%s: %d calls", name, n)
		}
		var got *notify.RefusedError
		_ = errors.As(err, &got)
		if diff := cmp.Diff(tc.want, got); diff != "" || (err == nil) != (tc.want == nil) {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

// A body that never ends, and an endpoint that does not answer, hold nobody for
// longer than the call may take.
func TestSlowEndpoint(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	e := serve(t, false, func(http.ResponseWriter) { <-release })
	defer close(release)
	c := channel(t, webhook.Config{URL: e.URL + "/?key=hunter2", Loopback: true})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Deliver(ctx, delivery()); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v", err)
	}
}

// Webhook SSRF and DNS rebinding: a name is looked up once for a call, all that it
// leads to is checked, and the call goes to what was checked under the name that
// the URL has.
func TestPinnedResolution(t *testing.T) {
	t.Parallel()
	e := serve(t, true, nil)
	_, port, err := net.SplitHostPort(e.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(e.Certificate())
	var asked atomic.Int64
	// Each answer after the first leads elsewhere, as a rebinding name's does.
	rebinding := func(_ context.Context, host string) ([]netip.Addr, error) {
		if host != "example.com" {
			t.Errorf("asked for %s", host)
		}
		if asked.Add(1) > 1 {
			return []netip.Addr{netip.MustParseAddr("169.254.169.254")}, nil
		}
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}
	c := channel(t, webhook.Config{
		URL: "https://example.com:" + port + "/hook", Loopback: true, Resolve: rebinding,
		TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	})
	if _, err := c.Deliver(t.Context(), delivery()); err != nil {
		t.Fatal(err)
	}
	if asked.Load() != 1 || e.last.Host != "example.com:"+port || e.last.TLS.ServerName != "example.com" {
		t.Errorf("looked up %d times, host %s, server name %s", asked.Load(), e.last.Host, e.last.TLS.ServerName)
	}
	if _, err := c.Deliver(t.Context(), delivery()); err == nil || !strings.Contains(err.Error(), "169.254.169.254, which is link-local") {
		t.Errorf("the name leads to the metadata service: %v", err)
	}
	if asked.Load() != 2 || e.calls.Load() != 1 {
		t.Errorf("looked up %d times, called %d times", asked.Load(), e.calls.Load())
	}
}

// By default this machine is not called: by no name, no address and no form of it.
func TestLoopbackIsRefused(t *testing.T) {
	t.Parallel()
	e := serve(t, true, nil)
	_, port, err := net.SplitHostPort(e.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]"} {
		c := channel(t, webhook.Config{URL: "https://" + host + ":" + port, TLS: &tls.Config{InsecureSkipVerify: true}})
		if _, err := c.Deliver(t.Context(), delivery()); err == nil || !strings.Contains(err.Error(), "it is not called") {
			t.Errorf("%s: %v", host, err)
		}
	}
	// One public address among them does not make an inner one callable.
	c := channel(t, webhook.Config{
		URL: "https://example.com:" + port, Resolve: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("93.184.215.14")}, nil
		},
	})
	if _, err := c.Deliver(t.Context(), delivery()); err == nil || !strings.Contains(err.Error(), "it is not called") {
		t.Errorf("a mix: %v", err)
	}
	if e.calls.Load() != 0 {
		t.Errorf("%d calls came through", e.calls.Load())
	}
}

func TestInner(t *testing.T) {
	t.Parallel()
	for text, inner := range map[string]bool{
		"8.8.8.8": false, "93.184.215.14": false, "2606:2800:21f:cb07::1": false, "172.15.255.255": false, "172.32.0.0": false, "100.63.255.255": false, "100.128.0.0": false,
		"0.0.0.0": true, "10.0.0.1": true, "100.64.0.1": true, "127.0.0.1": true, "127.255.255.254": true, "169.254.169.254": true, "172.16.0.1": true,
		"172.31.255.255": true, "192.168.1.1": true, "192.0.0.8": true, "198.18.0.1": true, "224.0.0.1": true, "239.1.1.1": true, "255.255.255.255": true, "240.0.0.1": true,
		"::": true, "::1": true, "::127.0.0.1": true, "::ffff:10.0.0.1": true, "::ffff:127.0.0.1": true, "64:ff9b::a00:1": true, "64:ff9b::808:808": true, "64:ff9b:1::1": true,
		"fe80::1": true, "fe80::1%eth0": true, "fc00::1": true, "fd12::1": true, "fec0::1": true, "ff02::1": true, "2001::1": true, "2001:db8::1": true, "2002:7f00:1::": true, "100::1": true, "5f00::1": true, "3fff::1": true,
		"::ffff:8.8.8.8": false,
	} {
		if got := webhook.Inner(netip.MustParseAddr(text)); (got != "") != inner {
			t.Errorf("%s: %q", text, got)
		}
	}
	if webhook.Inner(netip.Addr{}) == "" {
		t.Error("no address is one of the Internet")
	}
}

func TestCheckURL(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"https://example.com/x?y=hunter2": "", "https://example.com:8443": "", "https://[2606::1]/": "",
		"http://example.com": "https://", "ftp://example.com": "https://", "example.com": "https://", "https://": "no host", "https://:443/": "no host",
		"https://u:hunter2@example.com": "a user", "https://example.com/#hunter2": "a fragment", "https://%zz/hunter2": "not a URL", "": "https://",
	} {
		err := webhook.CheckURL(text, false)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) || err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", text, err)
		}
	}
	if err := webhook.CheckURL("http://example.com/hook", true); err == nil {
		t.Error("plain to somewhere else")
	}
	if err := webhook.CheckURL("http://127.0.0.1:1", true); err != nil {
		t.Error(err)
	}
	if _, err := webhook.New(webhook.Config{Name: "t", URL: "https://example.com"}); err == nil {
		t.Error("a webhook without secrets")
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 6, 17, 12, 0, 0, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"": 0, "0": 0, "5": 5 * time.Second, " 5 ": 5 * time.Second, "3601": time.Hour, "99999999999999999999": time.Hour, "-5": 0, "5.5": 0, "soon": 0,
		"Wed, 17 Jun 2026 12:00:30 GMT": 30 * time.Second, "Wed, 17 Jun 2026 11:00:00 GMT": 0, "Wed, 17 Jun 2037 11:00:00 GMT": time.Hour,
	} {
		if got := webhook.RetryAfter(header, now); got != want {
			t.Errorf("%q: %v, want %v", header, got, want)
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, seed := range []string{"", "5", "Wed, 17 Jun 2026 12:00:30 GMT", "99999999999999999999", "-1", "1e9"} {
		f.Add(seed, int64(0))
	}
	f.Fuzz(func(t *testing.T, header string, at int64) {
		if got := webhook.RetryAfter(header, time.Unix(at%(1<<40), 0)); got < 0 || got > time.Hour {
			t.Errorf("%q: %v", header, got)
		}
	})
}

// Whatever a URL is, one that is taken is https and holds no user.
func FuzzCheckURL(f *testing.F) {
	for _, seed := range []string{"https://example.com/x", "https://127.0.0.1", "HTTPS://LOCALHOST", "https://a@b", "http://a", "https:///x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if webhook.CheckURL(text, false) != nil {
			return
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, text, nil)
		if err != nil || req.URL.Scheme != "https" || req.URL.User != nil || req.URL.Hostname() == "" {
			t.Fatalf("%q is taken: %v, %v", text, req, err)
		}
	})
}
