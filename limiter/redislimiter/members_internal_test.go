package redislimiter

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// resting is a limiter without a heartbeat of its own, for a Redis that stands
// still, and a heartbeat that a test drives.
func resting(t *testing.T, url string) (*Limiter, *members) {
	t.Helper()
	o := Options{URL: url, Timeout: 50 * time.Millisecond}
	client, err := newClient(&o, 2)
	if err != nil {
		t.Fatal(err)
	}
	l, err := newLimiter(client, Config{Options: o})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, &members{l: l}
}

// Heartbeats open the breaker where two in a row failed and nothing was answered
// between them.
func TestMissedHeartbeats(t *testing.T) {
	t.Parallel()
	r := testkit.StartRedis(t, testkit.RedisConfig{})
	r.Pause(t) // or the probe would close what was opened
	for _, c := range []struct {
		name string
		acts func(l *Limiter, m *members)
		open bool
	}{
		{"one", func(_ *Limiter, m *members) { m.miss(os.ErrDeadlineExceeded) }, false},
		{"two", func(_ *Limiter, m *members) { m.miss(os.ErrDeadlineExceeded); m.miss(os.ErrDeadlineExceeded) }, true},
		{"one, and one after an answer", func(l *Limiter, m *members) {
			m.miss(os.ErrDeadlineExceeded)
			l.stats.exchanges.Add(1)
			m.miss(os.ErrDeadlineExceeded)
		}, false},
		{"two with calls that fail too", func(l *Limiter, m *members) {
			m.miss(os.ErrDeadlineExceeded)
			l.stats.exchanges.Add(1)
			l.stats.failures.Add(1)
			m.miss(os.ErrDeadlineExceeded)
		}, true},
		{"two after an answer", func(l *Limiter, m *members) {
			m.miss(os.ErrDeadlineExceeded)
			l.stats.exchanges.Add(1)
			m.miss(os.ErrDeadlineExceeded)
			m.miss(os.ErrDeadlineExceeded)
		}, true},
		{"where calls are answered, one server", func(l *Limiter, m *members) {
			m.miss(io.EOF)
			l.stats.exchanges.Add(1)
			m.miss(io.EOF)
		}, false},
	} {
		l, m := resting(t, r.URL())
		c.acts(l, m)
		if s := l.Stats(); (s.Open == 1) != c.open || s.Opened != s.Open {
			t.Errorf("%s: %d breakers are open, %d opened; want open: %v", c.name, s.Open, s.Opened, c.open)
		}
	}
}

// What shows that a server is gone is enough in a cluster, where others answer.
func TestDead(t *testing.T) {
	t.Parallel()
	l, m := resting(t, "redis://"+testkit.FreeAddr(t))
	if _, err := m.ask(); !dead(err) {
		t.Errorf("a heartbeat to nobody: %v is not taken for dead", err)
	}
	for _, err := range []error{os.ErrDeadlineExceeded, errors.New("ERR max number of clients reached")} {
		if dead(err) {
			t.Errorf("%v is taken for dead", err)
		}
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	m.miss(io.EOF) // A heartbeat that fails while the limiter is closed opens nothing.
	m.miss(io.EOF)
	if n := l.Stats().Opened; n != 0 {
		t.Errorf("%d breakers opened after the end", n)
	}
}
