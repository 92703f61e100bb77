package pdp

import (
	"context"
	"time"

	"github.com/kelpie-authz/kelpie/policy"
)

// PolicySource holds the snapshot in force. Snapshot is called once per call
// by many goroutines at once, so it should be an atomic load; nil means that
// no policy is loaded, and then nothing is decided.
type PolicySource interface {
	Snapshot() *policy.Snapshot
}

// Identity is who calls, as it was established.
type Identity struct {
	// Agent is the id that the policy judges.
	Agent string
	// Subject is the human the agent acts for; "" if none.
	Subject string
	// Denied is why the identity was not established; "" if it was.
	Denied Reason
}

// Identifier establishes who calls. An error means that it could not be asked:
// the call is DENY dependency_unavailable.
type Identifier interface {
	Identify(ctx context.Context, req *Request, now time.Time) (Identity, error)
}

// Revocations tells what was revoked. It answers from memory and does not
// block; one that cannot vouch for its knowledge answers
// dependency_unavailable.
type Revocations interface {
	// Revoked returns the reason to deny, or "".
	Revoked(id *Identity, now time.Time) Reason
}

// ApprovalFound says where an approval stands when a call asks for it. The
// zero value is that there is none.
type ApprovalFound uint8

// What can be found.
const (
	// FoundNone: nothing was asked of a human yet.
	FoundNone ApprovalFound = iota
	// FoundOpened: it was opened by this very call.
	FoundOpened
	// FoundPending: humans were asked and have not decided.
	FoundPending
	// FoundApproved: every yes is there, and unused.
	FoundApproved
	// FoundGranted: a standing grant stands in for the yes.
	FoundGranted
	// FoundDenied: a human said no, or it was cancelled, superseded or revoked.
	FoundDenied
	// FoundExpired: it was not decided, or not used, in time.
	FoundExpired
	// FoundConsumed: it was used.
	FoundConsumed
	// FoundMismatch: the id is unknown or another call's.
	FoundMismatch
	// FoundGrantExhausted: the standing grant has no use left.
	FoundGrantExhausted
	// FoundBreakGlass: somebody broke the glass for the agent.
	FoundBreakGlass
	// FoundQuota: the agent has too many pending ones; none was opened.
	FoundQuota
	// FoundUnshowable: the call has more to judge than a human can be shown; none was opened.
	FoundUnshowable
)

// ApprovalStatus is a store's answer.
type ApprovalStatus struct {
	Found ApprovalFound
	ID    string
	// ExpiresAt is when it lapses; zero if there is none.
	ExpiresAt time.Time
}

// ApprovalAsk is one call's need of an approval. It is valid during the call
// only and not to be changed.
type ApprovalAsk struct {
	// ID is the approval that the request names; "" if it names none.
	ID string
	// Digest binds the approval to exactly this call, see [Binding.Digest].
	Digest string
	// Requirements must all be met. They belong to the snapshot.
	Requirements []policy.Requirement
	// Expires and UseWithin are the shortest of the requirements.
	Expires   time.Duration
	UseWithin time.Duration
	// Now is the decision's clock reading.
	Now        time.Time
	DecisionID string
	Risk       string
	// PolicyVersion is of the snapshot that decides.
	PolicyVersion string
	// Agent and Subject are the established ones.
	Agent   string
	Subject string
	// Request is the call as it came.
	Request *Request
	// Binding is what Digest is made of.
	Binding *Binding
}

// Approvals keeps approvals. Its methods are called by many goroutines at
// once. An error means that it could not be asked: the call is DENY
// dependency_unavailable.
type Approvals interface {
	// Find returns where the approval stands: the one that ask.ID names, else
	// the one for ask.Digest. It uses nothing and never answers FoundOpened. For
	// a dry run it changes nothing; else it may write down what time or the policy
	// has done to the approval already.
	Find(ctx context.Context, ask *ApprovalAsk) (ApprovalStatus, error)
	// Open asks the humans: FoundOpened, or FoundPending if an identical one
	// was pending, or FoundQuota. It is called after Find said FoundNone.
	Open(ctx context.Context, ask *ApprovalAsk) (ApprovalStatus, error)
	// Consume uses what Find returned, atomically: FoundApproved,
	// FoundGranted or FoundBreakGlass if this call is the one that used it, and where the approval
	// stands if it is not.
	Consume(ctx context.Context, ask *ApprovalAsk, found ApprovalStatus) (ApprovalStatus, error)
}
