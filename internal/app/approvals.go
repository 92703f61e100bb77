package app

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/store"
	"github.com/kelpie-authz/kelpie/store/sqlitestore"
)

// approvals are the parts that let humans decide.
type approvals struct {
	store store.Approvals
	desk  *pdp.Desk
}

// buildApprovals opens what keeps approvals, and makes the desk over it. recorder
// keeps a record of what happens to them.
func (a *App) buildApprovals(ctx context.Context, recorder pdp.Recorder, recent func(string) string) error {
	// A start that is not wanted any more ends in order all the same.
	kept, err := sqlitestore.Open(context.WithoutCancel(ctx), sqlitestore.Config{Dir: a.cfg.State})
	if err != nil {
		return fmt.Errorf("approvals: %w", err)
	}
	a.approvals.store = kept
	if a.limits.shared != nil {
		a.log.WarnContext(ctx, "approvals are kept by this replica alone: a yes that it was told counts for calls to it", slog.String("key", "state"))
	}
	a.approvals.desk, err = pdp.NewDesk(pdp.DeskConfig{
		Store: kept, Policy: a.policy, Recorder: recorder, Now: a.deps.Now, Recent: recent,
		Timer: func(d time.Duration) (<-chan time.Time, func() bool) {
			t := time.NewTimer(d)
			return t.C, t.Stop
		},
	})
	if err != nil {
		return fmt.Errorf("make the approvals' desk: %w", err)
	}
	return nil
}

// sweepEvery is how soon an approval that nobody asks about is seen to have lapsed.
const sweepEvery = 5 * time.Second

// sweep brings approvals to where they stand, until ctx ends.
func (a *App) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := a.approvals.desk.Sweep(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			a.log.ErrorContext(ctx, "approvals cannot be looked at; calls that need one are denied", slog.Any("error", err))
		}
		failing = err != nil
	}
}

func (l *approvals) close() error {
	if l.store == nil {
		return nil
	}
	if err := l.store.Close(); err != nil {
		return fmt.Errorf("close the approvals: %w", err)
	}
	return nil
}
