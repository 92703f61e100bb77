package redislimiter_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/limiter/redislimiter"
)

// place is a Redis of one form, of which one server is behind a proxy.
type place struct {
	url    string
	server *testkit.Redis // the one behind the proxy
	proxy  *testkit.CutProxy
	dialer func(context.Context, string, string) (net.Conn, error)
	// here tells whether the server keeps a key.
	here func(key string) bool
	// plain makes a client that sends a command again if its reply is lost.
	plain func() redis.UniversalClient
}

func newPlace(tb testing.TB, url string, server *testkit.Redis) *place {
	tb.Helper()
	p := &place{url: url, server: server, proxy: testkit.StartCutProxy(tb, server.Addr)}
	p.dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == server.Addr {
			addr = p.proxy.Addr
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
	p.here = func(string) bool { return true }
	return p
}

func singlePlace(tb testing.TB) *place {
	tb.Helper()
	r := startRedis(tb)
	p := newPlace(tb, r.URL(), r)
	p.plain = func() redis.UniversalClient {
		return redis.NewClient(&redis.Options{Addr: r.Addr, Dialer: p.dialer, MaxRetries: 3})
	}
	return p
}

func sentinelPlace(tb testing.TB) *place {
	tb.Helper()
	s := testkit.StartRedisSentinel(tb)
	p := newPlace(tb, s.URL(), s.Primary)
	p.plain = func() redis.UniversalClient {
		return redis.NewFailoverClient(&redis.FailoverOptions{MasterName: s.Master, SentinelAddrs: s.Sentinels(), Dialer: p.dialer, MaxRetries: 3})
	}
	return p
}

func clusterPlace(tb testing.TB) *place {
	tb.Helper()
	c := testkit.StartRedisCluster(tb)
	const node = 1
	p := newPlace(tb, c.URL(), c.Nodes[node])
	p.here = func(key string) bool { return c.Owner(tb, c.Slot(tb, key)) == node }
	p.plain = func() redis.UniversalClient {
		return redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs(), Dialer: p.dialer, MaxRetries: 3})
	}
	return p
}

// cutCase is one replica behind the proxy and one that asks directly.
type cutCase struct {
	*place

	prefix    string
	far, near *redislimiter.Limiter
	keys      int
}

func (p *place) open(tb testing.TB) *cutCase {
	tb.Helper()
	cfg := at(p.url)
	redislimiter.Lanes(&cfg, 1)
	c := &cutCase{place: p, prefix: cfg.Prefix, near: beside(tb, cfg, p.url)}
	cfg.Options.Dialer = p.dialer
	c.far = started(tb, cfg)
	redislimiter.Leave(c.far) // its heartbeat might be what is cut
	// Redis knows the scripts from now on: else the reply that is cut would be that it does not.
	other := take(tb, c.far, units(slow(1000), c.key(true), 1)).Receipt.Clone()
	if err := c.far.Refund(context.Background(), &other); err != nil {
		tb.Fatal(err)
	}
	return c
}

// key is another one whose value the server keeps, or another server.
func (c *cutCase) key(here bool) string {
	for {
		c.keys++
		key := fmt.Sprint("k", c.keys)
		if c.here(redislimiter.HomeKey(c.prefix, []byte(key), 0, 0)) == here {
			return key
		}
	}
}

// lost fails unless f's error says that the store could not be asked, and one
// reply was lost.
func (c *cutCase) lost(tb testing.TB, f func() error) {
	tb.Helper()
	before := c.proxy.Cuts()
	c.proxy.Cut(1, "evalsha", "eval")
	err := f()
	c.settled(tb, before, err)
}

func (c *cutCase) settled(tb testing.TB, before int, errs ...error) {
	tb.Helper()
	for _, err := range errs {
		if !errors.Is(err, limiter.ErrUnavailable) {
			tb.Errorf("its reply was lost: %v; want %v", err, limiter.ErrUnavailable)
		}
	}
	c.proxy.Settle(tb)
	if n := c.proxy.Cuts() - before; n != 1 {
		tb.Fatalf("%d replies were lost, want 1", n)
	}
}

