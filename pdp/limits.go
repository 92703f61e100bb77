package pdp

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/policy"
)

// limitTable is one snapshot's limits as the limiter wants them, by
// LimitSpec.Index.
type limitTable struct {
	snap    *policy.Snapshot
	entries []limitEntry
	// shares are what one replica of several may give by itself.
	shares atomic.Pointer[shareTable]
}

type limitEntry struct {
	limit limiter.Limit
	// The answers' texts, so that saying no costs no formatting.
	reached, never, unavailable string
	reason                      Reason
}

// limitTable returns the table of snap, which is built once per snapshot.
// While a reload is under way two snapshots can be in use; the table then goes
// back and forth, which costs time and changes nothing.
func (s *Service) limitTable(snap *policy.Snapshot) *limitTable {
	if t := s.table.Load(); t != nil && t.snap == snap {
		return t
	}
	t := newLimitTable(snap)
	s.table.Store(t)
	return t
}

func newLimitTable(snap *policy.Snapshot) *limitTable {
	specs := snap.LimitSpecs()
	t := &limitTable{snap: snap, entries: make([]limitEntry, len(specs))}
	for _, spec := range specs {
		e := limitEntry{
			limit:       limitOf(spec),
			reached:     fmt.Sprintf("The limit %s is reached; try again later.", spec.Name),
			never:       fmt.Sprintf("The cost is above what the limit %s can ever give; ask for less.", spec.Name),
			unavailable: fmt.Sprintf("the limit %s could not be asked and was left out, as its on_unavailable says", spec.Name),
			reason:      ReasonRateLimited,
		}
		if spec.Kind == policy.LimitQuota {
			e.reached = fmt.Sprintf("The quota %s is used up; try again later.", spec.Name)
			e.reason = ReasonQuotaExhausted
		}
		if spec.PerCall {
			e.reached = fmt.Sprintf("The same call was repeated too often (limit %s); do something else, or try again later.", spec.Name)
			e.reason = ReasonLoopDetected
		}
		t.entries[spec.Index] = e
	}
	return t
}

// CheckLimits returns what of the snapshot's limits no limiter can keep, or
// nil. Whoever loads a policy asks it first: a limit that cannot be kept denies
// every call that it matches.
func CheckLimits(snap *policy.Snapshot) error {
	var errs []error
	for _, spec := range snap.LimitSpecs() {
		limit := limitOf(spec)
		if err := limit.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", spec.ID, err))
		}
	}
	return errors.Join(errs...)
}

func limitOf(spec *policy.LimitSpec) limiter.Limit {
	limit := limiter.Limit{Name: spec.Name, Count: spec.Count, Lease: spec.Lease}
	switch spec.Kind {
	case policy.LimitRate:
		limit.Kind, limit.Burst, limit.Period = limiter.KindRate, spec.Burst, spec.Period
	case policy.LimitWindow:
		limit.Kind, limit.Period = limiter.KindWindow, spec.Period
	case policy.LimitQuota:
		limit.Kind, limit.Calendar, limit.Location = limiter.KindQuota, calendarOf(spec.Unit), spec.Location
	case policy.LimitConcurrency:
		limit.Kind, limit.Hold = limiter.KindConcurrency, spec.Period
	default:
		// Stays without a kind, which no limiter charges: the calls it matches
		// are denied.
	}
	return limit
}

func calendarOf(unit string) limiter.Calendar {
	for c := limiter.CalendarSecond; c <= limiter.CalendarMonth; c++ {
		if c.String() == unit {
			return c
		}
	}
	return 0
}

// unitsOf is the cost in millionths, rounded up so that no cost is free. What
// binary floating point adds to a decimal (1.1 is a little more than 1.1) is
// not rounded up: ten calls at 1.1 fit a budget of 11.
func unitsOf(cost float64) limiter.Units {
	if cost == 0 {
		return limiter.Unit
	}
	millionths := cost * float64(limiter.Unit)
	const ulps = 4 * 0x1p-53
	if nearest := math.Round(millionths); nearest >= 1 && math.Abs(millionths-nearest) <= millionths*ulps {
		millionths = nearest
	}
	millionths = math.Ceil(millionths)
	// The largest int64 is not a float64; the comparison is with the next one up.
	if millionths >= math.MaxInt64 {
		return math.MaxInt64
	}
	return limiter.Units(millionths)
}

