package pdp

import (
	"context"
	"errors"
	"time"

	"github.com/kelpie-authz/kelpie/store"
)

// ApprovalTally is what there was when a Sweep had last seen every open approval.
type ApprovalTally struct {
	// Pending is how many calls wait for humans, and Oldest since when the first of
	// them does; zero if none does.
	Pending int
	Oldest  time.Time
	// BreakGlass is how many emergencies there are.
	BreakGlass int
}

func (t *ApprovalTally) count(a *store.Approval) {
	switch {
	case a.State == store.Pending && a.Grant == nil:
		if t.Pending++; t.Oldest.IsZero() || a.OpenedAt.Before(t.Oldest) {
			t.Oldest = a.OpenedAt
		}
	case a.State == store.Approved && a.Grant != nil && a.Grant.BreakGlass != nil:
		t.BreakGlass++
	}
}

// Tally is what the last Sweep saw that came to its end; the zero tally before.
func (d *Desk) Tally() ApprovalTally { return *d.tally.Load() }

// Sweep brings every open approval to where it stands, so that what lapsed is
// recorded and told to those who watch though nobody asks for it, and removes
// what ended long ago. It begins with what could not be recorded when it happened.
// Call it from time to time, and after a policy was loaded. It reads every open
// approval, page by page.
func (d *Desk) Sweep(ctx context.Context) error {
	v, err := d.view()
	if err != nil {
		return err
	}
	unrecorded := d.payOwed(ctx)
	var tally ApprovalTally
	for after := ""; ; {
		found, next, err := d.cfg.Store.List(ctx, store.Filter{States: openStates(), Limit: maxListed, After: after})
		if err != nil {
			return err
		}
		for _, a := range found {
			now, err := d.bring(ctx, a, &v, true)
			switch {
			case errors.Is(err, store.ErrNotFound):
			case errors.Is(err, ErrUnrecorded):
				unrecorded = err // It is owed; what comes after it lapses all the same.
			case err != nil:
				return err
			default:
				tally.count(now)
			}
		}
		if next == "" {
			break
		}
		after = next
	}
	d.tally.Store(&tally)
	for {
		n, err := d.cfg.Store.Prune(ctx, v.now.Add(-d.cfg.Keep))
		if err != nil || n == 0 {
			return errors.Join(unrecorded, err)
		}
	}
}
