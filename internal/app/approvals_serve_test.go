package app_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// site is one replica as its administrator has it: a process, its own state and
// addresses that it keeps over restarts.
type site struct {
	*testkit.Kelpie

	binary, state, grpc, admin string
	args                       []string
}

func (s *site) start(t *testing.T) {
	t.Helper()
	s.Kelpie = testkit.StartKelpie(t, testkit.KelpieConfig{
		Binary: s.binary, Policy: filepath.Join(testkit.Root(t), "examples", "revops"), GRPCAddr: s.grpc,
		Args: append([]string{"--state", s.state, "--admin-addr", s.admin}, s.args...),
	})
}

// run runs a command of the same build and returns what it printed, and its exit code.
func (s *site) run(t *testing.T, args ...string) (string, int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), s.binary, args...)
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
	out, err := cmd.CombinedOutput()
	code := 0
	var ended *exec.ExitError
	switch {
	case errors.As(err, &ended):
		code = ended.ExitCode()
	case err != nil:
		t.Fatal(err)
	}
	return string(out), code
}

// approvals is `kelpie approvals` against this replica.
func (s *site) approvals(t *testing.T, args ...string) string {
	t.Helper()
	out, code := s.run(t, append([]string{"approvals"}, append(args, "--server", s.admin, "--admin-token-file", filepath.Join(s.state, "admin.token"))...)...)
	if code != 0 {
		t.Fatalf("kelpie approvals %q: exit code %d\n%s", args, code, out)
	}
	return out
}

// The exit codes of `kelpie check`.
const (
	exitAllow = 0
	exitWaits = 4
)

// purge asks for one delete, and demands how it ends.
func (s *site) purge(t *testing.T, when string, want int, says string) string {
	t.Helper()
	out, code := s.run(t, "check", "--server", s.grpc, "--agent", "data-cleaner", "--action", "delete", "--resource", "salesforce/leads/42",
		"--ip", "10.8.0.5", "--parameters", `{"why": "a duplicate of 41"}`)
	if code != want || !strings.Contains(out, says) {
		t.Errorf("%s: exit code %d, want %d and %q:\n%s", when, code, want, says, out)
	}
	return out
}

var approvalID = regexp.MustCompile(`apr_[0-9a-f]{32}`)

// Two servers, one Redis and one key: what is asked at the one is decided at the
// other, and used once at any, also if both were killed in between.
func serveApprovals(t *testing.T, binary string) {
	t.Helper()
	r := testkit.StartRedis(t, testkit.RedisConfig{})
	key := filepath.Join(t.TempDir(), "approvals.key")
	testkit.WriteFile(t, key, []byte(strings.Repeat("0123456789abcdef", 4)+"\n"))
	if err := os.Chmod(key, 0o600); err != nil {
		t.Fatal(err)
	}
	var sites []*site
	for range 2 {
		s := &site{
			binary: binary, state: filepath.Join(t.TempDir(), "state"), grpc: testkit.FreeAddr(t), admin: testkit.FreeAddr(t),
			args: []string{"--redis", r.URL(), "--redis-timeout", "2s", "--approvals-key-file", key},
		}
		s.start(t)
		sites = append(sites, s)
	}
	one, two := sites[0], sites[1]
	for _, round := range []string{"as they run", "both ended in between", "both killed in between"} {
		one.purge(t, round+": the first call", exitWaits, "approval_required")
		two.purge(t, round+": the same at the other", exitWaits, "approval_pending")
		id := approvalID.FindString(two.approvals(t, "list"))
		if id == "" || id != approvalID.FindString(one.approvals(t, "list")) {
			t.Fatalf("%s: the replicas list different approvals", round)
		}
		if out := two.approvals(t, "approve", id, "--as", "security-oncall@example.com", "--yes"); !strings.Contains(out, "APPROVED") {
			t.Fatalf("%s: %s", round, out)
		}
		for _, s := range sites {
			switch round {
			case "both ended in between":
				s.Terminate(t)
				if err := s.Wait(t); err != nil {
					t.Fatalf("%s: %v", round, err)
				}
				s.start(t)
			case "both killed in between":
				s.Kill(t)
				s.start(t)
			}
		}
		one.purge(t, round+": after the yes", exitAllow, "ok_approved")
		two.purge(t, round+": once more at the other", exitWaits, "approval_required")
		one.purge(t, round+": and at the first", exitWaits, "approval_pending")
		two.approvals(t, "cancel", approvalID.FindString(two.approvals(t, "list")), "--as", "security-oncall@example.com", "--yes")
	}
	for i, s := range sites {
		if strings.Contains(s.Stderr.String(), "does not count") {
			t.Errorf("replica %d met a record that does not count:\n%s", i, s.Stderr.String())
		}
	}
}

