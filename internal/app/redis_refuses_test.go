package app_test

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	adminv1 "github.com/kelpie-authz/kelpie/gen/kelpie/admin/v1"
	"github.com/kelpie-authz/kelpie/internal/app"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// What Redis refuses is counted, and a reset that failed is a warning with its
// cause; no breaker opens for it.
func TestRedisRefuses(t *testing.T) {
	t.Parallel()
	redis := testkit.StartRedis(t, testkit.RedisConfig{})
	r := startReplicas(t, redis, 1)[0]
	ctx, admin := r.admin(t)
	redis.Do(t, "acl", "setuser", "default", "-scan")
	if _, err := admin.ResetLimits(ctx, &adminv1.ResetLimitsRequest{Agent: "reader", As: "ann"}); err == nil {
		t.Error("a reset that may not look for its keys was done")
	}
	line := regexp.MustCompile(`"level":"WARN","msg":"limits reset","agent":"reader","as":"ann".*"failed":true,"cause":"[^"]*NOPERM[^"]*'scan' command`)
	testkit.Eventually(t, "the line of the reset", func() bool { return line.MatchString(r.stdout.String()) })
	redis.Do(t, "acl", "setuser", "default", "-psetex")
	if got := (replicas{r}).ask(t, 0, 3, "hard/1"); got[reasonGone] != 3 {
		t.Errorf("calls that Redis refuses: %v", got)
	}
	_, metrics := r.get(t, "/metrics")
	for _, want := range []string{"kelpie_redis_refused_total 4\n", "kelpie_redis_failures_total 0\n", "kelpie_redis_breaker_open 0\n"} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics lacks %q: %s", want, regexp.MustCompile(`kelpie_redis_[a-z_]+total .*`).FindAllString(metrics, -1))
		}
	}
}

// A replica that nobody asks says that Redis is gone, and that it is back.
func TestIdleReplicaTells(t *testing.T) {
	t.Parallel()
	redis := testkit.StartRedis(t, testkit.RedisConfig{})
	r := start(t, func(c *config.Config) { c.Policy, c.Redis.URL = policyDir(t, sharedPolicy), redis.URL() })
	redis.Kill(t)
	r.awaitBreaker(t, true)
	if code, body := r.get(t, "/readyz"); code != http.StatusOK || !strings.Contains(body, "Redis does not answer") {
		t.Errorf("/readyz says %d %q", code, body)
	}
	if !strings.Contains(r.stderr.String(), `"level":"WARN","msg":"Redis does not answer`) {
		t.Errorf("the log tells nothing:\n%s", r.stderr.String())
	}
	redis.Restart(t)
	r.awaitBreaker(t, false)
	testkit.Eventually(t, "the line of its return", func() bool { return strings.Contains(r.stderr.String(), "Redis answers again") })
}

// Where the user of Redis may do what limits need and no more, a server that keeps
// approvals there does not start, and says what to grant.
func TestStartNamesRightsOfApprovals(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(testkit.Root(t), "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^ACL SETUSER kelpie on >PASSWORD .*$`).FindString(string(page))
	redis := testkit.StartRedis(t, testkit.RedisConfig{})
	var rule []any
	for word := range strings.FieldsSeq(strings.ReplaceAll(line, "PASSWORD", testkit.Secret)) {
		rule = append(rule, word)
	}
	redis.Do(t, rule...)
	share := sharing(t, redis)
	as := func(c *config.Config) {
		share(c)
		c.Redis.URL, c.Redis.Password = strings.Replace(redis.URL(), "://", "://kelpie@", 1), testkit.Secret
	}
	cfg := config.Default()
	as(cfg)
	cfg.State = filepath.Join(t.TempDir(), "state")
	_, err = app.New(t.Context(), cfg, app.Deps{Stdout: &testkit.Buffer{}, Stderr: &testkit.Buffer{}, Embedded: true})
	if err == nil {
		t.Fatal("it starts")
	}
	granted := regexp.MustCompile(`redis: keep approvals in Redis: its user may not do what approvals need; grant it on each server: (ACL SETUSER kelpie &kelpie:\* .*\+zinter .*) \(docs/approvals\.md has the whole line`)
	got := granted.FindStringSubmatch(err.Error())
	if got == nil {
		t.Fatalf("it says %v", err)
	}
	rule = nil
	for word := range strings.FieldsSeq(got[1]) {
		rule = append(rule, word)
	}
	redis.Do(t, rule...)
	start(t, as)
}
