// Package limiter decides whether an agent's call fits its limits, and charges
// it if it does. One call may be bounded by several limits at once; they are
// taken all or nothing, so a call that one limit refuses costs the others
// nothing.
//
// The package holds the contract ([Limiter], [Limit], [Charge]), the arithmetic
// of the four kinds of limit, and the driver that keeps its state in this
// process ([Memory]). Drivers over a shared store live in subpackages and pass
// the suite in limitertest.
//
// It is not the place for which limits apply to which call, for keys, or for
// what is answered to the caller: policy selects limits, pdp builds keys and
// maps the outcome to a reason.
//
//	lim, err := limiter.NewMemory(limiter.MemoryConfig{})
//	...
//	perMinute := &limiter.Limit{
//		Name: "calls", Kind: limiter.KindRate, Count: 60, Burst: 60, Period: time.Minute,
//	}
//	calls := []limiter.Call{{Charges: []limiter.Charge{
//		{Limit: perMinute, Key: []byte("5:calls11:lead-router"), Cost: limiter.Unit},
//	}}}
//	if _, err := lim.Take(ctx, calls, limiter.StopNever); err != nil {
//		// No decision was made: the call must not go through.
//	}
//	admitted := calls[0].Result.Admitted
package limiter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Units is an amount in millionths, so that a fractional cost (0.0031 euros)
// needs no floating point.
type Units int64

// Unit is one whole unit: one call, or a cost of 1.
const Unit Units = 1_000_000

// Kind is the way a limit counts. The zero Kind is invalid.
type Kind uint8

const (
	// KindRate is GCRA: in any span of length t at most Burst + Count*t/Period
	// is admitted. Time is read in ticks of 1/16 microsecond, and a reading in
	// between is the tick before.
	KindRate Kind = iota + 1
	// KindWindow admits at most Count in any span of length Period. Spent units
	// return up to Period/16 later than they could, never earlier.
	KindWindow
	// KindQuota admits at most Count in each calendar unit of a time zone.
	KindQuota
	// KindConcurrency admits while at most Count units are held. A charge is
	// held until Hold has passed or until it is refunded.
	KindConcurrency
)

// String returns the kind's name in the policy language.
func (k Kind) String() string {
	switch k {
	case KindRate:
		return "rate"
	case KindWindow:
		return "window"
	case KindQuota:
		return "quota"
	case KindConcurrency:
		return "concurrency"
	default:
		return fmt.Sprintf("Kind(%d)", uint8(k))
	}
}

// Calendar is the unit that a quota starts anew with. The zero Calendar is
// invalid.
type Calendar uint8

// The calendar units. A day starts at local midnight (or at the first instant
// of that date where a clock change leaves midnight out), a week on Monday, a
// month on the 1st. Hours, minutes and seconds follow the wall clock of the
// zone, and each pass through an hour that a clock change repeats is an hour
// of its own.
const (
	CalendarSecond Calendar = iota + 1
	CalendarMinute
	CalendarHour
	CalendarDay
	CalendarWeek
	CalendarMonth
)

// String returns the unit's name in the policy language.
func (c Calendar) String() string {
	names := [...]string{"", "second", "minute", "hour", "day", "week", "month"}
	if c < CalendarSecond || c > CalendarMonth {
		return fmt.Sprintf("Calendar(%d)", uint8(c))
	}
	return names[c]
}

// Limit is one compiled limit. It is immutable: callers and goroutines share
// it by pointer. The zero Limit is invalid, see [Limit.Validate].
type Limit struct {
	// Name is the limit's name in answers and in errors. It takes no part in
	// the bucket's identity, which is [Charge.Key] alone.
	Name string
	Kind Kind
	// Count is how many whole units are admitted per Period (rate, window) or
	// per Calendar unit (quota), or how many may be held (concurrency).
	Count int64
	// Burst is how many whole units a rate admits at one instant. Rate only.
	Burst int64
	// Period is the span of a rate or window.
	Period time.Duration
	// Calendar is the unit of a quota.
	Calendar Calendar
	// Location is the time zone of a quota. Nil means UTC.
	Location *time.Location
	// Hold is how long a charge of a concurrency limit is held at most.
	Hold time.Duration
	// Lease is for how long a driver over a store may keep units of a rate or a
	// quota that it took ahead, so that it need not ask the store for each call.
	// The statements of the kinds hold all the same: what is taken ahead of a rate
	// is charged as if it came that much later, and what of a quota is not spent
	// in its calendar unit is void. Zero: none are. Drivers that ask no store
	// ignore it.
	Lease time.Duration
}

