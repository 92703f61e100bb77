package redislimiter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kelpie-authz/kelpie/limiter"
)

// Ledger is the [limiter.Ledger] of a Limiter's Redis, so that any replica can
// settle what another one charged. Make it with [Limiter.Ledger]. A record is
// one hash; a mark is set by one script, which is never sent twice.
type Ledger struct {
	l *Limiter
}

var _ limiter.Ledger = (*Ledger)(nil)

// Ledger returns the ledger that is kept beside the limits. It is good until
// Close of the Limiter.
func (l *Limiter) Ledger() *Ledger { return &Ledger{l: l} }

func (g *Ledger) key(id string) string {
	return string(appendHome(nil, g.l.prefix+":ledger", []byte(id), 0, 0))
}

// Keep implements [limiter.Ledger].
func (g *Ledger) Keep(ctx context.Context, id string, record []byte, ttl time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := limiter.CheckLedgerTTL(ttl); err != nil {
		return err
	}
	_, err := g.l.eval(ctx, keepScript, g.key(id), record, max(1, ttl.Milliseconds()))
	return err
}

// Look implements [limiter.Ledger].
func (g *Ledger) Look(ctx context.Context, id string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	record, err := g.l.client.HGet(ctx, g.key(id), "record").Bytes()
	switch {
	case errors.Is(err, redis.Nil):
		return nil, nil
	case err != nil:
		return nil, unavailable(err)
	}
	return record, nil
}

// Mark implements [limiter.Ledger].
func (g *Ledger) Mark(ctx context.Context, id, mark string, value []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	got, err := g.l.eval(ctx, markScript, g.key(id), mark, value)
	if err != nil || got == nil {
		return nil, err
	}
	text, ok := got.(string)
	if !ok {
		return nil, unavailable(fmt.Errorf("%w: a mark is a %T", errReply, got))
	}
	return []byte(text), nil
}

// eval runs a script over one key, for what is not a decision: outside of the
// lanes, and once. Nil without an error is the script's answer of nothing.
func (l *Limiter) eval(ctx context.Context, s *script, key string, args ...any) (any, error) {
	if l.closed.Load() {
		return nil, limiter.ErrClosed
	}
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Options.Timeout)
	defer cancel()
	got, err := l.run(ctx, "evalsha", s.sha, key, args)
	if err != nil && redis.HasErrorPrefix(err, "NOSCRIPT") {
		got, err = l.run(ctx, "eval", s.text, key, args)
	}
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	if err != nil {
		return nil, unavailable(err)
	}
	return got, nil
}

func (l *Limiter) run(ctx context.Context, name, which, key string, args []any) (any, error) {
	cmd := &command{redis.NewCmd(ctx, append([]any{name, which, 1, key}, args...)...)}
	_ = l.client.Process(ctx, cmd)
	return cmd.Result() //nolint:wrapcheck // eval does.
}