const (
	reasonApproved = authzv1.Reason_REASON_OK_APPROVED
	reasonAsked    = authzv1.Reason_REASON_APPROVAL_REQUIRED
	reasonPending  = authzv1.Reason_REASON_APPROVAL_PENDING
)

// A use that Redis forgot is no second ALLOW: the call waits for humans again.
func TestRedisForgetsTheUse(t *testing.T) {
	t.Parallel()
	redis := testkit.StartRedis(t, testkit.RedisConfig{})
	share := sharing(t, redis)
	one, two := start(t, share), start(t, share)
	id := erase(t, one, "").GetApproval().GetId()
	two.approve(t, id)
	redis.Do(t, "save") // what it will come back with: the yes, and not its use
	wantReason(t, "after the yes", erase(t, one, ""), reasonApproved)
	redis.Kill(t)
	redis.Restart(t)
	for i, r := range []*running{one, two} {
		testkit.Eventually(t, "an answer by Redis", func() bool { return erase(t, r, "").GetReason() != reasonGone })
		for _, name := range []string{"", id} {
			wantReason(t, "the use was forgotten", erase(t, r, name), reasonPending)
		}
		if _, body := r.get(t, "/metrics"); i == 0 && strings.Contains(body, "\nkelpie_approvals_unsure_total 0\n") {
			t.Error("nobody was unsure of it: the test has lost nothing")
		}
	}
	two.approve(t, id)
	wantReason(t, "after a new yes", erase(t, two, ""), reasonApproved)
	wantReason(t, "and once more", erase(t, one, ""), reasonAsked)
}

// shareBy is the same by another address of Redis.
func shareBy(share func(*config.Config), url string) func(*config.Config) {
	return func(c *config.Config) {
		share(c)
		c.Redis.URL = url
	}
}

// So it is after a failover to a copy that lagged.
func TestFailoverForgetsTheUse(t *testing.T) {
	t.Parallel()
	sentinel := testkit.StartRedisSentinel(t)
	share := sharing(t, sentinel.Primary)
	one, two := start(t, shareBy(share, sentinel.URL())), start(t, shareBy(share, sentinel.URL()))
	id := erase(t, one, "").GetApproval().GetId()
	two.approve(t, id)
	testkit.Eventually(t, "the yes at the copy", func() bool {
		return sentinel.Replica.Client(t).DBSize(context.Background()).Val() > 0 &&
			sentinel.Replica.Info(t, "master_repl_offset") == sentinel.Primary.Info(t, "master_repl_offset")
	})
	sentinel.Detach(t)
	wantReason(t, "after the yes", erase(t, one, ""), reasonApproved)
	sentinel.Primary.Kill(t)
	sentinel.Replica.Resume(t)
	sentinel.AwaitFailover(t)
	for _, r := range []*running{one, two} {
		testkit.Eventually(t, "an answer by Redis", func() bool { return erase(t, r, "").GetReason() != reasonGone })
		wantReason(t, "the use was forgotten", erase(t, r, ""), reasonPending)
		wantReason(t, "by its id", erase(t, r, id), reasonPending)
	}
}
