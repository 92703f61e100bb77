package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Stats is how one channel does.
type Stats struct {
	Channel string
	// Delivered, Failed and Dropped count events that were taken, tries in vain,
	// and events that were given up or could not be kept.
	Delivered, Failed, Dropped uint64
	// Pending is how many events wait, and Oldest for how long the oldest of them
	// has; zero if none does.
	Pending int
	Oldest  time.Duration
	// FailingSince is since when every try was in vain, and Why the last one was;
	// zero if the last one was not.
	FailingSince time.Time
	Why          string
	// Gone says that the far end wants no more events.
	Gone bool
}

// worker delivers to one channel, one event after the other.
type worker struct {
	cfg  *Config
	to   Channel
	wake chan struct{}

	// Of run alone.
	breaker breaker

	mu    sync.Mutex
	stats Stats
}

func (w *worker) count(f func(*Stats)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.stats)
}

func (w *worker) snapshot() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.stats
	s.Channel = w.to.Name()
	return s
}

func (w *worker) isGone() bool { return w.snapshot().Gone }

// idle is how long a channel looks for nothing if nobody wakes it.
const idle = time.Minute

func (w *worker) run(ctx context.Context) {
	for ctx.Err() == nil {
		wait := w.turn(ctx)
		if wait <= 0 {
			continue
		}
		fires, stop := w.cfg.Timer(wait)
		select {
		case <-ctx.Done():
		case <-w.wake:
		case <-fires:
		}
		stop()
	}
}

// turn delivers one event if one is due, and returns how long there is nothing to do.
func (w *worker) turn(ctx context.Context) time.Duration {
	now := w.cfg.Now()
	if w.isGone() {
		return idle
	}
	if until := w.breaker.open(now); !until.IsZero() {
		return until.Sub(now)
	}
	d, next, err := w.cfg.Outbox.Next(ctx, w.to.Name(), now)
	switch {
	case err != nil:
		if ctx.Err() == nil {
			w.cfg.Log.ErrorContext(ctx, "the outbox of notifications cannot be read", slog.String("channel", w.to.Name()), slog.Any("error", err))
		}
		return watchEvery
	case d == nil && next.IsZero():
		return idle
	case d == nil:
		return min(max(next.Sub(now), time.Millisecond), idle)
	}
	if err := w.deliver(ctx, d); err != nil {
		w.cfg.Log.ErrorContext(ctx, "the outbox of notifications cannot be written; events can be sent twice",
			slog.String("channel", w.to.Name()), slog.Any("error", err))
		return watchEvery
	}
	return 0
}

// How long one try may take: deliverTimeout bounds a channel that does not bound
// itself, endWithin one that is under way when the dispatcher has to end.
const (
	deliverTimeout = 15 * time.Second
	endWithin      = 3 * time.Second
)

// deliver tries one event, and writes down how it went; the error is that it could not be.
func (w *worker) deliver(ctx context.Context, d *Delivery) error {
	// Cut short it would have to be sent once more after the next start.
	trying, cancel := context.WithTimeout(context.WithoutCancel(ctx), deliverTimeout)
	unhook := context.AfterFunc(ctx, func() {
		fires, stop := w.cfg.Timer(endWithin)
		select {
		case <-fires:
			cancel()
		case <-trying.Done():
			stop()
		}
	})
	receipt, err := w.try(trying, d)
	cancel()
	unhook()
	if err != nil && ctx.Err() != nil {
		return nil // It was cut short by us, which is nobody's failure.
	}
	// What was done is written down also while the server ends.
	ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), outboxTimeout)
	defer cancel()
	if err == nil {
		return w.delivered(ctx, d, receipt)
	}
	return w.failed(ctx, d, err)
}

// try keeps a channel that panics from ending the server.
func (w *worker) try(ctx context.Context, d *Delivery) (receipt string, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the channel panicked: %v", p)
		}
	}()
	return w.to.Deliver(ctx, d)
}

func (w *worker) delivered(ctx context.Context, d *Delivery, receipt string) error {
	w.breaker.succeeded()
	failing := false
	w.count(func(s *Stats) {
		failing = !s.FailingSince.IsZero()
		s.Delivered++
		s.FailingSince, s.Why = time.Time{}, ""
	})
	if failing {
		w.cfg.Log.InfoContext(ctx, "a channel of notifications works again", slog.String("channel", w.to.Name()))
	}
	return w.cfg.Outbox.Delivered(ctx, d, receipt, w.cfg.Now())
}

func (w *worker) failed(ctx context.Context, d *Delivery, why error) error {
	now := w.cfg.Now()
	w.breaker.failed(now)
	first := false
	w.count(func(s *Stats) {
		first = s.FailingSince.IsZero()
		s.Failed++
		if first {
			s.FailingSince = now
		}
		s.Why = why.Error()
	})
	if first {
		w.cfg.Log.WarnContext(ctx, "a channel of notifications fails; it is tried again", slog.String("channel", w.to.Name()),
			slog.String("approval_id", d.Event.Approval.ID), slog.Any("error", why))
	}
	refusal := &RefusedError{}
	_ = errors.As(why, &refusal) // If it is none, the zero one says so.
	wait := Backoff(d.Attempts+1, w.cfg.Jitter())
	if refusal.RetryAfter > 0 {
		wait = max(wait, min(refusal.RetryAfter, longest))
		w.breaker.pause(now.Add(wait))
	}
	giveUp := d.Enqueued.Add(GiveUpAfter)
	switch {
	case refusal.Gone:
		return w.gone(ctx, now)
	case !now.Before(giveUp), refusal.Final && d.Attempts+1 >= mostRefused:
		w.count(func(s *Stats) { s.Dropped++ })
		w.cfg.Log.ErrorContext(ctx, "a notification is given up", slog.String("channel", w.to.Name()), slog.String("event", string(d.Event.Type)),
			slog.String("approval_id", d.Event.Approval.ID), slog.Int("attempts", d.Attempts+1), slog.Any("error", why))
		return w.cfg.Outbox.Dead(ctx, d, now)
	}
	at := now.Add(wait)
	if at.After(giveUp) {
		at = giveUp
	}
	return w.cfg.Outbox.Retry(ctx, d, at)
}

// gone stops a channel whose far end wants no more.
func (w *worker) gone(ctx context.Context, now time.Time) error {
	n, err := w.cfg.Outbox.Drop(ctx, w.to.Name(), now)
	w.count(func(s *Stats) {
		s.Gone = true
		s.Dropped += uint64(max(n, 0))
	})
	w.cfg.Log.ErrorContext(ctx, "the far end of a channel says that it is gone; nothing is sent to it until the next start",
		slog.String("channel", w.to.Name()), slog.Int("dropped", n))
	return err
}
