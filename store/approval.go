package store

import (
	"context"
	"slices"
	"time"
)

// State is how far an approval is. The zero State is invalid.
//
//	Pending -> Approved -> Consumed
//	Pending -> Denied | Expired | Cancelled | Superseded
//	Approved -> Expired | Superseded | Revoked
//	Approved -> Pending (only where a store cannot vouch that it is unused)
//
// All but Pending and Approved are final.
type State uint8

// The states.
const (
	// Pending waits for humans.
	Pending State = iota + 1
	// Approved has every yes that it needs, and was not used.
	Approved
	// Consumed was used, by exactly one call.
	Consumed
	// Denied has a no.
	Denied
	// Expired was not decided, or not used, in time.
	Expired
	// Cancelled was taken back before it was decided.
	Cancelled
	// Superseded was asked under a rule that is not the policy's any more.
	Superseded
	// Revoked was taken back after it was approved.
	Revoked
)

// Final tells whether a state is never left.
func (s State) Final() bool { return s != Pending && s != Approved }

// String returns the state's name on the wire and in the CLI.
func (s State) String() string {
	names := [...]string{"", "pending", "approved", "consumed", "denied", "expired", "cancelled", "superseded", "revoked"}
	if s < Pending || s > Revoked {
		return "State(" + string('0'+s%10) + ")"
	}
	return names[s]
}

// Requirement is one rule's need: so many distinct humans of its groups.
type Requirement struct {
	// Rule is the rule's id, Version the hash of its text when it was asked.
	Rule    string
	Version string
	// Groups may say yes; empty: any approver.
	Groups []string
	// Quorum is how many distinct humans must say yes, at least 1.
	Quorum int
}

// Vote is what one human said, of one requirement.
type Vote struct {
	// ID names the vote: the same one sent again is the same vote.
	ID string
	// Voter is the human's canonical name; How is how he was known.
	Voter, How string
	// Groups are those of his identity provider that counted when he said it.
	Groups []string `json:",omitempty"`
	// Rule is the requirement that a yes counts for; "" for a no.
	Rule string
	Yes  bool
	// Reason is his, in his words; a no has one.
	Reason string
	At     time.Time
}

// Use is by whom an approval was used.
type Use struct {
	Gateway, RequestID, DecisionID string
	At                             time.Time
}

// Approval is one request for a human's yes, bound by Digest to exactly one
// call. It is a plain value: what a store returns belongs to the caller.
type Approval struct {
	// ID is unguessable and names it for its life.
	ID string
	// Digest binds it to the call.
	Digest string
	State  State
	// Version counts the changes of what is stored, from 1. See [Approvals.Swap].
	Version int64

	// Who asks for what.
	Agent, Subject   string
	Action, Resource string
	Risk, Gateway    string
	DecisionID       string
	PolicyVersion    string
	// Shown is what an approver is shown besides, as JSON; secrets are masked.
	Shown []byte

	Requirements []Requirement
	Votes        []Vote

	OpenedAt time.Time
	// ExpiresAt is when it lapses while it is pending, UseBy when a yes does;
	// UseBy is zero before it is approved. UseWithin is how long a yes lasts.
	ExpiresAt, UseBy time.Time
	UseWithin        time.Duration
	// EndedAt is when it came to its final state, by whom, and why; zero before.
	EndedAt      time.Time
	EndedBy, Why string
	// Used is by whom it was used; nil if it was not. Of a standing grant it is who
	// used it last.
	Used *Use
	// Grant makes it a standing grant, which is no approval of one call: Approved
	// while it has uses left. Nil: it is none.
	Grant *Grant `json:",omitempty"`

	// Unsure is set by a store that cannot vouch that an Approved one is unused:
	// it may have lost what was written last. It is not stored.
	Unsure bool
}

// Grant is what a standing grant allows.
type Grant struct {
	// From is the approval that it was made from, and Shape what it says of its
	// call, as JSON.
	From  string `json:"from"`
	Shape []byte `json:"shape"`
	// Resource is a pattern of the policy language.
	Resource string  `json:"resource"`
	Bounds   []Bound `json:"bounds,omitempty"`
	// MaxCost bounds the cost.
	MaxCost float64 `json:"max_cost"`
	// MaxUses is how many calls may use it, Uses how many did.
	MaxUses int `json:"max_uses"`
	Uses    int `json:"uses"`
	// BreakGlass makes it one of an emergency, which has no bounds and no end but its
	// time: From, Shape, Bounds, MaxCost and MaxUses say nothing. Nil: it is none.
	BreakGlass *BreakGlass `json:"break_glass,omitempty"`
}

// BreakGlass is an emergency, in which a yes is not waited for.
type BreakGlass struct {
	// Action is a pattern of the policy language.
	Action string `json:"action"`
	// Reason and Ticket are whose opened it.
	Reason string `json:"reason"`
	Ticket string `json:"ticket"`
	// ReviewedBy looked at it afterwards, and said Review; "": nobody did.
	ReviewedBy string    `json:"reviewed_by,omitempty"`
	Review     string    `json:"review,omitempty"`
	ReviewedAt time.Time `json:"reviewed_at,omitzero"`
}