// wholeSlots rounds a cost up to whole units.
func wholeSlots(cost limiter.Units) limiter.Units {
	if rest := cost % limiter.Unit; rest > 0 && cost <= math.MaxInt64-limiter.Unit {
		cost += limiter.Unit - rest
	}
	return cost
}

// findLimits looks up the limits that the call is to be charged to. A limit
// whose condition cannot be evaluated denies the call.
func (s *Service) findLimits(j *judgment, call *limiter.Call) {
	call.Charges = call.Charges[:0]
	j.specs = j.specs[:0]
	j.settles = false
	j.snap.Limits(&j.call, &j.verdict, &j.set)
	if j.set.Reason != "" {
		s.deny(j, j.set.Reason, j.set.Matched)
		return
	}
	charges := j.set.Charges
	if len(charges) > limiter.MaxCharges {
		charges = s.tooManyLimits(j, charges)
	}
	for _, c := range charges {
		cost := limiter.Unit
		if c.Spec.CountCost {
			cost = unitsOf(j.req.Cost)
		}
		if c.Spec.Kind == policy.LimitConcurrency {
			// A call holds whole slots: thousands of slivers would be held one by one.
			cost = wholeSlots(cost)
		}
		call.Charges = append(call.Charges, limiter.Charge{
			Limit: &j.table.entries[c.Spec.Index].limit, Key: c.Key, Home: c.Home, Slot: c.Slot, Cost: cost, Shadow: c.Spec.Shadow,
		})
		j.specs = append(j.specs, c.Spec)
		j.settles = j.settles || settles(c.Spec)
	}
}

// tooManyLimits is for a call that matches more limits than can be charged at
// once. Those in shadow are left out, as they never alter a decision. If that
// is not enough the call is denied, since which limit to leave out would be a
// guess; trying again cannot help, so nobody is told to.
func (s *Service) tooManyLimits(j *judgment, all []policy.LimitCharge) []policy.LimitCharge {
	enforced := slices.DeleteFunc(slices.Clone(all), func(c policy.LimitCharge) bool { return c.Spec.Shadow })
	if n := len(enforced); n > limiter.MaxCharges {
		s.deny(j, ReasonInternalError, nil)
		j.dec.Next, j.dec.RetryAfter = NextNone, 0
		j.dec.Message = fmt.Sprintf("%d limits match this call, and at most %d can be charged at once; merge some of the policy's limits or narrow what they match.", n, limiter.MaxCharges)
		for _, c := range enforced {
			j.dec.Matched = append(j.dec.Matched, c.Spec.ID)
		}
		return nil
	}
	j.dec.Warnings = append(j.dec.Warnings, fmt.Sprintf("%d limits match this call, and at most %d can be charged at once: those in shadow were left out", len(all), limiter.MaxCharges))
	return enforced
}

// charge takes the limits of one call and finishes it.
func (s *Service) charge(ctx context.Context, j *judgment, calls []limiter.Call) error {
	defer s.contain(ctx, j)
	return s.afterAsking(ctx, j, calls, s.take(ctx, j, calls))
}

// chargeUnasked is charge for a call that the limiter is known to have failed
// on: it is not asked again, since the call may have been charged.
func (s *Service) chargeUnasked(ctx context.Context, j *judgment, calls []limiter.Call, cause error) error {
	defer s.contain(ctx, j)
	return s.afterAsking(ctx, j, calls, cause)
}

func (s *Service) afterAsking(ctx context.Context, j *judgment, calls []limiter.Call, failed error) error {
	if failed != nil {
		if err := s.withoutUnavailable(ctx, j, calls, failed); err != nil || j.reached != VerdictNone {
			return err
		}
	}
	return s.afterTake(ctx, j, &calls[0])
}

// take charges one call, or only looks for a dry run.
func (s *Service) take(ctx context.Context, j *judgment, calls []limiter.Call) error {
	err := takeOne(ctx, s.cfg.Limiter, calls, j.req.DryRun)
	if err == nil && !j.req.DryRun {
		j.charged = &calls[0]
	}
	return err
}

