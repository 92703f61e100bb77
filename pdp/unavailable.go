package pdp

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/policy"
)

// Outage says what the loss of the limits' store did to a call. The zero value
// is nothing.
type Outage uint8

// The outages.
const (
	OutageNone Outage = iota
	// OutageDenied: a limit that denies while it cannot be asked denied the call.
	OutageDenied
	// OutageAlone: limits were judged by this replica alone, which admitted the
	// call or refused it.
	OutageAlone
	// OutageLeftOut: the call went on without a limit.
	OutageLeftOut
)

// String returns the outage as logs and metrics write it.
func (o Outage) String() string {
	switch o {
	case OutageDenied:
		return "denied"
	case OutageAlone:
		return "alone"
	case OutageLeftOut:
		return "left_out"
	default:
		return ""
	}
}

// Outages are all there are but none, for a metric of each.
func Outages() []Outage { return []Outage{OutageDenied, OutageAlone, OutageLeftOut} }

// shareTable is what one of so many replicas may give by itself, by
// LimitSpec.Index. A limit without a kind has no share.
type shareTable struct {
	replicas int
	limits   []limiter.Limit
}

// share is the spec's limit as this replica judges it by itself; nil if it may
// not, or if nothing comes to one replica.
func (t *limitTable) share(spec *policy.LimitSpec, replicas int) *limiter.Limit {
	switch spec.OnUnavailable {
	case policy.UnavailableAllow:
		return &t.entries[spec.Index].limit
	case policy.UnavailableLocalShare:
	case policy.UnavailableDeny:
		return nil
	default:
		return nil
	}
	shares := t.shares.Load()
	if shares == nil || shares.replicas != replicas {
		shares = &shareTable{replicas: replicas, limits: make([]limiter.Limit, len(t.entries))}
		for i := range t.entries {
			shares.limits[i] = shareOf(t.entries[i].limit, int64(replicas))
		}
		t.shares.Store(shares)
	}
	limit := &shares.limits[spec.Index]
	if limit.Kind == 0 {
		return nil
	}
	return limit
}

// shareOf divides a limit by the number of replicas, rounded down so that all
// of them together never give more than the limit does.
func shareOf(limit limiter.Limit, replicas int64) limiter.Limit {
	share := limit
	share.Count /= replicas
	if share.Count < 1 {
		return limiter.Limit{}
	}
	if limit.Kind == limiter.KindRate {
		share.Burst /= replicas
		if share.Validate() != nil {
			// Rounding made the burst too long in coming back.
			share.Burst = min(share.Burst, limit.Burst*share.Count/limit.Count)
		}
	}
	if share.Validate() != nil {
		return limiter.Limit{}
	}
	return share
}

// aloneCall is what one call is charged at the Fallback.
type aloneCall struct {
	calls [1]limiter.Call
	specs []*policy.LimitSpec
}

// withoutUnavailable goes on after the limiter failed on a call.
//
// Limits in shadow are left out. Those that say allow or local_share are judged
// by the Fallback, at their full size or their share; without one, allow leaves
// them out. If the store may still be reached for the limits that are left,
// they are asked once more alone, so that a limit that can do without it does
// not deny the call. What is left after that denies.
//
// All or nothing holds over both: what one of them was charged goes back when
// the other refuses.
func (s *Service) withoutUnavailable(ctx context.Context, j *judgment, calls []limiter.Call, cause error) error {
	if err := noDecision(ctx, cause); err != nil {
		return err
	}
	call := &calls[0]
	again := s.setAside(j, call, cause)
	if len(call.Charges) > 0 && !again {
		s.denyUnavailable(j, cause)
		return nil
	}
	if j.alone != nil {
		if err := s.takeAlone(ctx, j, call); err != nil || j.reached != VerdictNone {
			return err
		}
		if !j.alone.calls[0].Result.Admitted {
			call.Charges = call.Charges[:0]
			j.specs = j.specs[:0]
		}
	}
	if len(call.Charges) == 0 {
		call.Result.Reset()
		call.Result.Admitted = true
	} else if err := s.take(ctx, j, calls); err != nil {
		s.refund(ctx, j)
		if err := noDecision(ctx, err); err != nil {
			return err
		}
		s.denyUnavailable(j, cause)
		return nil
	}
	j.addAlone(call)
	return nil
}