// back waits until the far replica is answered again: its breaker may be open.
func (c *cutCase) back(tb testing.TB) {
	tb.Helper()
	other := units(slow(1000), c.key(true), 1)
	testkit.Eventually(tb, "an answer after the cut", func() bool {
		_, ok := answers(tb, c.far, other)
		return ok
	})
}

// cutQuota is a limit of which a refund that ran twice would be seen.
func cutQuota() *limiter.Limit {
	return &limiter.Limit{Name: "month", Kind: limiter.KindQuota, Count: 1000, Calendar: limiter.CalendarMonth}
}

// remains fails unless so much of 1000 units is left.
func (c *cutCase) remains(tb testing.TB, what string, charge limiter.Charge, want int) {
	tb.Helper()
	if got := left(tb, c.near, charge); got != limiter.Units(want)*limiter.Unit {
		tb.Errorf("%s: %v of 1000 units are left, want %d", what, float64(got)/float64(limiter.Unit), want)
	}
}

// cuts are what can be lost on the way back.
var cuts = map[string]func(testing.TB, *cutCase){
	"one_call": func(tb testing.TB, c *cutCase) {
		tb.Helper()
		charge := units(slow(1000), c.key(true), 1)
		c.lost(tb, func() error {
			_, err := c.far.Take(context.Background(), []limiter.Call{{Charges: []limiter.Charge{charge}}}, limiter.StopNever)
			return err
		})
		c.remains(tb, "a call", charge, 999)
	},
	"batch": func(tb testing.TB, c *cutCase) {
		tb.Helper()
		rate := units(slow(1000), c.key(true), 1)
		quota := units(cutQuota(), c.key(true), 1)
		calls := []limiter.Call{{Charges: []limiter.Charge{rate}}, {Charges: []limiter.Charge{quota}}}
		before := c.proxy.Cuts()
		c.proxy.Cut(1, "evalsha", "eval")
		n, err := c.far.Take(context.Background(), calls, limiter.StopNever)
		c.settled(tb, before, err)
		lost := 2
		for i := range calls {
			if calls[i].Result.Admitted {
				lost--
			}
		}
		if lost == 0 || n == 2 {
			tb.Errorf("%d calls are said to be judged, and %d to be admitted", n, 2-lost)
		}
		// In a cluster the calls go apart, and the one behind the failed one is given back.
		for i, charge := range []limiter.Charge{rate, quota} {
			if got := left(tb, c.near, charge); got < 999*limiter.Unit {
				tb.Errorf("call %d of a batch: %v of 1000 units are left, want at least 999", i, got)
			}
		}
	},
	"pipeline": pipelineCut,
	"refund": func(tb testing.TB, c *cutCase) {
		tb.Helper()
		charge := units(cutQuota(), c.key(true), 10)
		take(tb, c.near, charge)
		receipt := take(tb, c.far, charge).Receipt.Clone()
		c.lost(tb, func() error { return c.far.Refund(context.Background(), &receipt) })
		c.remains(tb, "a refund", charge, 990)
		if !receipt.Empty() {
			tb.Error("what was to be refunded can be refunded again")
		}
	},
	"debit": func(tb testing.TB, c *cutCase) {
		tb.Helper()
		charge := units(cutQuota(), c.key(true), 10)
		receipt := take(tb, c.far, charge).Receipt.Clone()
		c.lost(tb, func() error { return c.far.Debit(context.Background(), &receipt) })
		c.remains(tb, "a debit", charge, 980)
	},
}

