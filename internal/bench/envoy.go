package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
	"time"
)

// upstreamArg makes this program the API behind Envoy.
const upstreamArg = "serve-upstream"

// upstreamBody is what the upstream answers: a small object, as many APIs do.
const upstreamBody = `{"id":"42","name":"Acme","owner":"team-7@example.com","stage":"qualified","updated":"2026-01-01T00:00:00Z"}`

func serveUpstream() error {
	srv := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, upstreamBody) // who went away needs no answer
		}),
	}
	return listenAndTell(srv.Serve)
}

// measureEnvoy tells what ext_authz adds to a request: the same Envoy, before
// the same upstream, with the filter and without.
func measureEnvoy(ctx context.Context, env *environment) ([]row, error) {
	upstream, err := startSelf(ctx, upstreamArg)
	if err != nil {
		return nil, err
	}
	defer upstream.stop()
	// The caller of the bench is the hop before Envoy and names the address that the agent called from.
	kelpie, err := env.startKelpieHTTP(ctx, "envoy-kelpie", 1)
	if err != nil {
		return nil, err
	}
	defer kelpie.stop()
	envoy, listeners, err := env.startEnvoy(ctx, upstream.addr, kelpie.addr)
	if err != nil {
		return nil, err
	}
	defer envoy.stop()
	with, without := env.through(envoy, listeners.with), env.through(envoy, listeners.without)
	if err := listeners.judged(ctx); err != nil {
		return nil, err
	}
	var rows []row
	for _, callers := range []int{1, 16} {
		pairs, err := env.rounds(ctx, callers, with, without)
		if err != nil {
			return nil, err
		}
		rows = append(rows, addedRow(callers, pairs[0]))
	}
	return rows, nil
}

func addedRow(callers int, pairs []pair) row {
	added := func(f func(sample) time.Duration) time.Duration {
		return time.Duration(median(pairs, func(p pair) float64 { return float64(f(p.ours) - f(p.theirs)) })).Round(time.Microsecond)
	}
	ours, theirs := bothSides(pairs)
	return row{
		what: fmt.Sprintf("ext_authz through Envoy, %d callers: adds p50 %v p99 %v", callers,
			added(func(s sample) time.Duration { return s.p50 }), added(func(s sample) time.Duration { return s.p99 })),
		ours: ours, theirs: theirs,
	}
}

// listeners are the addresses of Envoy's listeners.
type listeners struct{ with, without string }

// judged makes sure that the one listener asks Kelpie and the other does not:
// a request of an agent that nobody knows tells them apart.
func (l listeners) judged(ctx context.Context) error {
	stranger := httpCall{agent: "stranger", method: http.MethodGet, path: "/" + resourceOf(0), source: callerAddress}
	transport := &http.Transport{DisableKeepAlives: true}
	asked, _, err1 := send(transport, stranger.request(l.with).WithContext(ctx))
	open, _, err2 := send(transport, stranger.request(l.without).WithContext(ctx))
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if asked != http.StatusForbidden || open != http.StatusOK {
		return fmt.Errorf("%w: a stranger's request is answered %d with ext_authz and %d without", errWrongAnswer, asked, open)
	}
	return nil
}

// through is the load of an Envoy's listener.
func (e *environment) through(envoy *server, addr string) side {
	return side{name: "envoy at " + addr, cpu: envoy.cpu, open: func(ctx context.Context, callers int) ([]call, func(), error) {
		transport := &http.Transport{MaxIdleConnsPerHost: callers, DisableCompression: true}
		calls := make([]call, callers)
		for c := range calls {
			calls[c] = e.get(transport, addr, c)
		}
		if err := calls[0](ctx, 0); err != nil {
			return nil, nil, fmt.Errorf("warm up: %w", err)
		}
		return calls, transport.CloseIdleConnections, nil
	}}
}

