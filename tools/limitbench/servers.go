package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/proto"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

// domain is the domain of the rules of envoyproxy/ratelimit.
const domain = "bench"

// fleet are the servers that are asked over gRPC, by the names that sides have
// for them.
type fleet map[string]*process

func (f fleet) stop() {
	for _, p := range f {
		p.stop()
	}
}

// startFleet starts those of the servers that are needed.
func startFleet(ctx context.Context, dir string, opt options, redisAddr string) (fleet, error) {
	f := fleet{}
	if err := f.start(ctx, dir, opt, redisAddr); err != nil {
		f.stop()
		return nil, err
	}
	return f, nil
}

func (f fleet) start(ctx context.Context, dir string, opt options, redisAddr string) error {
	// Each in a database of its own: what they keep for an agent is one value.
	for db, s := range []struct{ name, limits string }{
		{"serve-1", hourlyOnly},
		{"serve-3", hourlyOnly + minuteAndDay},
		{"serve-3, leased", strings.ReplaceAll(hourlyOnly+minuteAndDay, "per: [agent]", "per: [agent], lease: true")},
	} {
		p, err := startKelpie(ctx, dir, opt.kelpie, s.name, basePolicy+s.limits, fmt.Sprintf("redis://%s/%d", redisAddr, db+1))
		if err != nil {
			return err
		}
		f[s.name] = p
	}
	for name, args := range map[string][]string{empty: nil, plainServed: {redisAddr}} {
		p, err := startBeside(ctx, dir, name, f["serve-3"].addr, args...)
		if err != nil {
			return err
		}
		f[name] = p
	}
	if opt.ratelimit == "" {
		return nil
	}
	p, err := startRateLimit(ctx, dir, opt.ratelimit, redisAddr)
	if err != nil {
		return err
	}
	f["ratelimit"] = p
	return nil
}

// The policies of Kelpie. Every agent of the swarm has limits of its own.
const (
	basePolicy = `
scopes:
  things: {actions: [read], resources: ["things/**"]}
agents:
  "swarm/*": {owner: bench@example.com, networks: [any], scopes: [things]}
  "few/*": {owner: bench@example.com, networks: [any], scopes: [things], limits: {hourly: {rate: 10/hour, burst: 10}}}
`
	hourlyOnly = `
limits:
  hourly: {rate: 360/hour, burst: 3000000, per: [agent]}
`
	minuteAndDay = `
  minute: {rate: 60000/minute, burst: 100000000, per: [agent]}
  day: {quota: 1000000000/day, per: [agent]}
`
)

// startKelpie starts `kelpie serve` as a user would: decision log on (to a
// file), metrics on, the default settings.
func startKelpie(ctx context.Context, dir, binary, name, policy, redisURL string) (*process, error) {
	policyDir := filepath.Join(dir, name)
	if err := writeFile(filepath.Join(policyDir, "policy.yaml"), policy); err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, binary, "serve", "--policy", policyDir, "--grpc-addr", addr, "--redis", redisURL,
		"--admin-addr", "127.0.0.1:0", "--health-addr", "127.0.0.1:0", "--state", filepath.Join(dir, name+".state"))
	return startListening(ctx, dir, name, addr, cmd)
}

func writeFile(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// startListening starts a server that listens on addr, and waits until it does.
func startListening(ctx context.Context, dir, name, addr string, cmd *exec.Cmd) (*process, error) {
	p, err := startLogged(dir, name, cmd)
	if err != nil {
		return nil, err
	}
	p.addr = addr
	err = until(ctx, name, func(ctx context.Context) error {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		return conn.Close()
	})
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("%w; it said:\n%s", err, p.tail())
	}
	return &p, nil
}

// startBeside starts this program as a service that answers with what the one
// at model does.
func startBeside(ctx context.Context, dir, name, model string, args ...string) (*process, error) {
	reply, err := askOnce(ctx, model)
	if err != nil {
		return nil, err
	}
	raw, err := proto.Marshal(reply)
	if err != nil {
		return nil, fmt.Errorf("encode the reply: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, append([]string{besideArg, base64.StdEncoding.EncodeToString(raw)}, args...)...)
	cmd.Env = collected()
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer func() { _ = read.Close() }() // what was to be read has been
	cmd.Stdout = write
	p, err := startLogged(dir, name, cmd)
	_ = write.Close() // the child has its own
	if err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(read).ReadString('\n')
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("%s did not come up; it said:\n%s", name, p.tail())
	}
	p.addr = strings.TrimSpace(line)
	return &p, nil
}

// askOnce is the answer to one question.
func askOnce(ctx context.Context, addr string) (*authzv1.AuthorizeResponse, error) {
	j := &job{Bounds: ample, Callers: 1, Server: addr}
	next, done, err := dialAll(j)
	if err != nil {
		return nil, err
	}
	defer done()
	reply, err := authzv1.NewAuthorizationServiceClient(next()).Authorize(ctx, j.question(0))
	if err != nil {
		return nil, fmt.Errorf("ask for an answer: %w", err)
	}
	if reply.GetDecision() != authzv1.Decision_DECISION_ALLOW {
		return nil, fmt.Errorf("the first answer is %v, %v", reply.GetDecision(), reply.GetReason())
	}
	return reply, nil
}

// startRateLimit starts envoyproxy/ratelimit with its default settings, over
// the same Redis, with the limits of the others.
func startRateLimit(ctx context.Context, dir, binary, redisAddr string) (*process, error) {
	root := filepath.Join(dir, "runtime")
	rules := fmt.Sprintf(`domain: %s
descriptors:
  - {key: agent, rate_limit: {unit: day, requests_per_unit: 1000000000}}
  - {key: few, rate_limit: {unit: day, requests_per_unit: %d}}
`, domain, fewBurst)
	if err := writeFile(filepath.Join(root, "ratelimit", "config", "bench.yaml"), rules); err != nil {
		return nil, err
	}
	ports := make([]string, 3)
	for i := range ports {
		addr, err := freeAddr()
		if err != nil {
			return nil, err
		}
		_, ports[i], _ = strings.Cut(addr, ":")
	}
	cmd := exec.CommandContext(ctx, binary)
	cmd.Env = collected("BACKEND_TYPE=redis", "REDIS_SOCKET_TYPE=tcp", "REDIS_TYPE=single", "REDIS_URL="+redisAddr,
		"RUNTIME_ROOT="+root, "RUNTIME_SUBDIRECTORY=ratelimit", "RUNTIME_WATCH_ROOT=false", "USE_STATSD=false",
		"HOST=127.0.0.1", "PORT="+ports[0], "GRPC_HOST=127.0.0.1", "GRPC_PORT="+ports[1], "DEBUG_HOST=127.0.0.1", "DEBUG_PORT="+ports[2])
	return startListening(ctx, dir, "ratelimit", "127.0.0.1:"+ports[1], cmd)
}
