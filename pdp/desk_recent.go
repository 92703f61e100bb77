package pdp

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync"
	"time"
)

// What is counted of each agent: an hour in slots of five minutes.
const (
	recentSlots  = 12
	recentSlot   = 5 * time.Minute
	recentShards = 16
	// recentAgents bounds how many agents are counted, at about 300 bytes each.
	recentAgents = 16 << 10
)

// Activity counts what each agent was answered within the last hour, for those
// who have to judge its calls. It knows of the decisions of this process alone,
// forgets them with it, and counts at most 16,384 agents: one more takes the place
// of another. It is safe for concurrent use.
type Activity struct {
	now    func() time.Time
	seed   maphash.Seed
	shards [recentShards]activityShard
}

type activityShard struct {
	mu     sync.Mutex
	agents map[string]*recentCounts
}

// recentCounts are the slots of one agent.
type recentCounts [recentSlots]recentCount

// recentCount is what was counted in one slot, whose number is that of its time
// since 1970. It is one piece, since each decision touches one of them.
type recentCount struct {
	slot                   int64
	allowed, denied, asked uint32
}

// NewActivity counts nothing yet. now nil: time.Now.
func NewActivity(now func() time.Time) *Activity {
	if now == nil {
		now = time.Now
	}
	a := &Activity{now: now, seed: maphash.MakeSeed()}
	for i := range a.shards {
		a.shards[i].agents = map[string]*recentCounts{}
	}
	return a
}

// Recorder returns a recorder that has next keep each record and counts the
// decisions among them as they leave.
func (a *Activity) Recorder(next Recorder) Recorder {
	return Observe(next, func(_ context.Context, r *Record, err error) {
		if r.Change != nil || r.Event != nil || r.DryRun || !established(r) {
			return
		}
		verdict := r.Verdict
		if err != nil && verdict == Allow {
			verdict = Deny
		}
		a.count(r.Agent, verdict, r.Time)
	})
}

// established tells whether the agent of a record is one: a name that nobody
// checked is not worth a place.
func established(r *Record) bool {
	switch r.Reason {
	case ReasonAgentUnknown, ReasonParametersInvalid, ReasonUnauthenticatedIdentity, ReasonUnknownMethod, ReasonHeaderMismatch:
		return false
	default:
		return r.Agent != ""
	}
}

func (a *Activity) shard(agent string) *activityShard {
	return &a.shards[maphash.String(a.seed, agent)%recentShards]
}

func slotOf(t time.Time) int64 { return t.Unix() / int64(recentSlot/time.Second) }

func (a *Activity) count(agent string, v Verdict, t time.Time) {
	s, number := a.shard(agent), slotOf(t)
	at := ((number % recentSlots) + recentSlots) % recentSlots
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.agents[agent]
	if c == nil {
		if len(s.agents) >= recentAgents/recentShards {
			for other := range s.agents {
				delete(s.agents, other)
				break
			}
		}
		c = &recentCounts{}
		s.agents[agent] = c
	}
	one := &c[at]
	if one.slot != number {
		*one = recentCount{slot: number}
	}
	switch v {
	case Allow:
		one.allowed++
	case RequireApproval:
		one.asked++
	default:
		one.denied++
	}
}

// Recent says what an agent did within the last hour, in a sentence.
func (a *Activity) Recent(agent string) string {
	s, now := a.shard(agent), slotOf(a.now())
	var allowed, denied, asked uint64
	s.mu.Lock()
	if c := s.agents[agent]; c != nil {
		for _, one := range c {
			if one.slot > now-recentSlots && one.slot <= now {
				allowed += uint64(one.allowed)
				denied += uint64(one.denied)
				asked += uint64(one.asked)
			}
		}
	}
	s.mu.Unlock()
	if allowed+denied+asked == 0 {
		return "nothing in the last hour, as far as this server knows"
	}
	return fmt.Sprintf("%d allowed, %d denied, %d that needed a yes in the last hour, as far as this server knows", allowed, denied, asked)
}
