package pdp

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/policy"
)

// MaxListed is how many buckets of an agent ShowLimits looks at.
const MaxListed = 1000

// AgentLimit is how one bucket of one agent stands, in whole units.
type AgentLimit struct {
	Name string
	// Dimensions are what names the bucket besides the agent.
	Dimensions []policy.LimitDimension
	Limit      int64
	Remaining  int64
	Reset      time.Duration
	Shadow     bool
}

var (
	// ErrCannotInspect is returned where the limiter's driver cannot tell or
	// forget what belongs to an agent.
	ErrCannotInspect = errors.New("this limiter cannot tell which buckets are an agent's")
	// ErrNoSuchAgent is returned for an agent that the policy does not know.
	ErrNoSuchAgent = errors.New("the policy knows no such agent")
	// ErrNoSuchLimit is returned for a limit that the policy does not have.
	ErrNoSuchLimit = errors.New("the policy has no limit of that name")
)

// ShowLimits tells how the limits of an agent stand that it has used: those
// with agent in their per, and not full. It changes nothing. More is how many
// buckets are there besides, of which the driver keeps no name or which are
// beyond MaxListed.
//
// Errors are an [*InvalidError], [ErrNoPolicy], [ErrNoSuchAgent],
// [ErrCannotInspect], and those of the limiter.
func (s *Service) ShowLimits(ctx context.Context, agent string) (limits []AgentLimit, more int, err error) {
	snap, inspector, err := s.inspect(agent)
	if err != nil {
		return nil, 0, err
	}
	var found found
	err = inspector.Names(ctx, policy.AppendLimitSlot(nil, agent), func(name string) bool {
		found.add(name, agent)
		return true
	})
	if err != nil {
		return nil, 0, fmt.Errorf("look for the limits of %s: %w", agent, err)
	}
	charges := found.charges(snap)
	if len(charges) > MaxListed {
		found.more += len(charges) - MaxListed
		charges = charges[:MaxListed]
	}
	limits, err = s.standing(ctx, snap, charges)
	if err != nil {
		return nil, 0, fmt.Errorf("look at the limits of %s: %w", agent, err)
	}
	return limits, found.more, nil
}

// inspect checks what ShowLimits and ResetLimits have in common.
func (s *Service) inspect(agent string) (*policy.Snapshot, limiter.Inspector, error) {
	if err := policy.CheckAgent(agent); err != nil {
		return nil, nil, invalid("agent", err)
	}
	snap := s.cfg.Policy.Snapshot()
	if snap == nil {
		return nil, nil, ErrNoPolicy
	}
	if !snap.HasAgent(agent) {
		return nil, nil, ErrNoSuchAgent
	}
	inspector, ok := s.cfg.Limiter.(limiter.Inspector)
	if !ok {
		return nil, nil, ErrCannotInspect
	}
	return snap, inspector, nil
}

// found is what an inspector told of: homes, each once, and how many names came
// that say nothing.
type found struct {
	homes map[string]policy.LimitHome
	more  int
}

func (f *found) add(name, agent string) {
	home, ok := policy.ParseLimitHome(name)
	if !ok || home.Agent != agent {
		f.more++
		return
	}
	if _, known := f.homes[name[:home.Home]]; known {
		return
	}
	if len(f.homes) >= MaxListed {
		f.more++
		return
	}
	if f.homes == nil {
		f.homes = make(map[string]policy.LimitHome)
	}
	f.homes[strings.Clone(name[:home.Home])] = home
}

// listed is a bucket to look at.
type listed struct {
	policy.LimitCharge

	dimensions []policy.LimitDimension
}

// charges are the buckets that limits of the policy can have in the homes.
func (f *found) charges(snap *policy.Snapshot) []listed {
	var out []listed
	for name, home := range f.homes {
		for _, charge := range snap.LimitsIn(home, name) {
			out = append(out, listed{charge, home.Dimensions})
		}
	}
	slices.SortFunc(out, func(a, b listed) int {
		return cmp.Or(strings.Compare(a.Spec.ID, b.Spec.ID), bytes.Compare(a.Key, b.Key))
	})
	return out
}

// standing looks at the buckets, and leaves out those that are full.
func (s *Service) standing(ctx context.Context, snap *policy.Snapshot, buckets []listed) ([]AgentLimit, error) {
	table := s.limitTable(snap)
	calls := make([]limiter.Call, len(buckets))
	for i := range buckets {
		b := &buckets[i]
		calls[i].Charges = []limiter.Charge{{
			Limit: &table.entries[b.Spec.Index].limit, Key: b.Key, Home: b.Home, Slot: b.Slot, Cost: limiter.Unit,
		}}
	}
	if err := s.cfg.Limiter.Peek(ctx, calls); err != nil {
		return nil, err
	}
	var out []AgentLimit
	for i := range buckets {
		b := &buckets[i]
		if len(calls[i].Result.Limits) != 1 {
			continue
		}
		if st := &calls[i].Result.Limits[0]; st.Remaining < st.Limit {
			out = append(out, AgentLimit{
				Name: b.Spec.Name, Dimensions: b.dimensions, Shadow: b.Spec.Shadow,
				Limit: wholeUnits(st.Limit), Remaining: wholeUnits(st.Remaining), Reset: st.Reset,
			})
		}
	}
	return out, nil
}

// ResetLimits forgets what was charged to the limits of an agent that have agent
// in their per, or to the one of that name alone: they are full again, and calls
// under way hold no slot any more. It returns how many buckets were in use. As is
// who does it, for the record.
//
// Errors are those of ShowLimits, and [ErrNoSuchLimit]. After one of the limiter
// a part can be forgotten.
func (s *Service) ResetLimits(ctx context.Context, agent, limit, as string) (int, error) {
	snap, _, err := s.inspect(agent)
	if err != nil {
		return 0, err
	}
	if err := policy.CheckText("as", as, maxTextBytes); err != nil {
		return 0, invalid("as", err)
	}
	rests := [][]byte{nil}
	change := Change{Kind: ChangeReset, As: as}
	if limit != "" {
		id, ok := limitID(snap, limit)
		if !ok {
			return 0, ErrNoSuchLimit
		}
		rests = [][]byte{policy.AppendLimitRest(nil, id, false), policy.AppendLimitRest(nil, id, true)}
		change.Limits = []LimitChange{{Name: limit}}
	}
	arrived := s.cfg.Now()
	failed := s.forget(ctx, agent, rests, &change)
	change.failed(failed)
	recorded := s.recordChange(context.WithoutCancel(ctx), &Record{Time: arrived, Agent: agent, Change: &change})
	if failed != nil {
		return change.Buckets, fmt.Errorf("reset the limits of %s: %w", agent, failed)
	}
	return change.Buckets, recorded
}

// forget asks the limiter, and what stands in for it: this replica may be
// judging alone.
func (s *Service) forget(ctx context.Context, agent string, rests [][]byte, change *Change) error {
	slot := policy.AppendLimitSlot(nil, agent)
	for _, lim := range []limiter.Limiter{s.cfg.Limiter, s.cfg.Fallback} {
		inspector, ok := lim.(limiter.Inspector)
		if !ok {
			continue
		}
		for _, rest := range rests {
			n, err := inspector.Forget(ctx, slot, rest)
			if err != nil {
				return err
			}
			change.Buckets += n
		}
	}
	return nil
}

// limitID is the id of the limit of a name.
func limitID(snap *policy.Snapshot, name string) (string, bool) {
	for _, spec := range snap.LimitSpecs() {
		if spec.Name == name {
			return spec.ID, true
		}
	}
	return "", false
}