// Charge asks one limit for Cost from the bucket Key.
type Charge struct {
	Limit *Limit
	// Key names the bucket. It is unique over all limits: the caller puts the
	// limit's name and the length-prefixed dimensions into it. A driver does
	// not keep a reference to it after the call, save in the call's own
	// [Receipt].
	Key []byte
	// Home and Slot are how many leading bytes of Key say where a driver over a
	// store keeps the bucket: those whose keys share the first Home bytes in one
	// value, which is read and written as one, and those that share the first
	// Slot bytes on one node of a cluster. Zero: a value, and whatever node, of
	// its own. 0 <= Slot <= Home <= len(Key), or Home is 0; a key comes with the
	// same two always. Keep buckets of one home few: one for each limit.
	Home, Slot int
	// Cost is how much is asked for; it is positive.
	Cost Units
	// Shadow marks a limit that is counted and reported but never bounds the
	// call. It is charged only if the call is admitted and it has room itself,
	// which is when it would have been charged were it enforced.
	Shadow bool
}

// Call is one decision's charges, which are taken all or nothing.
//
// Result is an output: Take and Peek overwrite it and reuse its buffers, so a
// caller that keeps its calls in a pool pays no allocation.
type Call struct {
	Charges []Charge
	Result  Result
}

// Result is the outcome of one call.
type Result struct {
	// Admitted is true if every limit without Shadow had room. A call without
	// charges is admitted.
	Admitted bool
	// Limits has one state per charge, in the same order.
	Limits []State
	// Receipt is what [Limiter.Refund] needs to give the call's charges back.
	// It is empty if nothing was taken. Its keys are those of Charges, so it is
	// good until the call is reused; Clone it to keep it for longer.
	Receipt Receipt
}

// State is how one limit stands for one charge: after the charge if the call
// was admitted, untouched otherwise. Its durations are rounded up and counted
// from the clock reading that the call was judged with.
type State struct {
	// Lacked is true if the limit had no room for the cost.
	Lacked bool
	// Never is true if the cost (together with what the same call takes from
	// the same bucket before it) is above what the limit can ever give. It
	// comes with Lacked, and without RetryAfter: waiting does not help.
	Never bool
	// RetryAfter is the exact time until this cost would be admitted if nobody
	// else charges; positive if Lacked and not Never, else zero.
	RetryAfter time.Duration
	// Limit is the most the bucket can hold: Burst of a rate, else Count.
	Limit Units
	// Remaining is what the bucket would still admit at this instant.
	Remaining Units
	// Reset is the time until a rate is full again, until the oldest units of
	// a window return, until a quota's calendar unit ends, and until the
	// earliest hold ends. Zero if there is nothing to wait for.
	Reset time.Duration
}

// Receipt lists what one call took. The zero Receipt is empty.
//
// Its fields are exported so that a caller can give back a part: drop the
// entries it wants to stay charged (a slot goes back, the rate stays), or lower
// an entry's Cost to what the call did not use after all.
type Receipt struct {
	Taken []Taken
}

// Taken is one charge that was taken.
type Taken struct {
	Limit *Limit
	Key   []byte
	// Home and Slot are those of the charge.
	Home, Slot int
	// Cost is how much is given back; at most what was charged.
	Cost Units
	// Mark tells the driver that filled it where the charge was put (a
	// calendar window, the end of a hold). Its meaning is the driver's own.
	Mark [2]int64
}

// Reset makes r say that nothing was admitted, and keeps its buffers. Drivers
// call it on every call before they look at anything else.
func (r *Result) Reset() {
	r.Admitted = false
	r.Limits = r.Limits[:0]
	r.Receipt.Taken = r.Receipt.Taken[:0]
}

// Empty reports whether there is nothing to give back.
func (r Receipt) Empty() bool { return len(r.Taken) == 0 }

// Check returns a [*ChargeError] for the first entry that cannot be given back
// or debited, or nil. Drivers call it before they touch any state.
func (r Receipt) Check() error {
	for i := range r.Taken {
		t := &r.Taken[i]
		c := Charge{Limit: t.Limit, Key: t.Key, Home: t.Home, Slot: t.Slot, Cost: t.Cost}
		if err := c.Check(); err != nil {
			return &ChargeError{Charge: i, Err: err}
		}
	}
	return nil
}

// Clone returns a copy that shares no memory with the call it came from.
func (r Receipt) Clone() Receipt {
	c := Receipt{Taken: slices.Clone(r.Taken)}
	for i := range c.Taken {
		c.Taken[i].Key = slices.Clone(c.Taken[i].Key)
	}
	return c
}

