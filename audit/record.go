package audit

import (
	"strings"
	"time"
)

// Kind says what a record is about. The zero value is none, and is refused.
type Kind string

// The kinds. Those of one family share what stands before the underscore.
const (
	// KindDecision is an answer to a call.
	KindDecision Kind = "decision"
	// KindSettle, KindRelease and KindReset change what was charged to limits.
	KindSettle  Kind = "settle"
	KindRelease Kind = "release"
	KindReset   Kind = "reset"

	// KindApprovalOpened and the following are the life of an approval.
	KindApprovalOpened     Kind = "approval_opened"
	KindApprovalVote       Kind = "approval_vote"
	KindApprovalApproved   Kind = "approval_approved"
	KindApprovalConsumed   Kind = "approval_consumed"
	KindApprovalDenied     Kind = "approval_denied"
	KindApprovalExpired    Kind = "approval_expired"
	KindApprovalCancelled  Kind = "approval_cancelled"
	KindApprovalSuperseded Kind = "approval_superseded"
	KindApprovalRevoked    Kind = "approval_revoked"
	// KindApprovalReopened: a yes counts no more, and humans are asked again.
	KindApprovalReopened Kind = "approval_reopened"
	// KindApprovalStanding: a standing grant was made; KindApprovalGrantUsed: a call
	// used one.
	KindApprovalStanding  Kind = "approval_standing"
	KindApprovalGrantUsed Kind = "approval_grant_used"
	// KindApprovalBreakGlass: somebody broke the glass; ...Used: a call went through
	// by that; ...Reviewed: somebody else looked at it afterwards.
	KindApprovalBreakGlass         Kind = "approval_breakglass"
	KindApprovalBreakGlassUsed     Kind = "approval_breakglass_used"
	KindApprovalBreakGlassReviewed Kind = "approval_breakglass_reviewed"

	// KindRevocation takes a credential, an agent, ... out of use, or back.
	KindRevocation Kind = "revocation"
	// KindPolicyLoaded and KindPolicyRefused are what came of reading a policy.
	KindPolicyLoaded  Kind = "policy_loaded"
	KindPolicyRefused Kind = "policy_refused"
	// KindAdmin is any other call of the admin API.
	KindAdmin Kind = "admin"

	// KindSegment, KindCheckpoint and KindRetention are notes of the log about
	// itself. Only the driver that keeps the log writes them.
	KindSegment    Kind = "segment"
	KindCheckpoint Kind = "checkpoint"
	KindRetention  Kind = "retention"
)

// Kinds are all that a caller may append.
func Kinds() []Kind {
	return []Kind{
		KindDecision, KindSettle, KindRelease, KindReset,
		KindApprovalOpened, KindApprovalVote, KindApprovalApproved, KindApprovalConsumed, KindApprovalDenied,
		KindApprovalExpired, KindApprovalCancelled, KindApprovalSuperseded, KindApprovalRevoked, KindApprovalReopened, KindApprovalStanding, KindApprovalGrantUsed,
		KindApprovalBreakGlass, KindApprovalBreakGlassUsed, KindApprovalBreakGlassReviewed,
		KindRevocation, KindPolicyLoaded, KindPolicyRefused, KindAdmin,
	}
}

// Note tells whether k is of the log about itself.
func (k Kind) Note() bool {
	return k == KindSegment || k == KindCheckpoint || k == KindRetention
}

// Valid tells whether a caller may append a record of kind k.
func (k Kind) Valid() bool {
	switch k {
	case KindDecision, KindSettle, KindRelease, KindReset,
		KindApprovalOpened, KindApprovalVote, KindApprovalApproved, KindApprovalConsumed, KindApprovalDenied,
		KindApprovalExpired, KindApprovalCancelled, KindApprovalSuperseded, KindApprovalRevoked, KindApprovalReopened, KindApprovalStanding, KindApprovalGrantUsed,
		KindApprovalBreakGlass, KindApprovalBreakGlassUsed, KindApprovalBreakGlassReviewed,
		KindRevocation, KindPolicyLoaded, KindPolicyRefused, KindAdmin:
		return true
	case KindSegment, KindCheckpoint, KindRetention:
		return false
	default:
		return false
	}
}

// word tells whether k could be a kind of this or of a later version.
func (k Kind) word() bool {
	for i := range len(k) {
		if c := k[i]; (c < 'a' || c > 'z') && c != '_' {
			return false
		}
	}
	return k != "" && len(k) <= 64
}

// is tells whether k is kind, or of the family that kind names.
func (k Kind) is(kind Kind) bool {
	rest, family := strings.CutPrefix(string(k), string(kind))
	return family && (rest == "" || rest[0] == '_')
}

