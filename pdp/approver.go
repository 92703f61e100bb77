package pdp

import (
	"context"
	"errors"
	"time"
)

// Person is a human who acts on approvals, as the admin listener knows him.
type Person struct {
	// Name is his canonical name, which policies list as a member of approver
	// groups. For the local admin it is the one he says he is, unverified.
	Name string
	// How he is known: KnownByMTLS, KnownByOIDC, KnownBySlack, or LocalAdmin for whoever has the
	// admin token of this machine. All local admins are one human, whatever they
	// say. Who is known in no such way decides nothing.
	How string
	// Groups are those that his identity provider puts him into; see
	// [policy.GroupMember].
	Groups []string
}

// Local tells whether he is known by the admin token alone.
func (p Person) Local() bool { return p.How == LocalAdmin }

// String is how he is recorded.
func (p Person) String() string {
	if p.Local() {
		return LocalAdmin + " as " + p.Name + " (unverified)"
	}
	return p.Name
}

// How a person is known.
const (
	// KnownByMTLS: by a certificate that names him.
	KnownByMTLS = "mtls"
	// KnownByOIDC: by a token of an identity provider.
	KnownByOIDC = "oidc"
	// KnownBySlack: by a button that a user of Slack pressed, whom the configuration
	// names. He decides nothing of risk delete or admin.
	KnownBySlack = "slack"
	// LocalAdmin is how whoever has the admin token is known.
	LocalAdmin = "local-admin"
)

// Ballot is one human's word on one approval.
type Ballot struct {
	ApprovalID string
	Person     Person
	// Reason is needed for a no.
	Reason string
	// VoteID names the ballot, so that the same one sent again counts once; "":
	// it is made of the approval, the person and the word.
	VoteID string
	// Standing is what a yes allows besides, in future; nil: nothing.
	Standing *StandingTerms
}

// ApprovalRecord is one approval as approvers see it.
type ApprovalRecord struct {
	ID, Digest string
	State      ApprovalState
	// Version grows with every change.
	Version int64

	Agent, Owner, Subject string
	Action, Resource      string
	Risk, Gateway         string
	DecisionID            string
	PolicyVersion         string
	// Details are what else is to be judged: name and value, in order, with
	// secrets masked. Values are the agent's words and can hold anything.
	Details []ApprovalDetail
	// Partial says that Details do not hold all of the call: a value or members are cut,
	// as they are of long ones wherever Get is not asked, and of what has ended; or the
	// parameters were not seen whole; also where that is not known. Masked says that
	// something looks like a secret and is hidden. The details say both in words as well,
	// among what the agent says; whoever offers a quick yes looks here.
	Partial, Masked bool
	// Recent is what the agent did in the last hour, as far as is known.
	Recent string

	Requirements []ApprovalRequirementState
	Votes        []ApprovalVote

	OpenedAt time.Time
	// ExpiresAt is when it lapses as it is: while pending, or once approved.
	ExpiresAt time.Time
	EndedAt   time.Time
	EndedBy   string
	Why       string
	// UsedBy is the decision that used it; "" if none did.
	UsedBy string
	// Grant is not nil for a standing grant.
	Grant *GrantState
}

// ApprovalDetail is one thing that an approver has to see.
type ApprovalDetail struct {
	Name, Value string
	// Unverified says that the agent said so and nobody checked it.
	Unverified bool
}

// ApprovalRequirementState is how far one rule's need is met.
type ApprovalRequirementState struct {
	Rule   string
	Groups []string
	// Quorum is how many distinct humans are needed, Yes how many said yes.
	Quorum, Yes int
	// Approvers are those who may, by the policy in force.
	Approvers []string
}

// ApprovalVote is what one human said.
type ApprovalVote struct {
	Voter  string
	Yes    bool
	Rule   string
	Reason string
	At     time.Time
}

// ApprovalFilter selects what [ApprovalDesk] lists. The zero value selects those
// that wait or can be used.
type ApprovalFilter struct {
	// All lists final ones as well.
	All   bool
	State ApprovalState
	Agent string
	Limit int
	After string
}

// ApprovalDesk is where humans act on approvals.
//
// The errors are an [*InvalidError], ctx's, and those named below; any other
// means that the store could not be asked.
type ApprovalDesk interface {
	List(ctx context.Context, f ApprovalFilter) (list []ApprovalRecord, next string, err error)
	Get(ctx context.Context, id string) (*ApprovalRecord, error)
	// Approve and Deny count a word; the record is as it stands then.
	Approve(ctx context.Context, b *Ballot) (*ApprovalRecord, error)
	Deny(ctx context.Context, b *Ballot) (*ApprovalRecord, error)
	// Cancel takes a pending one back, and revokes an approved one.
	Cancel(ctx context.Context, b *Ballot) (*ApprovalRecord, error)
	// BreakGlass lets an agent's calls go on without a yes for a while, by the word of
	// a member of [BreakGlassGroup] who is known by more than the admin token.
	BreakGlass(ctx context.Context, o *BreakGlassOrder) (*ApprovalRecord, error)
	// ReviewBreakGlass says, in the ballot's reason, what another member found
	// afterwards.
	ReviewBreakGlass(ctx context.Context, b *Ballot) (*ApprovalRecord, error)
	// Watch calls f with each approval that changes, until ctx ends or f says no.
	Watch(ctx context.Context, f func(*ApprovalRecord) bool) error
}

var (
	// ErrNoSuchApproval says that there is no approval of an id.
	ErrNoSuchApproval = errors.New("there is no such approval; it may have ended long ago")
	// ErrApprovalDecided says that an approval has come to an end, or to a yes, and
	// takes no more words.
	ErrApprovalDecided = errors.New("it is already decided")
	// ErrNotEligible says that a person may not decide this approval. The error
	// that wraps it says why.
	ErrNotEligible = errors.New("this person may not decide it")
)
