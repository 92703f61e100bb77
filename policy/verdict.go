package policy

import "time"

// Outcome is what the pure checks say of a call. The zero value is no verdict
// and must be treated as OutcomeDeny.
type Outcome uint8

// The outcomes.
const (
	OutcomeNone Outcome = iota
	// OutcomeAllow means that every pure check passed and no human is needed: limits come next.
	OutcomeAllow
	// OutcomeDeny means that a check failed; Reason names it.
	OutcomeDeny
	// OutcomeApproval means that every check before approvals passed and the
	// Requirements must be met before limits are looked at.
	OutcomeApproval
)

// Verdict is the result of Snapshot.Decide: everything up to "is an approval
// needed?", judged without I/O.
//
// The zero value is ready for Decide, which overwrites it and reuses its
// slices; its strings belong to the snapshot and stay valid. A Verdict may be
// reused by one goroutine at a time.
type Verdict struct {
	Outcome Outcome
	Reason  Reason
	// Message is the deny rule's own message, or "".
	Message string
	// Risk of the call, as LANGUAGE defines it.
	Risk Risk
	// Matched are the ids of the rules that made the decision, the deciding one first, then sorted.
	// With OutcomeAllow and OutcomeApproval: see Requirements and Grants; Matched then holds
	// the satisfied grants (Allow) or the approval rules to be met (Approval).
	Matched []string
	// Grants are the ids of the satisfied covering grants, sorted.
	Grants []string
	// RequiredScopes are set with ReasonInsufficientScope, sorted.
	RequiredScopes []string
	// Requirements are set with OutcomeApproval: one per matching rule, sorted by rule id.
	Requirements []Requirement
	// ContextRead are the names of the context members that a matching approval rule reads, sorted;
	// ContextWhole says that one reads the context as a whole. They are part of what a yes binds.
	ContextRead  []string
	ContextWhole bool
	// Shadow are the outcomes that rules in shadow would have given, sorted by rule.
	Shadow []ShadowOutcome
	// agent and the rest that Limits needs; set by Decide.
	state verdictState
}

// Requirement is what one approval rule asks for. It belongs to the snapshot:
// do not change it.
type Requirement struct {
	// Rule is its id: approvals/N or builtin/destructive.
	Rule string
	// Version is a hash of the rule's canonical form, so that a yes to an older wording does not count.
	Version string
	// Groups may say yes; empty: any configured approver.
	Groups []string
	// Approvers are the distinct members of the groups (of all groups if Groups is empty), sorted;
	// see [AmongApprovers].
	Approvers []string
	// Quorum is how many distinct humans must say yes; at least 1.
	Quorum int
	// Expires is how long it may stay pending; UseWithin is how long a yes may be used.
	Expires   time.Duration
	UseWithin time.Duration
	// PathOnly says that the yes need not bind the parameters.
	PathOnly bool
}

// ShadowOutcome is what one rule in shadow would have answered.
type ShadowOutcome struct {
	Rule    string
	Outcome Outcome
	Reason  Reason
}

// LimitKind is what a limit counts over. The zero value is invalid.
type LimitKind uint8

// The kinds.
const (
	LimitNone LimitKind = iota
	LimitRate
	LimitWindow
	LimitQuota
	LimitConcurrency
)

// Unavailable is what a call gets when a limit cannot be asked.
type Unavailable uint8

// The choices; the zero value denies.
const (
	UnavailableDeny Unavailable = iota
	UnavailableAllow
	UnavailableLocalShare
)

// LimitSpec is one compiled limit. It belongs to the snapshot: do not change
// it. Its address is stable for the snapshot's life, so that callers may keep
// what they build from it in a table by Index.
type LimitSpec struct {
	// Index numbers the specs of one snapshot from 0, without gaps.
	Index int
	// ID is the rule's id: limits/N or builtin/default. Name is N, as answers show it.
	ID   string
	Name string
	Kind LimitKind
	// Count is calls per Period (rate, window), per Unit (quota), or slots (concurrency).
	Count int64
	// Burst of a rate.
	Burst int64
	// Period of a rate or window; hold of a concurrency limit.
	Period time.Duration
	// Unit of a quota: second, minute, hour, day, week or month.
	Unit string
	// Location of a quota's calendar; never nil for a quota.
	Location *time.Location
	// CountCost says that the request's cost is counted, not calls.
	CountCost bool
	// PerCall says that it counts repetitions of one and the same call.
	PerCall bool
	// OnUnavailable is what happens when it cannot be asked.
	OnUnavailable Unavailable
	// Shadow limits count in a counter of their own and never bound.
	Shadow bool
	// Lease is for how long units of a rate or a quota may be taken ahead: a tenth
	// of the time in which an empty rate is full again, and at most 100 ms. Zero:
	// none may, also where that comes to less than 1 ms.
	Lease time.Duration
}

// LimitCharge is one limit that matches a call, and the bucket it falls into.
type LimitCharge struct {
	Spec *LimitSpec
	// Key names the bucket: who it belongs to, the other dimensions and the
	// limit, length-prefixed. It points into a buffer of LimitSet and is valid
	// until that is reused. ParseLimitHome reads its beginning.
	Key []byte
	// Home is how many of its first bytes the keys of all limits over the same
	// dimensions share, and Slot how many those of everything of the agent; Slot
	// is 0 for a limit whose per lacks agent.
	Home, Slot int
}

// LimitSet is the result of Snapshot.Limits. The zero value is ready for use;
// Limits overwrites it and reuses its buffers.
type LimitSet struct {
	// Charges are the limits that match, enforced and shadow ones, sorted by ID.
	Charges []LimitCharge
	// Reason is not "" if a limit's condition could not be evaluated: the call
	// is then denied with it, Matched names those limits, and nothing may be charged.
	Reason  Reason
	Matched []string
	buf     []byte
}

// Status is what one check said in Explain.
type Status uint8

// The statuses; the zero value is not judged.
const (
	StatusSkipped Status = iota
	StatusPass
	StatusDeny
	StatusApproval
)

// Check is one step of Explain.
type Check struct {
	// Name is suspension, network, deny, scope, approval or limits ("identity" for an unknown agent).
	Name   string
	Status Status
	Reason Reason
	Rules  []string
	// Detail says what was found, for a person; never a parameter's value.
	Detail string
}