// Record is one line of the audit. Empty fields are left out of the line, save
// Time and Kind, which every record has. A Record is a plain value: who
// appends it may use it again as soon as [Sink.Append] has returned.
//
// Texts may hold any bytes; see [AppendRecord] for what becomes of them.
type Record struct {
	// Time is when it happened, by the clock of whom it happened to. It is kept
	// in UTC, to the nanosecond; only years 0 to 9999 can be kept.
	Time time.Time
	Kind Kind

	DecisionID, RequestID string
	SessionID, RunID      string

	// Gateway asked, as the door established it.
	Gateway string
	// Agent is the established id, ClaimedAgent what the request said if that
	// is something else, Subject the human that the agent acts for.
	Agent, ClaimedAgent, Subject string
	// ActorChain are the agents between, the last one to call last.
	ActorChain []string
	// Actor did it (a vote, a revocation, an admin call); ActorAuth is how he
	// was known, "local-admin" for one.
	Actor, ActorAuth string
	// Method is the call of the admin API, Target what it was done to.
	Method, Target string

	Action, Resource string
	// SourceIP is canonical.
	SourceIP string
	Risk     string
	// Tool and ToolServer name the tool called.
	Tool, ToolServer string
	// Route is the rule that made a call of an HTTP request, the rest is that request.
	Route, HTTPMethod, HTTPHost, HTTPPath string
	// Cost as given.
	Cost float64

	// Decision is the verdict's name, ALLOW for one; of a dry run the one that
	// would have been given.
	Decision string
	// Reason is the verdict's code, Message its sentence.
	Reason, Message string
	// Matched are the ids of the rules that decided.
	Matched       []string
	PolicyVersion string
	Limits        []Limit

	ApprovalID, ApprovalDigest string
	// GrantID is the standing grant that was used.
	GrantID string

	// ParametersDigest is the hex SHA-256 of the parameters as they came;
	// ParametersState what the caller said of them.
	ParametersDigest, ParametersState string
	// Shown are the members of the parameters that may be seen; see [Mask].
	Shown []Member

	// Latency is kept in whole microseconds.
	Latency time.Duration
	DryRun  bool
	// Outage is what the loss of a dependency did to the call.
	Outage   string
	Warnings []string
	Shadow   []Shadow

	// Why is a person's reason in his words; Details are facts that only this
	// kind has.
	Why     string
	Details []Member
	// Failed says that what is recorded was not done, or not wholly; Cause is why.
	Failed bool
	Cause  string

	// Note is set in records of the log about itself, and in no other.
	Note *Note
}

// Limit is where one limit stands after a decision, or how one was changed.
type Limit struct {
	Name string `json:"name"`
	// Limit and Remaining are in whole units, Reset in whole milliseconds.
	Limit     int64         `json:"limit,omitempty"`
	Remaining int64         `json:"remaining,omitempty"`
	Reset     time.Duration `json:"-"`
	// GivenBack and Charged are what a settlement changed, in units.
	GivenBack float64 `json:"given_back,omitempty"`
	Charged   float64 `json:"charged,omitempty"`
}

// Shadow is what a rule that is not enforced would have said.
type Shadow struct {
	Rule     string `json:"rule"`
	Decision string `json:"decision,omitempty"`
	Reason   string `json:"reason,omitempty"`
}

// Member is a named text.
type Member struct {
	Name, Value string
}

// Note is what the log says about itself. Which fields have a meaning depends
// on the kind of the record.
type Note struct {
	// Chain names the log for its life; Segment is the number of a segment:
	// the one that the note stands in, for a retention the oldest that is kept.
	Chain   string
	Segment uint64

	// Of a segment's first line. Prev is the hash of the last line before it
	// that counts, FirstSeq the number of this one.
	Prev Hash
	// Ended is how the segment before ended: see the Ended constants; "" for
	// the first.
	Ended string
	// Truncated says of a segment that failed that it was cut behind its last line
	// that counts, so that nothing can stand there.
	Truncated bool
	// CutBytes is what a crash left behind the last whole line and was cut off.
	CutBytes int64
	// Adopted is how many lines a start found behind the last one that the head had
	// signed, and took over: whoever could write the files could have made them.
	Adopted uint64
	// Refused is how many records were refused since the segment before.
	Refused uint64
	// Lost is how many records were taken without waiting, and answered, and could
	// not be written before the process ended.
	Lost uint64
	// LostFrom and LostTo are the numbers of records that the signed head knew
	// and that were not there any more; zero: none.
	LostFrom, LostTo uint64
	// PrevFrom and PrevTo are the oldest and newest time of the records of the
	// segment before.
	PrevFrom, PrevTo time.Time

	// Checkpoint is of a checkpoint.
	Checkpoint *Checkpoint

	// Removed is how many segments a retention removed, RemovedBytes their size
	// on disk, RemovedSeq the number of the last record that went.
	Removed      int
	RemovedBytes int64
	RemovedSeq   uint64
}

// How a segment ended, as the next one says.
const (
	// EndedClosed: by a checkpoint, at rotation or at Close.
	EndedClosed = "closed"
	// EndedCrashed: the process died.
	EndedCrashed = "crashed"
	// EndedFailed: writing to it, or its fsync, failed. What follows the last
	// line that counts was never confirmed to be kept.
	EndedFailed = "failed"
)

// Line is one record with its place in the log.
type Line struct {
	Record

	// Seq counts the lines of a log, notes among them, from 1.
	Seq  uint64
	Hash Hash
}
