package redislimiter

import (
	"context"
	"fmt"
	"time"

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
	if err := limiter.CheckLedgerTTL(ttl); err != nil {
		return err
	}
	_, err := g.l.eval(ctx, keepScript, false, g.key(id), record, max(1, ttl.Milliseconds()))
	return err
}

// Look implements [limiter.Ledger].
func (g *Ledger) Look(ctx context.Context, id string) ([]byte, error) {
	return text(g.l.eval(ctx, lookScript, true, g.key(id), ""))
}

// text is a script's answer that is a text or nothing.
func text(got any, err error) ([]byte, error) {
	if err != nil || got == nil {
		return nil, err
	}
	s, ok := got.(string)
	if !ok {
		return nil, unavailable(fmt.Errorf("%w: a text is a %T", errReply, got))
	}
	return append(make([]byte, 0, len(s)), s...), nil // never nil
}

// Mark implements [limiter.Ledger].
func (g *Ledger) Mark(ctx context.Context, id, mark string, value []byte) ([]byte, error) {
	return text(g.l.eval(ctx, markScript, false, g.key(id), mark, value))
}

// eval runs a script over one key, for what is not a decision. It goes the way of
// decisions, so that it neither waits for a server that is given up nor for a
// connection. Nil without an error is the script's answer of nothing.
func (l *Limiter) eval(ctx context.Context, s *script, readOnly bool, key string, args ...any) (any, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if l.closed.Load() {
		return nil, limiter.ErrClosed
	}
	k := l.only
	if l.nodes != nil {
		var err error
		if k, err = l.nodes.way([]byte(key)); err != nil { //nolint:contextcheck // It looks into what is known.
			return nil, err
		}
	}
	return k.eval(s, readOnly, key, args)
}