// Stop says where Take ends before the last call.
type Stop uint8

const (
	// StopNever judges every call.
	StopNever Stop = iota
	// StopAtDenied ends after the first call that is not admitted.
	StopAtDenied
	// StopAtAdmitted ends after the first call that is admitted.
	StopAtAdmitted
)

// MaxCharges is how many charges one call may have.
const MaxCharges = 32

var (
	// ErrFull is returned for a call that would need a new bucket while the
	// driver holds as many as it may and none is idle. The driver never makes
	// room by forgetting a bucket in use, because that would admit too much.
	ErrFull = errors.New("limiter is full: no bucket is idle; raise its number of keys or use fewer distinct keys")
	// ErrClosed is returned by every method after Close.
	ErrClosed = errors.New("limiter is closed")
	// ErrUnavailable is returned while the store that keeps the buckets cannot be
	// asked, or has not answered in time. A call that it comes with may have been
	// charged all the same; it is never sent again.
	ErrUnavailable = errors.New("the limiter's store cannot be asked")
	// ErrInvalidCharge is what every [*ChargeError] is, for errors.Is.
	ErrInvalidCharge = errors.New("invalid charge")
)

// ChargeError says which charge of which call cannot be judged, and why. It is
// a fault of the caller: the limit should have been refused by
// [Limit.Validate], or the cost by whoever parsed it.
type ChargeError struct {
	// Call and Charge are indices into Take's argument and Call.Charges.
	Call, Charge int
	// Err is what is wrong with the charge.
	Err error
}

// Error implements error.
func (e *ChargeError) Error() string {
	return fmt.Sprintf("invalid charge %d of call %d: %v", e.Charge, e.Call, e.Err)
}

// Unwrap returns the cause.
func (e *ChargeError) Unwrap() error { return e.Err }

// Is makes errors.Is(err, ErrInvalidCharge) true.
func (e *ChargeError) Is(target error) bool { return target == ErrInvalidCharge }

// Limiter takes charges from buckets. Its methods are safe for concurrent use
// as long as no two goroutines use the same Call or Receipt at once.
//
// A bucket exists from its first charge; one that was never charged is full.
// The same key charged through a Limit that has changed keeps what was spent:
// a rate keeps its debt in units, not in time, and state that belongs to
// another kind of limit, another window or another calendar unit stays as it
// is while the key is charged, so that two versions of a policy can alternate.
//
// An error means that no decision was made; callers treat it as a denial.
type Limiter interface {
	// Take judges calls in order as if they were sent one by one, and charges
	// each that is admitted. With a Stop it ends after the call that triggers
	// it; n is how many calls were judged. Results that are not of a judged
	// call, on an error too, say not admitted and are empty: what a reused
	// call said before never stands. A denied call changes no state at all.
	//
	// All charges are checked before the first is judged: a *ChargeError comes
	// with n = 0 and nothing charged, as does ctx.Err() for a context that has
	// ended. On a later error (ErrFull, a failed store) n calls are judged and
	// charged, and the call that failed took nothing; a driver over a network
	// documents where it cannot know that.
	Take(ctx context.Context, calls []Call, stop Stop) (n int, err error)

	// Peek judges each call as Take would if it were the only one, and changes
	// nothing. Its States are all untouched ones, those before the charge; the
	// Receipts are empty.
	Peek(ctx context.Context, calls []Call) error

	// Refund gives back what Take took, and empties r so that it cannot be
	// given back twice by mistake. Each entry is refunded at most once, in
	// whole or in part: that holds for copies made with Clone too, and it is
	// for the caller to see to it. Refund never raises a bucket above full and never gives
	// back what time has given back already: units of a rate that have
	// refilled, of a window that have left it, of a quota whose calendar unit
	// has ended, of a hold that has passed. When in doubt (the limit changed,
	// refunds crossed each other) it gives back less, so that the units that
	// stay charged obey the limit's bound on their own.
	Refund(ctx context.Context, r *Receipt) error

	// Debit charges each entry's Cost once more, whether or not there is room,
	// and empties r: for a cost that turned out higher than it was thought to be
	// when it was taken. What is owed above the limit is paid off before the
	// limit admits again. A hold cannot be debited; its entries are left out.
	Debit(ctx context.Context, r *Receipt) error

	// Close releases what the driver holds. Calls after it return ErrClosed.
	// Closing twice is not an error.
	Close() error
}