// setAside takes out of the call the charges that can do without the limiter,
// and reports whether it is worth asking for the rest once more.
func (s *Service) setAside(j *judgment, call *limiter.Call, cause error) bool {
	// A charge that cannot be judged is a fault and not an outage: no
	// on_unavailable speaks of it.
	fault := errors.Is(cause, limiter.ErrInvalidCharge)
	replicas := 1
	if s.cfg.Replicas != nil {
		replicas = max(1, s.cfg.Replicas())
	}
	var aside []limiter.Charge
	kept := 0
	for i, spec := range j.specs {
		charge := call.Charges[i]
		switch {
		case spec.Shadow:
		case !fault && s.standsIn(j, charge, spec, replicas):
		default:
			call.Charges[kept], j.specs[kept] = charge, spec
			kept++
			continue
		}
		aside = append(aside, charge)
	}
	call.Charges, j.specs = call.Charges[:kept], j.specs[:kept]
	if !errors.Is(cause, limiter.ErrUnavailable) {
		return len(aside) > 0
	}
	return elsewhere(call.Charges, aside)
}

// standsIn puts a charge where it is judged without the limiter, if it may be.
func (s *Service) standsIn(j *judgment, charge limiter.Charge, spec *policy.LimitSpec, replicas int) bool {
	if s.cfg.Fallback == nil {
		if spec.OnUnavailable != policy.UnavailableAllow {
			return false
		}
		j.outage = OutageLeftOut
		j.dec.Warnings = append(j.dec.Warnings, j.table.entries[spec.Index].unavailable)
		return true
	}
	limit := j.table.share(spec, replicas)
	if limit == nil {
		return false
	}
	whole := charge.Terms()
	charge.Limit = limit
	if share := charge.Terms(); share.Never && !whole.Never {
		return false // the whole limit may give it again later: the cost is not at fault
	}
	if j.alone == nil {
		j.alone = new(aloneCall)
	}
	j.alone.calls[0].Charges = append(j.alone.calls[0].Charges, charge)
	j.alone.specs = append(j.alone.specs, spec)
	return true
}

// elsewhere reports whether a store that keeps slots apart may keep one of the
// kept charges where it kept none of those set aside: then it may be reached
// although they could not.
func elsewhere(kept, aside []limiter.Charge) bool {
	for i := range kept {
		for k := range aside {
			if !sameSlot(&kept[i], &aside[k]) {
				return true
			}
		}
	}
	return false
}

func sameSlot(a, b *limiter.Charge) bool {
	return a.Slot > 0 && a.Slot == b.Slot && bytes.Equal(a.Key[:a.Slot], b.Key[:b.Slot])
}

// takeAlone asks the Fallback.
func (s *Service) takeAlone(ctx context.Context, j *judgment, call *limiter.Call) error {
	a := j.alone
	err := takeOne(ctx, s.cfg.Fallback, a.calls[:], j.req.DryRun)
	if err == nil {
		j.outage = OutageAlone
		j.dec.Warnings = append(j.dec.Warnings, aloneWarning(a.specs))
		return nil
	}
	a.calls[0].Result.Reset()
	if err := noDecision(ctx, err); err != nil {
		return err
	}
	j.specs = append(j.specs, a.specs...)
	call.Charges = append(call.Charges, a.calls[0].Charges...)
	s.denyUnavailable(j, err)
	return nil
}

func aloneWarning(specs []*policy.LimitSpec) string {
	names := make([]string, len(specs))
	for i, spec := range specs {
		names[i] = spec.Name
	}
	if len(names) == 1 {
		return "the limit " + names[0] + " was judged by this replica alone, because its store could not be asked"
	}
	return "the limits " + strings.Join(names, ", ") + " were judged by this replica alone, because their store could not be asked"
}

// addAlone makes one result of what the limiter and the Fallback said, in the
// order of the rules. The receipts stay apart.
func (j *judgment) addAlone(call *limiter.Call) {
	a := j.alone
	if a == nil {
		return
	}
	said := &a.calls[0].Result
	if len(said.Limits) != len(a.specs) || len(call.Result.Limits) != len(j.specs) {
		call.Result.Limits = call.Result.Limits[:0] // a contradiction, which denies
		j.specs = append(j.specs, a.specs...)
		return
	}
	call.Result.Admitted = call.Result.Admitted && said.Admitted
	for i, spec := range a.specs {
		at, _ := slices.BinarySearchFunc(j.specs, spec, func(x, y *policy.LimitSpec) int { return strings.Compare(x.ID, y.ID) })
		j.specs = slices.Insert(j.specs, at, spec)
		call.Charges = slices.Insert(call.Charges, at, a.calls[0].Charges[i])
		call.Result.Limits = slices.Insert(call.Result.Limits, at, said.Limits[i])
	}
}

// denyUnavailable denies for the limits that are left, and names them.
func (s *Service) denyUnavailable(j *judgment, cause error) {
	reason := ReasonDependencyUnavailable
	if errors.Is(cause, limiter.ErrInvalidCharge) {
		reason = ReasonInternalError
	} else {
		j.outage = OutageDenied
	}
	s.deny(j, reason, nil)
	for _, spec := range j.specs {
		j.dec.Matched = append(j.dec.Matched, spec.ID)
	}
}