func takeOne(ctx context.Context, lim limiter.Limiter, calls []limiter.Call, dry bool) error {
	if dry {
		return lim.Peek(ctx, calls)
	}
	_, err := lim.Take(ctx, calls, limiter.StopNever)
	return err
}

// noDecision returns the error if it means that nobody waits for an answer or
// that the service is closing, and nil if the call can still be answered.
func noDecision(ctx context.Context, err error) error {
	if ended := ctx.Err(); ended != nil {
		return ended
	}
	if errors.Is(err, limiter.ErrClosed) {
		return err
	}
	return nil
}

// afterTake turns what the limiter said into the verdict, and uses the
// approval if the call has one.
func (s *Service) afterTake(ctx context.Context, j *judgment, call *limiter.Call) error {
	s.checkLimits(j, &call.Result)
	if j.reached != VerdictNone {
		s.refund(ctx, j)
		return nil
	}
	if err := s.consumeApproval(ctx, j); err != nil {
		s.refund(ctx, j)
		return err
	}
	if j.reached == VerdictNone {
		s.allow(j)
	}
	return nil
}

// checkLimits denies the call if an enforced limit lacked. Every limit is
// reported.
func (s *Service) checkLimits(j *judgment, res *limiter.Result) {
	if len(res.Limits) != len(j.specs) {
		s.deny(j, ReasonInternalError, nil)
		return
	}
	worst := -1
	for i, spec := range j.specs {
		st := &res.Limits[i]
		if spec.Shadow {
			if st.Lacked {
				j.dec.Shadow = append(j.dec.Shadow, ShadowOutcome{
					Rule: spec.ID, Verdict: Deny, Reason: j.table.reasonFor(spec, st),
				})
				sortShadow(j.dec.Shadow)
			}
			continue
		}
		j.dec.Limits = append(j.dec.Limits, LimitStatus{
			Name: spec.Name, Limit: wholeUnits(st.Limit), Remaining: wholeUnits(st.Remaining), Reset: st.Reset,
		})
		if st.Lacked && (worst < 0 || waitsLonger(j.specs, res.Limits, i, worst)) {
			worst = i
		}
	}
	switch {
	case worst >= 0:
		s.denyLacking(j, res, worst)
	case !res.Admitted:
		// The limiter contradicts itself; doubt is a DENY.
		s.deny(j, ReasonInternalError, nil)
	}
}

// waitsLonger orders limits that lack: what can never be given waits longest,
// ties go by name.
func waitsLonger(specs []*policy.LimitSpec, states []limiter.State, a, b int) bool {
	x, y := &states[a], &states[b]
	switch {
	case x.Never != y.Never:
		return x.Never
	case x.RetryAfter != y.RetryAfter:
		return x.RetryAfter > y.RetryAfter
	default:
		return specs[a].Name < specs[b].Name
	}
}

func (t *limitTable) reasonFor(spec *policy.LimitSpec, st *limiter.State) Reason {
	if st.Never {
		return ReasonCostExceedsLimit
	}
	return t.entries[spec.Index].reason
}

func (s *Service) denyLacking(j *judgment, res *limiter.Result, worst int) {
	spec, st := j.specs[worst], &res.Limits[worst]
	e := &j.table.entries[spec.Index]
	s.deny(j, j.table.reasonFor(spec, st), nil)
	j.dec.Matched = append(j.dec.Matched, spec.ID)
	for i, other := range j.specs {
		if i != worst && !other.Shadow && res.Limits[i].Lacked {
			j.dec.Matched = append(j.dec.Matched, other.ID)
		}
	}
	if st.Never {
		j.dec.Message, j.dec.RetryAfter = e.never, 0
		return
	}
	// A wait of nothing would be a wait that was not meant: the limiter
	// promises a positive one.
	j.dec.Message, j.dec.RetryAfter = e.reached, s.jittered(max(st.RetryAfter, time.Millisecond))
}

func wholeUnits(u limiter.Units) int64 { return max(0, int64(u/limiter.Unit)) }
