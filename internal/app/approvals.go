package app

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/server"
	"github.com/kelpie-authz/kelpie/store"
	"github.com/kelpie-authz/kelpie/store/redisstore"
	"github.com/kelpie-authz/kelpie/store/sqlitestore"
)

// approvals are the parts that let humans decide.
type approvals struct {
	store store.Approvals
	// shared is the store if it is in Redis, else nil.
	shared *redisstore.Store
	desk   *pdp.Desk
	holder *pdp.Holder
	// failing is why they could not be looked at the last time; nil: they could.
	failing atomic.Pointer[string]
}

// buildApprovals opens what keeps approvals, and makes the desk over it. recorder
// keeps a record of what happens to them.
func (a *App) buildApprovals(ctx context.Context, recorder pdp.Recorder, recent func(string) string) error {
	// A start that is not wanted any more ends in order all the same.
	if err := a.openApprovals(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("approvals: %w", err)
	}
	var err error
	a.approvals.desk, err = pdp.NewDesk(pdp.DeskConfig{
		Store: a.approvals.store, Policy: a.policy, Recorder: recorder, Now: a.deps.Now, Recent: recent, Timer: newTimer, Verified: a.verified,
	})
	if err != nil {
		return fmt.Errorf("make the approvals' desk: %w", err)
	}
	return nil
}

// openApprovals opens what keeps approvals: Redis if there is a key to seal them by,
// else a file of this server.
func (a *App) openApprovals(ctx context.Context) error {
	if a.cfg.ApprovalsKeyFile != "" {
		shared, err := a.shareApprovals(ctx)
		if shared != nil {
			a.approvals.store, a.approvals.shared = shared, shared
		}
		return err
	}
	kept, err := sqlitestore.Open(ctx, sqlitestore.Config{Dir: a.cfg.State})
	if err != nil {
		return err
	}
	a.approvals.store = kept
	if a.limits.shared != nil {
		a.log.WarnContext(ctx, "approvals are kept by this replica alone, and a yes that it was told counts for calls to it: "+
			"to share them set approvals_key_file, the same on every replica; docs/approvals.md tells how to make the file", slog.String("key", "approvals_key_file"))
	}
	return nil
}

func newTimer(d time.Duration) (fires <-chan time.Time, stop func() bool) {
	t := time.NewTimer(d)
	return t.C, t.Stop
}

// buildHolder makes what holds calls until their approval is decided.
func (a *App) buildHolder() error {
	holder, err := pdp.NewHolder(pdp.HolderConfig{Service: a.decider, Store: a.approvals.store, Timer: newTimer, Waiting: server.Waiting})
	if err != nil {
		return fmt.Errorf("make what holds calls: %w", err)
	}
	a.approvals.holder = holder
	return a.register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kelpie_approvals_failing", Help: "1 while approvals cannot be looked at, and calls that need one are denied.",
	}, func() float64 {
		if a.approvals.failing.Load() != nil {
			return 1
		}
		return 0
	}), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kelpie_held", Help: "Calls held until their approval is decided; they are not in flight.",
	}, func() float64 { return float64(holder.Held()) }), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kelpie_breakglass_active", Help: "Emergencies in which an agent's calls wait for nobody's yes, over all replicas that share approvals.",
	}, func() float64 { return float64(a.approvals.desk.Tally().BreakGlass) }), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kelpie_approvals_pending", Help: "Calls that wait for humans, over all replicas that share approvals.",
	}, func() float64 { return float64(a.approvals.desk.Tally().Pending) }), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kelpie_approvals_oldest_seconds", Help: "For how long the first of the calls that wait for humans has waited; 0 if none does.",
	}, func() float64 {
		if since := a.approvals.desk.Tally().Oldest; !since.IsZero() {
			return a.deps.Now().Sub(since).Seconds()
		}
		return 0
	}))
}

const (
	// sweepEvery is how soon an approval that nobody asks about is seen to have lapsed.
	sweepEvery = 5 * time.Second
	// sweepShare bounds the time that looking at them takes: with very many of them it
	// is done less often.
	sweepShare = 50
)

// sweep brings approvals to where they stand, until ctx ends.
func (a *App) sweep(ctx context.Context) {
	timer := time.NewTimer(sweepEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		begun := time.Now()
		err := a.approvals.desk.Sweep(ctx)
		if ctx.Err() != nil {
			return
		}
		a.swept(ctx, err)
		timer.Reset(max(sweepEvery, sweepShare*time.Since(begun)))
	}
}

// swept tells how the last look at all approvals went, once each time that it changes.
func (a *App) swept(ctx context.Context, err error) {
	if err == nil {
		if a.approvals.failing.Swap(nil) != nil {
			a.log.InfoContext(ctx, "approvals can be looked at again")
		}
		return
	}
	text := err.Error()
	if a.approvals.failing.Swap(&text) == nil {
		a.log.ErrorContext(ctx, "approvals cannot be looked at; calls that need one are denied", slog.Any("error", err))
	}
}

// alarming makes what records decisions say aloud that somebody broke the glass.
func (a *App) alarming(next pdp.Recorder) pdp.Recorder {
	return pdp.Observe(next, func(ctx context.Context, r *pdp.Record, err error) {
		if r.Event == nil || r.Event.Kind != pdp.ApprovalBreakGlass || r.Event.Failed || err != nil {
			return
		}
		a.log.ErrorContext(ctx, "somebody broke the glass: calls of this agent wait for nobody's yes", slog.String("id", r.ApprovalID),
			slog.String("agent", r.Agent), slog.String("actions", cmp.Or(r.Action, "any")), slog.String("resources", r.Resource), slog.String("by", r.Event.Actor), slog.String("why", r.Event.Why), slog.Time("until", r.ApprovalExpires))
	})
}

// fault is what of the approvals does not work now; "" if all does.
func (l *approvals) fault() string {
	if l.shared != nil && l.shared.Stats().Down {
		return "Redis does not answer: calls that need an approval are denied"
	}
	if why := l.failing.Load(); why != nil {
		return "approvals cannot be looked at, so calls that need one are denied: " + *why
	}
	return ""
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