// Bound frees one member of the parameters within bounds. Members without one have
// to be as they were.
type Bound struct {
	Name string `json:"name"`
	// Any frees it; else it is a number of at least Min and at most Max, where they
	// are there.
	Any bool     `json:"any,omitempty"`
	Min *float64 `json:"min,omitempty"`
	Max *float64 `json:"max,omitempty"`
}

// Clone returns a copy that shares nothing with the approval.
func (a *Approval) Clone() *Approval {
	c := *a
	c.Shown = slices.Clone(a.Shown)
	c.Requirements = slices.Clone(a.Requirements)
	for i := range c.Requirements {
		c.Requirements[i].Groups = slices.Clone(c.Requirements[i].Groups)
	}
	c.Votes = slices.Clone(a.Votes)
	for i := range c.Votes {
		c.Votes[i].Groups = slices.Clone(c.Votes[i].Groups)
	}
	if a.Used != nil {
		used := *a.Used
		c.Used = &used
	}
	if a.Grant != nil {
		grant := *a.Grant
		grant.Shape, grant.Bounds = slices.Clone(grant.Shape), slices.Clone(grant.Bounds)
		if grant.BreakGlass != nil {
			glass := *grant.BreakGlass
			grant.BreakGlass = &glass
		}
		c.Grant = &grant
	}
	return &c
}

// Settled tells whether it is final, and nobody has to look at it any more: an
// emergency is, once it was reviewed.
func (a *Approval) Settled() bool {
	return a.State.Final() && (a.Grant == nil || a.Grant.BreakGlass == nil || a.Grant.BreakGlass.ReviewedBy != "")
}

// OpenLimits bounds what one agent may ask of humans. A standing grant is no question:
// it is not counted, and not bounded.
type OpenLimits struct {
	// Pending is how many of an agent's approvals may be pending at once, Hourly
	// how many it may open within Span. Zero: no bound.
	Pending, Hourly int
	Span            time.Duration
	// Denied is for how long after a no the same call is not asked about again.
	Denied time.Duration
	// Now is the clock reading of the decision.
	Now time.Time
}

// Stands tells whether an approval for the same call makes another one needless.
func (l *OpenLimits) Stands(a *Approval) bool {
	switch a.State {
	case Pending:
		return l.Now.Before(a.ExpiresAt)
	case Approved:
		return l.Now.Before(a.UseBy)
	case Denied:
		return l.Now.Sub(a.EndedAt) < l.Denied
	default:
		return false
	}
}

// Filter selects approvals. The zero Filter selects all.
type Filter struct {
	// States are those wanted; empty: all.
	States []State
	Agent  string
	// Limit is how many to return at most; zero: 100, and never more than 1,000.
	Limit int
	// After is the cursor that an earlier answer gave; "": from the newest.
	After string
}

// Approvals keeps approvals. It is safe for concurrent use, also by other
// processes over the same store, and knows nothing of votes and quorums: who
// changes an approval reads it, and swaps it for what it is to be.
//
// Every error but those named is an [ErrUnavailable]: it is not known whether
// anything was done, except that Swap did it once at most.
type Approvals interface {
	// Open stores a as a new Pending approval with Version 1, unless one for the
	// same digest stands: a Pending one that has not expired, an Approved one that
	// can still be used, or a Denied one of the last limits.Denied. That one is
	// returned then, and opened is false. All of it is one step, so that two who
	// ask at once share one. The error is ErrQuota if the agent has too many.
	Open(ctx context.Context, a *Approval, limits OpenLimits) (found *Approval, opened bool, err error)
	// Get returns one by its id, or ErrNotFound.
	Get(ctx context.Context, id string) (*Approval, error)
	// ByDigest returns the newest one for a digest, or ErrNotFound.
	ByDigest(ctx context.Context, digest string) (*Approval, error)
	// Swap replaces what is stored if that has a's Version, which a then has one
	// more of. Else nothing is done: ErrChanged if another change came first,
	// ErrNotFound if it is gone, ErrUnsure if the store cannot vouch for what it
	// has, for which a must be Pending to be swapped in. It is never sent twice.
	Swap(ctx context.Context, a *Approval) error
	// List returns approvals, the newest first, and the cursor to go on from; ""
	// when there are no more.
	List(ctx context.Context, f Filter) (list []*Approval, next string, err error)
	// Watch returns a channel that receives the id of each approval that was
	// changed, by whomever, from now on; it is closed when ctx ends. Ids can come
	// late, twice or, where the store was away, not at all: whoever watches looks
	// again from time to time.
	Watch(ctx context.Context) (<-chan string, error)
	// Prune removes settled ones that ended before an instant, some at a time, and
	// returns how many it removed; zero: there are no more. See [Approval.Settled].
	Prune(ctx context.Context, before time.Time) (int, error)
	// Close gives back what it holds.
	Close() error
}
