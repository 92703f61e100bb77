// Package notify tells the outside what happens to approvals: an [Outbox] keeps
// each event durably until every [Channel] that wants it took it, and a
// [Dispatcher] tries again, more and more seldom, for a day.
//
// It is not for deciding: a notification that fails, or a channel that stands
// still, changes no decision and no approval. Channels are in the subpackages.
//
//	d, err := notify.NewDispatcher(notify.Config{Outbox: box, Channels: channels, Log: log})
//	...
//	err = d.Enqueue(ctx, &notify.Event{ID: "apr_1_requested_1", Type: notify.Requested, Approval: about})
//	...
//	d.Run(ctx) // delivers until ctx ends
package notify

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Type says what happened to an approval, as receivers read it.
type Type string

// The types.
const (
	// Requested: humans are asked, for the first time or again.
	Requested Type = "approval.requested"
	// Approved: every yes is there.
	Approved Type = "approval.approved"
	// Denied: a no ended it.
	Denied Type = "approval.denied"
	// Expired: it was not decided, or not used, in time.
	Expired Type = "approval.expired"
	// Consumed: a call used it.
	Consumed Type = "approval.consumed"
	// Revoked: it was taken back after the yes.
	Revoked Type = "approval.revoked"
	// Cancelled: it was taken back before it was decided.
	Cancelled Type = "approval.cancelled"
	// Superseded: a rule that it was asked under is gone or changed.
	Superseded Type = "approval.superseded"
	// BreakGlass: somebody broke the glass: an agent's calls wait for nobody's yes.
	BreakGlass Type = "approval.breakglass"
)

// Types are all there are.
func Types() []Type {
	return []Type{Requested, Approved, Denied, Expired, Consumed, Revoked, Cancelled, Superseded, BreakGlass}
}

// Event is one thing that happened to one approval. It has no parameters of the
// call: whoever has to judge them looks where he is known.
type Event struct {
	// ID is equal for the same event told twice, so that receivers can tell; at
	// most 256 letters, digits, dashes and underscores.
	ID       string    `json:"id"`
	Type     Type      `json:"type"`
	Time     time.Time `json:"time"`
	Approval About     `json:"approval"`
}

// About is what an event tells of its approval.
type About struct {
	ID        string    `json:"id"`
	Digest    string    `json:"digest"`
	Agent     string    `json:"agent"`
	Subject   string    `json:"subject,omitempty"`
	Action    string    `json:"action"`
	Resource  string    `json:"resource"`
	Risk      string    `json:"risk,omitempty"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
}

// Delivery is one event that one channel has to take.
type Delivery struct {
	// Number names it in its outbox.
	Number  int64
	Channel string
	Event   Event
	// Attempts is how often it was tried in vain.
	Attempts int
	// Enqueued is since when it waits.
	Enqueued time.Time
	// Receipt is what the channel returned last for the same approval; "" at first.
	Receipt string
}

var (
	// ErrFull says that an outbox holds as much as it may.
	ErrFull = errors.New("the outbox is full")
	// ErrSchema says that an outbox was written by a later release.
	ErrSchema = errors.New("it was written by a later release; run that release, or restore a backup")
)

// Outbox keeps what has to be delivered, durably: what Enqueue took is not lost
// by kill -9 or the loss of power. It is safe for concurrent use.
type Outbox interface {
	// Enqueue keeps an event for some channels in one step. One that is there
	// already is left as it is. [ErrFull] if there is no room.
	Enqueue(ctx context.Context, e *Event, channels []string, now time.Time) error
	// Next returns the oldest delivery of a channel that is due, each only after
	// those before it of the same approval have ended; nil if none is. next is then
	// when the first one will be; zero if none waits.
	Next(ctx context.Context, channel string, now time.Time) (d *Delivery, next time.Time, err error)
	// Delivered ends a delivery that was taken, and keeps the receipt for the next
	// one of the same channel and approval.
	Delivered(ctx context.Context, d *Delivery, receipt string, now time.Time) error
	// Retry puts a delivery off that was not taken.
	Retry(ctx context.Context, d *Delivery, at time.Time) error
	// Dead ends a delivery that nobody will take any more.
	Dead(ctx context.Context, d *Delivery, now time.Time) error
	// Drop ends all deliveries of a channel, and returns how many.
	Drop(ctx context.Context, channel string, now time.Time) (int, error)
	Keeper

	// Close gives back what it holds.
	Close() error
}

// Waiting are the deliveries that wait for one channel.
type Waiting struct {
	Count int
	// Since is when the oldest of them was enqueued.
	Since time.Time
}

// Keeper is what looks after an [Outbox].
type Keeper interface {
	// Known tells whether there is any event of an approval.
	Known(ctx context.Context, approval string) (bool, error)
	// Pending is what waits, by channel; one for which nothing does is left out.
	Pending(ctx context.Context) (map[string]Waiting, error)
	// Unheard returns, once each, the approvals of Requested events enqueued
	// before an instant that no channel has taken.
	Unheard(ctx context.Context, before time.Time) ([]string, error)
	// Prune removes what ended, and what waits for a channel that is no more,
	// since before an instant.
	Prune(ctx context.Context, before time.Time) error
}

// Channel is one way out. Its methods are called by one goroutine at a time.
type Channel interface {
	// Name names it in the outbox, in logs and metrics: it stays the same over
	// restarts, and holds no secret.
	Name() string
	// Wants tells whether it takes events of a type.
	Wants(t Type) bool
	// Deliver hands over one event and returns a receipt, which comes back with
	// the next event of the same approval. It ends when ctx does. Any error but a
	// [*RefusedError] is tried again for a day. The error's text is logged, so that it
	// must hold no secret.
	Deliver(ctx context.Context, d *Delivery) (receipt string, err error)
}

// RefusedError is a channel's answer that it did not take an event.
type RefusedError struct {
	// Why is logged.
	Why string
	// RetryAfter is how long the far end asks to be left alone; zero: it does not.
	RetryAfter time.Duration
	// Final says that more tries are of little use: after ten the event is dropped.
	Final bool
	// Gone says that the far end wants no more events at all.
	Gone bool
}

// Error implements error.
func (r *RefusedError) Error() string {
	if r.RetryAfter > 0 {
		return fmt.Sprintf("%s; it asks to wait %v", r.Why, r.RetryAfter)
	}
	return r.Why
}
