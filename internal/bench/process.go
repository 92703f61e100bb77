package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/policy"
)

// environment holds what the groups share: the built binary, a policy on disk,
// and where things are written.
type environment struct {
	opt    options
	dir    string
	binary string
	policy string
	shape  shape
}

func newEnvironment(ctx context.Context, opt options) (*environment, error) {
	dir, err := os.MkdirTemp("", "kelpie-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a temporary directory: %w", err)
	}
	env := &environment{
		opt: opt, dir: dir,
		binary: filepath.Join(dir, "kelpie"),
		policy: filepath.Join(dir, "policy"),
		shape:  shape{agents: 1000, scopes: 1000, scopesPerAgent: 10},
	}
	if err := env.prepare(ctx); err != nil {
		env.close()
		return nil, err
	}
	return env, nil
}

// prepare builds the server and writes its policy.
func (e *environment) prepare(ctx context.Context) error {
	if e.opt.keep != "" {
		e.dir = e.opt.keep
		if err := os.MkdirAll(e.dir, 0o755); err != nil {
			return fmt.Errorf("make the directory for the logs: %w", err)
		}
	}
	if err := build(ctx, "-o", e.binary, ourModule+"/cmd/kelpie"); err != nil {
		return err
	}
	return writePolicy(e.policy, generate(e.shape))
}

const ourModule = "github.com/kelpie-authz/kelpie"

func build(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"build"}, args...)...)
	if msg, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, msg)
	}
	return nil
}

func writePolicy(dir string, docs []policy.Document) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write the policy: %w", err)
	}
	for _, doc := range docs {
		if err := os.WriteFile(filepath.Join(dir, doc.Name), doc.Data, 0o600); err != nil {
			return fmt.Errorf("write the policy: %w", err)
		}
	}
	return nil
}

func (e *environment) close() {
	// What stays behind is a temporary directory: nothing to tell anyone.
	_ = os.RemoveAll(filepath.Dir(e.binary))
}

// server is one process under measurement.
type server struct {
	cmd  *exec.Cmd
	addr string
	log  *os.File
}

// startKelpie starts `kelpie serve` as a user would: decision log on (to a
// file), metrics on, the default settings.
func (e *environment) startKelpie(ctx context.Context, name, policyDir string, flags ...string) (*server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	args := append([]string{
		"serve", "--policy", policyDir, "--grpc-addr", addr, "--admin-addr", "127.0.0.1:0", "--health-addr", "127.0.0.1:0",
		"--state", filepath.Join(e.dir, name+".state"),
	}, flags...)
	s, err := e.startLogged(name, exec.CommandContext(ctx, e.binary, args...))
	if err != nil {
		return nil, err
	}
	s.addr = addr
	if err := s.await(ctx, e.request(0)); err != nil {
		s.stop()
		return nil, fmt.Errorf("kelpie did not come up, see %s: %w", s.log.Name(), err)
	}
	return s, nil
}

// startLogged starts a server that writes what it has to say into a file.
func (e *environment) startLogged(name string, cmd *exec.Cmd) (*server, error) {
	log, err := os.Create(filepath.Join(e.dir, name+".log"))
	if err != nil {
		return nil, fmt.Errorf("create the log: %w", err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		_ = log.Close() // nothing was written
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return &server{cmd: cmd, log: log}, nil
}

// startEmpty starts this program as the empty service that answers with reply.
func (e *environment) startEmpty(ctx context.Context, reply proto.Message) (*server, error) {
	arg, err := encodeReply(reply)
	if err != nil {
		return nil, err
	}
	return startSelf(ctx, emptyServerArg, arg)
}

// startSelf starts this program as one of the servers that it can be.
func startSelf(ctx context.Context, args ...string) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	return startTelling(exec.CommandContext(ctx, self, args...))
}

// startTelling starts a server that prints its address once it listens, with
// the collector set as Kelpie sets its own.
func startTelling(cmd *exec.Cmd) (*server, error) {
	name := filepath.Base(cmd.Path)
	cmd.Env = append(os.Environ(), "GOGC="+collectorPercent())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	s := &server{cmd: cmd}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("%s did not come up: %w", name, err)
	}
	s.addr = strings.TrimSpace(line)
	return s, nil
}

// collectorPercent is the GOGC that both sides run with: Kelpie's default
// unless the environment says otherwise, which Kelpie obeys too.
func collectorPercent() string {
	if v := os.Getenv("GOGC"); v != "" {
		return v
	}
	return "400"
}

func (s *server) stop() {
	// The process may have ended by itself; there is nothing to do about either error.
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	if s.log != nil {
		_ = s.log.Close()
	}
}

// cpu is the CPU time that the process has used, in steps of 10 ms.
func (s *server) cpu() (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("read the CPU time: %w", err)
	}
	// The name is in parentheses and may hold spaces; utime and stime are the
	// 12th and 13th fields after it (proc(5)), in ticks of 10 ms.
	_, rest, ok := strings.Cut(string(raw), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0, errors.New("read the CPU time: unexpected form of /proc/PID/stat")
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return 0, fmt.Errorf("read the CPU time: %w", err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond, nil
}

func (s *server) dial() (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", s.addr, err)
	}
	return conn, nil
}

// await asks until there is an answer. It looks for the listener itself,
// because grpc-go waits a second before it dials again.
func (s *server) await(ctx context.Context, req *authzv1.AuthorizeRequest) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := awaitListener(ctx, s.addr); err != nil {
		return err
	}
	conn, err := s.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = authzv1.NewAuthorizationServiceClient(conn).Authorize(ctx, req, grpc.WaitForReady(true))
	if err != nil {
		return fmt.Errorf("ask %s: %w", s.addr, err)
	}
	return nil
}

func awaitListener(ctx context.Context, addr string) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "tcp", addr)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("nobody listens on %s: %w", addr, err)
		case <-tick.C:
		}
	}
}

func freeAddr() (string, error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer lis.Close()
	return lis.Addr().String(), nil
}

// request is the i-th request of the load: many agents, many resources.
func (e *environment) request(i int) *authzv1.AuthorizeRequest {
	agent, resource := e.pick(i)
	return &authzv1.AuthorizeRequest{Agent: agent, Action: "read", Resource: resource, SourceIp: callerAddress}
}

// callerAddress is in the network that the agents of a generated policy call from.
const callerAddress = "10.8.0.5"

// pick is the i-th agent of the load and a resource that it may read.
func (e *environment) pick(i int) (agent, resource string) {
	a := i * 31 % e.shape.agents
	return fmt.Sprintf("agent-%d", a), resourceOf((a + i%e.shape.scopesPerAgent) % e.shape.scopes)
}
