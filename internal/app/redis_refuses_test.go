package app_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	adminv1 "github.com/kelpie-authz/kelpie/gen/kelpie/admin/v1"
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