// pipelineCut loses the reply to the first of two commands that went together.
func pipelineCut(tb testing.TB, c *cutCase) {
	tb.Helper()
	window := &limiter.Limit{Name: "window", Kind: limiter.KindWindow, Count: 1000, Period: time.Hour}
	charges := []limiter.Charge{units(slow(1000), c.key(true), 1), units(window, c.key(true), 1)}
	ahead := units(slow(1000), c.key(true), 1)
	take(tb, c.far, ahead) // the script is known from now on
	before, sent := c.proxy.Cuts(), c.proxy.Commands()
	c.proxy.Hold()
	errs := make(chan error, 3)
	ask := func(charge limiter.Charge) {
		_, err := c.far.Take(context.Background(), []limiter.Call{{Charges: []limiter.Charge{charge}}}, limiter.StopNever)
		errs <- err
	}
	go ask(ahead)
	testkit.Eventually(tb, "the call ahead at Redis", func() bool { return c.proxy.Commands() > sent })
	for i := range charges {
		go ask(charges[i])
	}
	testkit.Eventually(tb, "two calls that wait", func() bool { return c.far.Waiting() == 2 })
	exchanges := c.far.Stats().Exchanges
	c.proxy.Cut(1, "evalsha", "eval")
	c.proxy.Release()
	if err := testkit.Receive(tb, "the answer to the call ahead", errs); err != nil {
		tb.Error(err)
	}
	c.settled(tb, before, testkit.Receive(tb, "an error", errs), testkit.Receive(tb, "an error", errs))
	if n := c.far.Stats().Exchanges - exchanges; n != 2 {
		tb.Errorf("%d exchanges, want 2: the call ahead, and two in one pipeline", n)
	}
	// The second command may be on its way yet.
	testkit.Eventually(tb, "two charges", func() bool {
		return left(tb, c.near, charges[0]) < 1000*limiter.Unit && left(tb, c.near, charges[1]) < 1000*limiter.Unit
	})
	c.proxy.Settle(tb)
	for i, name := range []string{"the first of a pipeline", "the second of a pipeline"} {
		c.remains(tb, name, charges[i], 999)
	}
}

// A reply that is lost leaves one charge and an error, whatever the call and the
// form of Redis.
func TestCutAfterSend(t *testing.T) {
	t.Parallel()
	for name, build := range map[string]func(testing.TB) *place{"single": singlePlace, "sentinel": sentinelPlace, "cluster": clusterPlace} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := build(t)
			for name, cut := range cuts {
				t.Run(name, func(t *testing.T) {
					c := p.open(t)
					cut(t, c)
					c.back(t)
					if opened := c.far.Stats().Opened; opened > 0 {
						t.Errorf("the breaker opened %d times for one lost reply", opened)
					}
				})
			}
			t.Run("control", func(t *testing.T) { p.control(t) })
		})
	}
}

// control shows that the fault makes a client with retries charge twice.
func (p *place) control(t *testing.T) {
	t.Helper()
	client := p.plain()
	defer func() { _ = client.Close() }()
	key := "control"
	for i := 0; !p.here(key); i++ {
		key = fmt.Sprint("control", i)
	}
	if err := client.Get(t.Context(), key).Err(); !errors.Is(err, redis.Nil) {
		t.Fatal(err)
	}
	before := p.proxy.Cuts()
	p.proxy.Cut(1, "eval")
	cmd := redis.NewCmd(t.Context(), "eval", "return redis.call('INCR', KEYS[1])", 1, key)
	_ = client.Process(t.Context(), cmd)
	p.proxy.Settle(t)
	n, err := p.server.Client(t).Get(t.Context(), key).Int()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("a plain command on a client with MaxRetries 3 was run %d times, and said %v", n, cmd.Err())
	if n < 2 || p.proxy.Cuts()-before != 1 {
		t.Errorf("a plain command was run %d times with %d cuts: the fault is none", n, p.proxy.Cuts()-before)
	}
}

// In a cluster, what one node was charged goes back if the answer of another one
// is lost, which stays charged.
func TestCutBetweenNodes(t *testing.T) {
	t.Parallel()
	c := clusterPlace(t).open(t)
	other, here := units(cutQuota(), c.key(false), 1), units(cutQuota(), c.key(true), 1)
	c.lost(t, func() error {
		_, err := c.far.Take(context.Background(), []limiter.Call{{Charges: []limiter.Charge{other, here}}}, limiter.StopNever)
		return err
	})
	c.remains(t, "the node that answered", other, 1000)
	c.remains(t, "the node whose answer was lost", here, 999)
}
