package limiter

import (
	"errors"
	"fmt"
	"time"
)

// The bounds of a limit. They keep every number of the arithmetic exact in an
// int64 and in a double.
const (
	// MaxCount bounds Count and Burst.
	MaxCount = 1_000_000_000
	// MaxRatePerSecond bounds Count per Period of a rate. Near it the rounding
	// of the emission interval to 1/16 microsecond shows: a rate of 700,000/s
	// is served at 695,652/s. Below 10,000/s it is under 0.07 %.
	MaxRatePerSecond = 1_000_000
	// MaxSlots bounds Count of a concurrency limit, whose holds are stored one
	// by one.
	MaxSlots = 10_000
	// MinPeriod and MaxPeriod bound Period and Hold, and Burst times
	// Period/Count, the time in which an empty rate is full again.
	MinPeriod = time.Second
	MaxPeriod = 366 * 24 * time.Hour
	// MaxLease bounds Lease, for which units may lie unused at a replica.
	MaxLease = time.Second
)

// Validate returns every bound that the limit breaks, joined, each saying what
// is wrong and what to write instead; nil if the limit can be charged.
func (l *Limit) Validate() error {
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("limit %q: "+format, append([]any{l.Name}, args...)...))
	}
	maxCount := int64(MaxCount)
	if l.Kind == KindConcurrency {
		maxCount = MaxSlots
	}
	if l.Count < 1 || l.Count > maxCount {
		fail("count %d of a %v limit is out of range; write 1 to %d", l.Count, l.Kind, maxCount)
	}
	switch l.Kind {
	case KindRate:
		l.validateRate(fail)
	case KindWindow:
		validateSpan(fail, "window", l.Period)
	case KindQuota:
		if l.Calendar < CalendarSecond || l.Calendar > CalendarMonth {
			fail("%v is not a calendar unit; write second, minute, hour, day, week or month", l.Calendar)
		}
	case KindConcurrency:
		validateSpan(fail, "hold", l.Hold)
	default:
		fail("%v is not a kind of limit; write rate, window, quota or concurrency", l.Kind)
	}
	if l.Lease < 0 || l.Lease > MaxLease {
		fail("lease %v is out of range; write 0 to %v", l.Lease, MaxLease)
	}
	l.validateUnused(fail)
	return errors.Join(errs...)
}

func validateSpan(fail func(string, ...any), what string, d time.Duration) {
	if d < MinPeriod || d > MaxPeriod {
		fail("%s %v is out of range; write %v to %d days", what, d, MinPeriod, MaxPeriod/(24*time.Hour))
	}
}

func (l *Limit) validateRate(fail func(string, ...any)) {
	validateSpan(fail, "period", l.Period)
	if l.Burst < 1 || l.Burst > MaxCount {
		fail("burst %d is out of range; write 1 to %d", l.Burst, MaxCount)
	}
	if l.Count < 1 || l.Count > MaxCount || l.Period < MinPeriod || l.Period > MaxPeriod {
		return
	}
	if ticksCeil(l.Period)/l.Count < ticksPerSecond/MaxRatePerSecond {
		fail("%d per %v is above %d per second; write a lower count", l.Count, l.Period, MaxRatePerSecond)
	}
	if most := maxDebt / emission(l); l.Burst > most {
		fail("a burst of %d takes more than 366 days to refill at %d per %v; write at most %d", l.Burst, l.Count, l.Period, most)
	}
}

// validateUnused refuses fields of another kind: one that is set and has no
// effect is a limit that does not do what its author thinks.
func (l *Limit) validateUnused(fail func(string, ...any)) {
	if l.Kind != KindRate && l.Burst != 0 {
		fail("a %v limit has no burst; leave it out or make it a rate", l.Kind)
	}
	if l.Kind != KindRate && l.Kind != KindQuota && l.Lease != 0 {
		fail("a %v limit has no lease; leave it out or make it a rate or a quota", l.Kind)
	}
	if l.Kind != KindRate && l.Kind != KindWindow && l.Period != 0 {
		fail("a %v limit has no period; leave it out", l.Kind)
	}
	if l.Kind != KindQuota && (l.Calendar != 0 || l.Location != nil) {
		fail("a %v limit has no calendar unit and no time zone; leave them out or make it a quota", l.Kind)
	}
	if l.Kind != KindConcurrency && l.Hold != 0 {
		fail("a %v limit has no hold; leave it out or make it a concurrency limit", l.Kind)
	}
}

// capacity is the most that the limit can give at once.
func (l *Limit) capacity() Units {
	if l.Kind == KindRate {
		return Units(l.Burst) * Unit
	}
	return Units(l.Count) * Unit
}

// location is the zone of a quota.
func (l *Limit) location() *time.Location {
	if l.Location == nil {
		return time.UTC
	}
	return l.Location
}

var (
	errNoLimit = errors.New("it has no limit; set Charge.Limit")
	errNoKey   = errors.New("its key is empty; set Charge.Key")
	errHome    = errors.New("its home and slot are not prefixes of its key; set 0 <= Charge.Slot <= Charge.Home <= len(Charge.Key)")
	errCost    = errors.New("its cost is not positive; a call costs at least one millionth of a unit")
)

// sound is the part of Validate that the arithmetic relies on, cheap enough to
// be checked at every charge: a limit that never saw Validate must not divide
// by zero or overflow.
func (l *Limit) sound() bool {
	if l.Count < 1 || l.Count > MaxCount || l.Lease < 0 || l.Lease > MaxLease {
		return false
	}
	switch l.Kind {
	case KindRate:
		return l.Period >= MinPeriod && l.Period <= MaxPeriod && l.Burst >= 1 && l.Burst <= MaxCount &&
			l.Burst <= maxDebt/emission(l)
	case KindWindow:
		return l.Period >= MinPeriod && l.Period <= MaxPeriod
	case KindQuota:
		return l.Calendar >= CalendarSecond && l.Calendar <= CalendarMonth
	case KindConcurrency:
		return l.Hold >= MinPeriod && l.Hold <= MaxPeriod && l.Count <= MaxSlots
	default:
		return false
	}
}

// Check returns what makes the charge impossible to judge, or nil. Drivers
// call it on every charge before they touch any state.
func (c *Charge) Check() error {
	switch {
	case c.Limit == nil:
		return errNoLimit
	case len(c.Key) == 0:
		return errNoKey
	case c.Slot < 0 || c.Home < c.Slot || c.Home > len(c.Key):
		return errHome
	case c.Cost <= 0:
		return errCost
	case !c.Limit.sound():
		if err := c.Limit.Validate(); err != nil {
			return err
		}
		return fmt.Errorf("limit %q cannot be charged", c.Limit.Name)
	}
	return nil
}

// CheckCalls returns a [*ChargeError] for the first charge that cannot be
// judged, or nil. Drivers call it before they judge any.
func CheckCalls(calls []Call) error {
	for i := range calls {
		charges := calls[i].Charges
		if len(charges) > MaxCharges {
			return &ChargeError{Call: i, Charge: MaxCharges, Err: errTooMany}
		}
		for j := range charges {
			if err := charges[j].Check(); err != nil {
				return &ChargeError{Call: i, Charge: j, Err: err}
			}
		}
	}
	return nil
}
