package redisstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kelpie-authz/kelpie/store"
)

// command is a run of a script that is never sent twice: not by the client after
// a lost answer, since it may have changed something, and not by us.
type command struct {
	*redis.Cmd
}

// NoRetry implements [redis.Cmder]. MaxRetries alone would not do: a cluster
// client sends a command again after a network error whatever that says.
func (c *command) NoRetry() bool { return true }

var (
	errClosed = errors.New("it is closed")
	errDown   = errors.New("Redis did not answer lately, and is asked again as soon as it does") //nolint:staticcheck // A name.
)

// The breaker opens after this many exchanges in a row that failed, or one that
// timed out: whoever waited for a timeout is one too many already.
const failuresToOpen = 3

// The probe asks again after this time, and a little later each time until the
// longest. It is a caller of its own, so no user's call waits for it.
const (
	firstProbe   = 5 * time.Millisecond
	longestProbe = 200 * time.Millisecond
)

// link is the way to Redis, with a breaker that closes it while it does not answer.
type link struct {
	client  redis.UniversalClient
	timeout time.Duration
	// key is one of the slot that everything is in.
	key  string
	tell func(error)

	failures atomic.Int32
	failed   atomic.Int64
	open     atomic.Bool

	mu      sync.Mutex
	closed  bool
	done    chan struct{} // closed by close
	probing sync.WaitGroup
}

// close ends the probe and what is asked from now on.
func (l *link) close() {
	l.mu.Lock()
	l.closed = true
	close(l.done)
	l.mu.Unlock()
	l.probing.Wait()
}

// usable says why nobody can be asked, or nil.
func (l *link) usable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return errClosed
	case l.open.Load():
		return errDown
	}
	return nil
}

// run runs a script, by its name or, if that was not known, by its text: Redis has
// then done nothing. The error is ctx's own or a [store.ErrUnavailable].
func (l *link) run(ctx context.Context, s *script, keys []string, args ...any) (any, error) {
	if err := l.usable(ctx); err != nil {
		return nil, unavailable(ctx, err)
	}
	bound, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	got, err := l.send(bound, "evalsha", s.sha, keys, args)
	if err != nil && redis.HasErrorPrefix(err, "NOSCRIPT") {
		got, err = l.send(bound, "eval", s.text, keys, args)
	}
	if ctx.Err() == nil { // else it is nobody's fault but the caller's
		l.note(err) //nolint:contextcheck // The probe outlives the call.
	}
	if err != nil {
		return nil, unavailable(ctx, err)
	}
	return got, nil
}

func (l *link) send(ctx context.Context, name, what string, keys []string, args []any) (any, error) {
	all := make([]any, 0, 3+len(keys)+len(args))
	all = append(all, name, what, len(keys))
	for _, key := range keys {
		all = append(all, key)
	}
	cmd := &command{redis.NewCmd(ctx, append(all, args...)...)}
	_ = l.client.Process(ctx, cmd) // Result says.
	return cmd.Result()            //nolint:wrapcheck // run does.
}

// outage tells whether an error means that the server is gone or cannot serve.
func outage(err error) bool {
	if _, reply := errors.AsType[redis.Error](err); !reply {
		return true
	}
	text := err.Error()
	for _, prefix := range []string{"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "BUSY", "TRYAGAIN", "NOAUTH", "WRONGPASS"} {
		if strings.HasPrefix(text, prefix) {
			return true
		}
	}
	return false
}

// note counts an exchange for the breaker.
func (l *link) note(err error) {
	if err == nil || !outage(err) {
		l.failures.Store(0)
		if err != nil {
			l.failed.Add(1)
		}
		return
	}
	l.failed.Add(1)
	timeout, isNet := errors.AsType[net.Error](err)
	timedOut := isNet && timeout.Timeout()
	if l.failures.Add(1) < failuresToOpen && !timedOut {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || !l.open.CompareAndSwap(false, true) {
		return
	}
	l.probing.Go(func() { l.probe(err) })
}

// probe asks Redis until it answers, and closes the breaker.
func (l *link) probe(cause error) {
	l.tell(cause)
	wait := firstProbe
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-l.done:
			return
		case <-timer.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), l.timeout)
		err := l.client.Eval(ctx, probeScript.text, []string{l.key}).Err()
		if cluster, ok := l.client.(*redis.ClusterClient); ok && err != nil {
			cluster.ReloadState(ctx) // the slot may be another node's now
		}
		cancel()
		if err == nil || !outage(err) {
			l.failures.Store(0)
			l.open.Store(false)
			l.tell(nil)
			return
		}
		wait = min(2*wait, longestProbe)
		// Replicas that lost the store together do not come back together.
		timer.Reset(wait/2 + rand.N(wait)) //nolint:gosec // It spreads and hides nothing.
	}
}

// unavailable says that Redis could not be asked, and why; of ctx it says what ctx
// does.
func unavailable(ctx context.Context, err error) error {
	if ended := ctx.Err(); ended != nil {
		return ended
	}
	return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
}