// get is how the c-th caller fetches what its agents may read.
func (e *environment) get(transport *http.Transport, addr string, c int) call {
	requests := requestsOf(c, func(i int) *http.Request {
		agent, resource := e.pick(i)
		return httpCall{agent: agent, method: http.MethodGet, path: "/" + resource, source: callerAddress}.request(addr)
	})
	return func(ctx context.Context, i int) error {
		status, body, err := send(transport, requests[i%perCaller].WithContext(ctx))
		if err != nil {
			return err
		}
		if status != http.StatusOK || body != upstreamBody {
			return fmt.Errorf("%w: status %d, body %q", errWrongAnswer, status, body)
		}
		return nil
	}
}

// request is the call as a client of Envoy sends it.
func (h httpCall) request(addr string) *http.Request {
	req := &http.Request{
		Method: h.method, Host: "crm.internal.example.com", Header: make(http.Header),
		URL: &url.URL{Scheme: "http", Host: addr, Path: h.path},
	}
	for name, value := range map[string]string{
		"accept": "application/json", "user-agent": "python-httpx/0.28.1",
		"x-agent-id": h.agent, "x-forwarded-for": h.source,
	} {
		req.Header.Set(name, value)
	}
	return req
}

func send(transport http.RoundTripper, req *http.Request) (status int, body string, err error) {
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, "", fmt.Errorf("call: %w", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, "", fmt.Errorf("read the answer: %w", err)
	}
	return resp.StatusCode, string(raw), nil
}

//go:embed envoy.yaml
var envoyConfig string

// startEnvoy starts Envoy, as scripts/envoy.sh finds it, and waits for its listeners.
func (e *environment) startEnvoy(ctx context.Context, upstream, kelpie string) (*server, listeners, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return nil, listeners{}, err
	}
	program, err := exec.CommandContext(ctx, filepath.Join(root, "scripts", "envoy.sh")).Output()
	if err != nil {
		return nil, listeners{}, fmt.Errorf("there is no Envoy here, `make deps` installs it: %w", err)
	}
	config, at, err := e.configureEnvoy(upstream, kelpie)
	if err != nil {
		return nil, listeners{}, err
	}
	s, err := e.startLogged("envoy", exec.CommandContext(ctx, strings.TrimSpace(string(program)),
		"--config-path", config, "--disable-hot-restart", "--log-level", "warning"))
	if err != nil {
		return nil, listeners{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for _, addr := range []string{at.with, at.without} {
		if err := awaitListener(ctx, addr); err != nil {
			s.stop()
			return nil, listeners{}, fmt.Errorf("envoy did not come up, see %s: %w", s.log.Name(), err)
		}
	}
	return s, at, nil
}

// configureEnvoy writes the configuration and says where Envoy will listen.
func (e *environment) configureEnvoy(upstream, kelpie string) (path string, at listeners, err error) {
	type endpoint struct{ Host, Port string }
	type listener struct {
		endpoint
		Name  string
		Authz bool
	}
	split := func(addr string) endpoint {
		host, port, _ := net.SplitHostPort(addr) // what a listener said of itself
		return endpoint{host, port}
	}
	if at.with, err = freeAddr(); err != nil {
		return "", at, err
	}
	if at.without, err = freeAddr(); err != nil {
		return "", at, err
	}
	config, err := template.New("envoy.yaml").Delims("<<", ">>").Parse(envoyConfig)
	if err != nil {
		return "", at, fmt.Errorf("configure envoy: %w", err)
	}
	var out bytes.Buffer
	if err := config.Execute(&out, map[string]any{
		"Listeners": []listener{
			{endpoint: split(at.with), Name: "with", Authz: true},
			{endpoint: split(at.without), Name: "without"},
		},
		"Upstream": split(upstream), "Kelpie": split(kelpie),
	}); err != nil {
		return "", at, fmt.Errorf("configure envoy: %w", err)
	}
	path = filepath.Join(e.dir, "envoy.yaml")
	return path, at, os.WriteFile(path, out.Bytes(), 0o600)
}
