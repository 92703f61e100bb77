package pdp

import (
	"context"
	"sync"
	"time"

	"github.com/kelpie-authz/kelpie/store"
)

// mostOwed bounds what is kept of events that could not be recorded. Nothing is
// allowed while that lasts, so that few come.
const mostOwed = 10_000

// owed are events that happened, and could not be recorded then: the call they were
// of is denied, and they are recorded once that works again. What is owed is lost
// with the process; the calls themselves are recorded as denied even so.
type owed struct {
	paying sync.Mutex // held by the one who records them

	mu     sync.Mutex
	events []owedEvent
}

type owedEvent struct {
	approval *store.Approval
	at       time.Time
	event    *ApprovalEvent
}

func (o *owed) add(e owedEvent) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.events) < mostOwed {
		o.events = append(o.events, e)
	}
}

// happened records what has happened to an approval, now or later. The error is
// that of now.
func (d *Desk) happened(ctx context.Context, a *store.Approval, at time.Time, e *ApprovalEvent) error {
	err := d.recorded(ctx, a, at, e)
	if err != nil {
		d.owed.add(owedEvent{a.Clone(), at, e})
	}
	return err
}

// payOwed records what could not be recorded before, in the order in which it came,
// as far as that works.
func (d *Desk) payOwed(ctx context.Context) error {
	d.owed.paying.Lock()
	defer d.owed.paying.Unlock()
	for {
		d.owed.mu.Lock()
		if len(d.owed.events) == 0 {
			d.owed.events = nil
			d.owed.mu.Unlock()
			return nil
		}
		next := d.owed.events[0]
		d.owed.mu.Unlock()
		if err := d.recorded(ctx, next.approval, next.at, next.event); err != nil {
			return err
		}
		d.owed.mu.Lock()
		d.owed.events = d.owed.events[1:]
		d.owed.mu.Unlock()
	}
}
