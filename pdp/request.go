package pdp

import (
	"time"
)

// Request is one call that an agent is about to make, as a door received it:
// nothing in it has been checked. The zero value is malformed (no agent,
// action or resource). A Request is only read.
type Request struct {
	Agent     string
	Action    string
	Resource  string
	SourceIP  string
	RequestID string
	Subject   string
	SessionID string
	RunID     string
	Tool      Tool
	// ParametersJSON are the raw bytes as they came; nil if none were given.
	// Given with ParametersTruncated or ParametersNotSeen they are malformed:
	// the two contradict each other.
	ParametersJSON  []byte
	ParametersState ParametersState
	// Context holds what google.protobuf.Struct can; nil if absent.
	Context map[string]any
	// Cost is 0 if absent, and then counts as 1.
	Cost float64
	// ApprovalID names the approval that the call has. It is malformed where
	// no approvals are kept, since it would go unchecked.
	ApprovalID string
	// DryRun decides and spends nothing.
	DryRun bool
	// Gateway is who asks, as the door established it; for the record.
	Gateway string
	// Origin is the HTTP request that the call was made of, for the record; zero if it was none.
	Origin Origin
}

// Origin is an HTTP request that became a call. It may hold any bytes.
type Origin struct {
	// Route is the id of the route that made the call of it, http/NAME; "" if none did.
	Route        string
	Method, Host string
	// Path is without its query, which can hold secrets, and as it came.
	Path string
}

// Tool names a tool and the server that offers it.
type Tool struct {
	Server string
	Name   string
}

// ParametersState is what the caller says of the parameters.
type ParametersState uint8

// The states, in the order of the wire's enum.
const (
	// ParametersUnspecified means complete if given, none if not.
	ParametersUnspecified ParametersState = iota
	ParametersComplete
	ParametersTruncated
	ParametersNotSeen
)

// Verdict is the decision's kind. The zero value is no decision: treat it as Deny.
type Verdict uint8

// The verdicts, in the order of the wire's enum.
const (
	VerdictNone Verdict = iota
	Allow
	Deny
	RequireApproval
)

// String returns the verdict as logs and the command line write it.
func (v Verdict) String() string {
	switch v {
	case Allow:
		return "ALLOW"
	case Deny:
		return "DENY"
	case RequireApproval:
		return "REQUIRE_APPROVAL"
	default:
		return "UNSPECIFIED"
	}
}

// NextAction is what the caller can do about the answer.
type NextAction uint8

// The actions, in the order of the wire's enum.
const (
	NextUnspecified NextAction = iota
	NextNone
	NextRetry
	NextRequest
	NextWait
)

// String returns the action as the HTTP doors write it.
func (n NextAction) String() string {
	switch n {
	case NextRetry:
		return "retry"
	case NextRequest:
		return "request"
	case NextWait:
		return "wait"
	default:
		return "none"
	}
}

// Decision is one answer. The zero value is ready to be filled by Authorize,
// which overwrites it and reuses its slices. Strings may be kept; slices are
// valid until the Decision is filled again.
type Decision struct {
	Verdict Verdict
	Reason  Reason
	Message string
	ID      string
	// PolicyVersion is the version of the snapshot that decided.
	PolicyVersion  string
	Matched        []string
	Next           NextAction
	RetryAfter     time.Duration
	Limits         []LimitStatus
	Approval       *Approval
	RequiredScopes []string
	Warnings       []string
	Shadow         []ShadowOutcome
	// WouldBe is the verdict of a dry run, whose Verdict stays VerdictNone.
	WouldBe   Verdict
	RequestID string
}

// LimitStatus is how one limit stands after the decision, in whole units.
type LimitStatus struct {
	Name      string
	Limit     int64
	Remaining int64
	Reset     time.Duration
}

// Approval is what must be approved. ID and ExpiresAt are zero while nothing keeps it.
type Approval struct {
	ID        string
	State     ApprovalState
	Digest    string
	ExpiresAt time.Time
	Rules     []ApprovalRequirement
}

// ApprovalState is where an approval stands, in the order of the wire's enum of
// calls; those behind ApprovalConsumed are shown to approvers alone.
type ApprovalState uint8

// The states.
const (
	ApprovalUnspecified ApprovalState = iota
	ApprovalPending
	ApprovalApproved
	ApprovalDenied
	ApprovalExpired
	ApprovalConsumed
	ApprovalCancelled
	ApprovalSuperseded
	ApprovalRevoked
)

// String returns the state as the HTTP doors write it, "" for one that is not kept.
func (s ApprovalState) String() string {
	switch s {
	case ApprovalPending:
		return "pending"
	case ApprovalApproved:
		return "approved"
	case ApprovalDenied:
		return "denied"
	case ApprovalExpired:
		return "expired"
	case ApprovalConsumed:
		return "consumed"
	case ApprovalCancelled:
		return "cancelled"
	case ApprovalSuperseded:
		return "superseded"
	case ApprovalRevoked:
		return "revoked"
	default:
		return ""
	}
}

// ApprovalRequirement is what one rule requires.
type ApprovalRequirement struct {
	Rule   string
	Groups []string
	Quorum int
}

// ShadowOutcome is what a rule in shadow would have answered.
type ShadowOutcome struct {
	Rule    string
	Verdict Verdict
	Reason  Reason
}

// Semantic says how far a batch is judged.
type Semantic uint8

// The semantics; the zero value judges all.
const (
	ExecuteAll Semantic = iota
	DenyOnFirstDeny
	PermitOnFirstPermit
)

// CheckOutcome is what one check of Explain said, in the order of the wire's enum.
type CheckOutcome uint8

// The outcomes.
const (
	CheckUnspecified CheckOutcome = iota
	CheckPass
	CheckDeny
	CheckRequireApproval
	CheckSkipped
)

// Check is one step of Explain.
type Check struct {
	Name    string
	Outcome CheckOutcome
	Reason  Reason
	Rules   []string
	Detail  string
}

// Explanation is the answer to Explain. The Decision has the form of a dry run:
// its verdict is in WouldBe.
type Explanation struct {
	Decision Decision
	Checks   []Check
	Risk     string
}
