package redislimiter_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9/logging"
	"go.uber.org/goleak"

	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/limiter/redislimiter"
)

func TestMain(m *testing.M) {
	if plan := os.Getenv(replicaEnv); plan != "" {
		runReplica(plan)
		return
	}
	logging.Disable() // the client tells its own log what it meets
	flag.Parse()
	if !full() {
		// The properties of the suite ask Redis at each step.
		_ = flag.Set("rapid.checks", "8")
	}
	goleak.VerifyTestMain(m)
}

// full tells whether the proofs run at their stated counts.
func full() bool { return os.Getenv("KELPIE_PROOF") == "full" }

// seed is that of all random choices; KELPIE_SEED sets another one.
func seed(tb testing.TB) uint64 {
	tb.Helper()
	text := os.Getenv("KELPIE_SEED")
	if text == "" {
		return 1
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		tb.Fatalf("KELPIE_SEED: %v", err)
	}
	return n
}

// patient bounds an exchange in tests that are not about being late: the
// machine may be busy with others.
const patient = 10 * time.Second

var prefixes atomic.Int64

// at is a configuration for a Redis, with a prefix that nobody else has.
func at(url string) redislimiter.Config {
	return redislimiter.Config{
		Options: redislimiter.Options{URL: url, Timeout: patient},
		Prefix:  fmt.Sprint("t", prefixes.Add(1)),
	}
}

// openWith makes a Limiter that the test closes.
func openWith(tb testing.TB, cfg redislimiter.Config) *redislimiter.Limiter {
	tb.Helper()
	l, err := redislimiter.New(context.Background(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

// started makes a Limiter that is closed with the test.
func started(tb testing.TB, cfg redislimiter.Config) *redislimiter.Limiter {
	tb.Helper()
	l := openWith(tb, cfg)
	tb.Cleanup(func() {
		if err := l.Close(); err != nil {
			tb.Error(err)
		}
	})
	return l
}

func startRedis(tb testing.TB) *testkit.Redis {
	tb.Helper()
	return testkit.StartRedis(tb, testkit.RedisConfig{})
}

// slow is a rate that gives burst units and, in the time a test takes, none back.
func slow(burst int64) *limiter.Limit {
	return &limiter.Limit{Name: "slow", Kind: limiter.KindRate, Count: 1, Burst: burst, Period: 24 * time.Hour * 366 / time.Duration(burst)}
}

// units is a charge of whole units.
func units(l *limiter.Limit, key string, n int64) limiter.Charge {
	return limiter.Charge{Limit: l, Key: []byte(key), Cost: limiter.Units(n) * limiter.Unit}
}

// take takes one call.
func take(tb testing.TB, l limiter.Limiter, charges ...limiter.Charge) limiter.Result {
	tb.Helper()
	calls := []limiter.Call{{Charges: charges}}
	if n, err := l.Take(context.Background(), calls, limiter.StopNever); n != 1 || err != nil {
		tb.Fatalf("Take = %d, %v; want 1, nil", n, err)
	}
	return calls[0].Result
}

// left is how much of a charge's limit remains.
func left(tb testing.TB, l limiter.Limiter, c limiter.Charge) limiter.Units {
	tb.Helper()
	calls := []limiter.Call{{Charges: []limiter.Charge{c}}}
	if err := l.Peek(context.Background(), calls); err != nil {
		tb.Fatal(err)
	}
	return calls[0].Result.Limits[0].Remaining
}
