package pdp

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kelpie-authz/kelpie/store"
)

// ErrUnrecorded says that what happened to an approval could not be recorded. A
// vote that is not recorded does not count, and no call goes through whose use of
// an approval is not. It wraps the cause.
var ErrUnrecorded = errors.New("it could not be recorded")

// ApprovalEventKind says what happened to an approval. The zero value is nothing.
type ApprovalEventKind uint8

// The kinds.
const (
	ApprovalEventNone ApprovalEventKind = iota
	// ApprovalOpened: humans were asked.
	ApprovalOpened
	// ApprovalVoted: a human said yes or no. It is recorded before the word
	// counts; a second one with Failed follows if it did not count after all.
	ApprovalVoted
	// ApprovalMet: every yes is there.
	ApprovalMet
	// ApprovalUsed: a call used it.
	ApprovalUsed
	// ApprovalRefused: a no ended it.
	ApprovalRefused
	// ApprovalLapsed: it was seen to be past its time.
	ApprovalLapsed
	// ApprovalWithdrawn: it was cancelled while it was pending.
	ApprovalWithdrawn
	// ApprovalOutdated: a rule that it was asked under was seen to be gone or changed.
	ApprovalOutdated
	// ApprovalTakenBack: it was revoked after it was approved.
	ApprovalTakenBack
	// ApprovalReopened: a yes counts no more, and humans are asked again.
	ApprovalReopened
	// ApprovalStanding: a standing grant was made, on the word of a vote.
	ApprovalStanding
	// ApprovalGrantUsed: a call used a standing grant.
	ApprovalGrantUsed
	// ApprovalBreakGlass: somebody broke the glass, before it counts.
	ApprovalBreakGlass
	// ApprovalBreakGlassUsed: a call went through by that.
	ApprovalBreakGlassUsed
	// ApprovalReviewed: somebody else looked at it afterwards.
	ApprovalReviewed
)

// String returns the kind as logs and metrics write it.
func (k ApprovalEventKind) String() string {
	names := [...]string{
		"", "opened", "vote", "approved", "consumed", "denied", "expired", "cancelled", "superseded", "revoked", "reopened", "standing", "grant_used",
		"breakglass", "breakglass_used", "breakglass_reviewed",
	}
	if int(k) >= len(names) {
		return ""
	}
	return names[k]
}

// ApprovalEventKinds are all there are but none, for a metric of each.
func ApprovalEventKinds() []ApprovalEventKind {
	return []ApprovalEventKind{
		ApprovalOpened, ApprovalVoted, ApprovalMet, ApprovalUsed, ApprovalRefused,
		ApprovalLapsed, ApprovalWithdrawn, ApprovalOutdated, ApprovalTakenBack, ApprovalReopened,
		ApprovalStanding, ApprovalGrantUsed, ApprovalBreakGlass, ApprovalBreakGlassUsed, ApprovalReviewed,
	}
}

// ApprovalEvent is what happened to an approval. A [Record] that has one is no
// decision.
type ApprovalEvent struct {
	Kind ApprovalEventKind
	// Actor is the human who did it, as [Person.String] writes him, and How how he
	// is known; "" if no human did.
	Actor, How string
	// Yes and VoteID are of a vote.
	Yes    bool
	VoteID string
	// Why is the human's reason in his words, or what the clock or the policy did.
	Why string
	// Failed says that a vote does not count; Cause is why.
	Failed bool
	Cause  string
}

// recorded keeps a record of an event.
func (d *Desk) recorded(ctx context.Context, a *store.Approval, now time.Time, e *ApprovalEvent) error {
	r := &Record{
		Time: now, DecisionID: a.DecisionID, Gateway: a.Gateway, Agent: a.Agent, Subject: a.Subject,
		Action: a.Action, Resource: a.Resource, Risk: a.Risk, PolicyVersion: a.PolicyVersion,
		ApprovalID: a.ID, ApprovalDigest: a.Digest, ApprovalVersion: a.Version, ApprovalExpires: deadlineOf(a), Event: e,
	}
	if a.Used != nil && (e.Kind == ApprovalUsed || e.Kind == ApprovalGrantUsed || e.Kind == ApprovalBreakGlassUsed) {
		r.Gateway, r.RequestID, r.DecisionID = a.Used.Gateway, a.Used.RequestID, a.Used.DecisionID
	}
	// What has been done is recorded also if whoever did it does not wait for it.
	if err := d.cfg.Recorder.Record(context.WithoutCancel(ctx), r); err != nil {
		return fmt.Errorf("approval %s, %s: %w: %w", a.ID, e.Kind, ErrUnrecorded, err)
	}
	return nil
}

// eventOf is what brought an approval into the state that it has now.
func eventOf(a *store.Approval) *ApprovalEvent {
	e := &ApprovalEvent{Why: a.Why}
	switch a.State {
	case store.Pending:
		e.Kind = ApprovalReopened
	case store.Approved:
		e.Kind = ApprovalMet
	case store.Consumed:
		e.Kind = ApprovalUsed
	case store.Denied:
		e.Kind = ApprovalRefused
	case store.Expired:
		e.Kind = ApprovalLapsed
	case store.Cancelled:
		e.Kind = ApprovalWithdrawn
	case store.Superseded:
		e.Kind = ApprovalOutdated
	case store.Revoked:
		e.Kind = ApprovalTakenBack
	}
	return e
}
