package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Timer starts a timer, as time.NewTimer does: fires receives once after d,
// unless stop comes before.
type Timer func(d time.Duration) (fires <-chan time.Time, stop func() bool)

// Config is what a [Dispatcher] is made of. Outbox, Log and Timer are needed.
type Config struct {
	Outbox Outbox
	// Channels have names of their own each.
	Channels []Channel
	// Log gets what fails: a line per event that is dropped, and one per channel
	// each time that it begins or ends to fail.
	Log   *slog.Logger
	Timer Timer
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
	// Jitter is from 0 to 1. Nil: by chance.
	Jitter func() float64
}

// Dispatcher delivers what is in an outbox. It is safe for concurrent use.
type Dispatcher struct {
	cfg      Config
	channels []*worker

	mu      sync.Mutex
	unheard uint64
	late    []lateEvent
}

// mostLate bounds the events that could not be kept and are tried again.
const mostLate = 1000

// lateEvent is one that could not be kept when it came.
type lateEvent struct {
	event *Event
	names []string
}

// NewDispatcher makes a Dispatcher, or says what of the configuration is wrong.
func NewDispatcher(cfg Config) (*Dispatcher, error) {
	if cfg.Outbox == nil || cfg.Log == nil || cfg.Timer == nil {
		return nil, errors.New("notify: Config.Outbox, Config.Log or Config.Timer is missing")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Jitter == nil {
		cfg.Jitter = rand.Float64
	}
	d := &Dispatcher{cfg: cfg}
	names := map[string]bool{}
	for _, c := range cfg.Channels {
		if names[c.Name()] {
			return nil, fmt.Errorf("notify: two channels are named %s; give each a name of its own", c.Name())
		}
		names[c.Name()] = true
		d.channels = append(d.channels, &worker{cfg: &d.cfg, to: c, wake: make(chan struct{}, 1)})
	}
	return d, nil
}

// Enqueue keeps an event for all channels that want it, or only for those named.
// What could not be kept is logged, and tried again from memory while Run runs: it can
// come late then, behind others of its approval. The error is for whoever wants to
// know. More than 1,000 such events are counted as dropped.
func (d *Dispatcher) Enqueue(ctx context.Context, e *Event, only ...string) error {
	var names []string
	var want []*worker
	for _, w := range d.channels {
		if w.to.Wants(e.Type) && !w.isGone() && (len(only) == 0 || slices.Contains(only, w.to.Name())) {
			names, want = append(names, w.to.Name()), append(want, w)
		}
	}
	if len(want) == 0 {
		return nil
	}
	if err := d.cfg.Outbox.Enqueue(ctx, e, names, d.cfg.Now()); err != nil {
		again := d.keepLate(e, names)
		if !again {
			for _, w := range want {
				w.count(func(s *Stats) { s.Dropped++ })
			}
		}
		d.cfg.Log.ErrorContext(ctx, "a notification could not be kept; approvals go on without it", slog.Bool("tried_again", again),
			slog.String("approval_id", e.Approval.ID), slog.String("event", string(e.Type)), slog.Any("error", err))
		return fmt.Errorf("keep a notification: %w", err)
	}
	d.wake(names)
	return nil
}

// wake has the channels of these names look for what waits.
func (d *Dispatcher) wake(names []string) {
	for _, w := range d.channels {
		if !slices.Contains(names, w.to.Name()) {
			continue
		}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// keepLate keeps an event for the next try; false: there are too many.
func (d *Dispatcher) keepLate(e *Event, names []string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.late) >= mostLate {
		return false
	}
	d.late = append(d.late, lateEvent{e, names})
	return true
}

// enqueueLate tries again what could not be kept, the oldest first.
func (d *Dispatcher) enqueueLate(ctx context.Context) {
	for {
		d.mu.Lock()
		if len(d.late) == 0 {
			d.late = nil
			d.mu.Unlock()
			return
		}
		next := d.late[0]
		d.mu.Unlock()
		if d.cfg.Outbox.Enqueue(ctx, next.event, next.names, d.cfg.Now()) != nil {
			return
		}
		d.wake(next.names)
		d.mu.Lock()
		d.late = d.late[1:]
		d.mu.Unlock()
	}
}

// How often the outbox is looked after, and what it keeps.
const (
	watchEvery    = 5 * time.Second
	heardWithin   = time.Minute
	pruneEvery    = time.Hour
	keepEnded     = 3 * 24 * time.Hour
	outboxTimeout = 5 * time.Second
)

// Run delivers until ctx ends; what is under way then has three more seconds, or is
// tried again after the next start. Call it once.
func (d *Dispatcher) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, w := range d.channels {
		all.Go(func() { w.run(ctx) })
	}
	all.Go(func() { d.watch(ctx) })
	all.Wait()
}

// watch raises the alarm for approvals that nobody was told of, and removes what
// is old.
func (d *Dispatcher) watch(ctx context.Context) {
	var pruned time.Time
	for {
		d.enqueueLate(ctx)
		now := d.cfg.Now()
		ids, err := d.cfg.Outbox.Unheard(ctx, now.Add(-heardWithin))
		for _, id := range ids {
			d.mu.Lock()
			d.unheard++
			d.mu.Unlock()
			d.cfg.Log.ErrorContext(ctx, "no channel has taken the question within a minute; nobody may know that an approval waits", slog.String("approval_id", id))
		}
		if err == nil && now.Sub(pruned) >= pruneEvery {
			pruned = now
			err = d.cfg.Outbox.Prune(ctx, now.Add(-keepEnded))
		}
		if err != nil && ctx.Err() == nil {
			d.cfg.Log.WarnContext(ctx, "the outbox of notifications cannot be looked after", slog.Any("error", err))
		}
		fires, stop := d.cfg.Timer(watchEvery)
		select {
		case <-ctx.Done():
			stop()
			return
		case <-fires:
		}
	}
}

// Unheard is how many questions no channel had taken after a minute.
func (d *Dispatcher) Unheard() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.unheard
}

// Stats returns how it went since the start, one per channel, with what waits now.
func (d *Dispatcher) Stats(ctx context.Context) ([]Stats, error) {
	pending, err := d.cfg.Outbox.Pending(ctx)
	now := d.cfg.Now()
	out := make([]Stats, len(d.channels))
	for i, w := range d.channels {
		out[i] = w.snapshot()
		if waits, ok := pending[out[i].Channel]; ok {
			// A clock that was set back makes nothing younger than new.
			out[i].Pending, out[i].Oldest = waits.Count, max(now.Sub(waits.Since), 0)
		}
	}
	if err != nil {
		return out, fmt.Errorf("count what waits: %w", err)
	}
	return out, nil
}

// Faults says in words which channels have failed for a minute with something
// that waits.
func (d *Dispatcher) Faults(ctx context.Context) []string {
	stats, err := d.Stats(ctx)
	if err != nil {
		return []string{"the outbox of notifications cannot be read: " + err.Error()}
	}
	var faults []string
	for i := range stats {
		s := &stats[i]
		switch {
		case s.Gone:
			faults = append(faults, "notifications: "+s.Channel+" says that it is gone; nothing is sent to it until the next start")
		case s.Pending > 0 && !s.FailingSince.IsZero() && d.cfg.Now().Sub(s.FailingSince) >= heardWithin:
			faults = append(faults, fmt.Sprintf("notifications: %s has failed since %s, and %d wait for it: %s",
				s.Channel, s.FailingSince.UTC().Format(time.RFC3339), s.Pending, s.Why))
		}
	}
	return faults
}
