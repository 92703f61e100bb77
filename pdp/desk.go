package pdp

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kelpie-authz/kelpie/policy"
	"github.com/kelpie-authz/kelpie/store"
)

// What one agent may ask of humans, and for how long a no holds for a call that
// names no approval.
const (
	maxPendingApprovals = 10
	maxHourlyApprovals  = 30
	hourlySpan          = time.Hour
	deniedFor           = 30 * time.Minute
)

// retryWindow is for how long a gateway that may retry is answered again.
const retryWindow = 30 * time.Second

// grantMaking is how long making a standing grant may take.
const grantMaking = time.Minute

// swapTries bounds how often a change that others came before is tried again.
const swapTries = 64

// DeskConfig is what a [Desk] is made of. Store, Policy and Recorder are needed.
type DeskConfig struct {
	// Store keeps the approvals.
	Store store.Approvals
	// Policy says who may decide. It is the one that decides calls.
	Policy PolicySource
	// Recorder keeps a record of everything that happens to an approval. A yes
	// that cannot be recorded does not count.
	Recorder Recorder
	// Now is the only clock that approvals lapse by. Nil: time.Now.
	Now func() time.Time
	// NewID names a new approval: apr_ and 32 hexadecimal digits that nobody can
	// guess. Nil: 128 random bits.
	NewID func() string
	// Verified tells whether approvers are known by a certificate or by an identity
	// provider. The local admin decides nothing then, and what he said before
	// counts no more. Nil: they are not.
	Verified func() bool
	// MayRetry tells whether a gateway that asks again with the same request_id
	// within 30 seconds is answered the same. It is for gateways that make the
	// request_id themselves, never for one that passes on what an agent wrote. Nil:
	// none may.
	MayRetry func(gateway string) bool
	// Recent says what an agent did in the last hour, for approvers; see
	// [Activity.Recent]. Nil: nothing is told.
	Recent func(agent string) string
	// Timer lets those who watch look by themselves for what they were not told,
	// every five seconds. Nil: they see only what the store tells, and what lapsed
	// once somebody looks.
	Timer Timer
	// Keep is for how long what has ended is kept for approvers to look at. Zero: 30 days.
	Keep time.Duration
}

// Timer starts a timer, as time.NewTimer does: fires receives once after d,
// unless stop comes before.
type Timer func(d time.Duration) (fires <-chan time.Time, stop func() bool)

// Desk is where calls that need a human's yes and the humans meet: it is the
// [Approvals] of a [Service] and the [ApprovalDesk] of the admin listener. It
// keeps nothing that counts but in its store, so that several over one store are one desk.
// It is safe for concurrent use.
type Desk struct {
	cfg DeskConfig
	// tally is what the last Sweep saw.
	tally atomic.Pointer[ApprovalTally]
	owed  owed
}

var (
	_ Approvals    = (*Desk)(nil)
	_ ApprovalDesk = (*Desk)(nil)
)

// NewDesk makes a Desk, or says which part of the configuration is missing.
func NewDesk(cfg DeskConfig) (*Desk, error) {
	switch {
	case cfg.Store == nil:
		return nil, errors.New("pdp: DeskConfig.Store is missing; set the driver that keeps approvals")
	case cfg.Policy == nil:
		return nil, errors.New("pdp: DeskConfig.Policy is missing; set where the snapshot comes from")
	case cfg.Recorder == nil:
		return nil, errors.New("pdp: DeskConfig.Recorder is missing; no vote may go unrecorded")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.NewID == nil {
		cfg.NewID = newApprovalID
	}
	if cfg.Keep <= 0 {
		cfg.Keep = 30 * 24 * time.Hour
	}
	d := &Desk{cfg: cfg}
	d.tally.Store(&ApprovalTally{})
	return d, nil
}

const approvalIDPrefix = "apr_"

// newApprovalID is unguessable: whoever has the id of a call's approval can
// name it.
func newApprovalID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // It never fails, and ends the process if it must.
	return approvalIDPrefix + hex.EncodeToString(b[:])
}

// isApprovalID tells whether a text can be an id at all, so that the store is
// not asked for what an agent made up.
func isApprovalID(id string) bool {
	digits, ok := strings.CutPrefix(id, approvalIDPrefix)
	if !ok || len(digits) != 32 {
		return false
	}
	return strings.Trim(digits, "0123456789abcdef") == ""
}

// view is what one look at an approval goes by.
type view struct {
	now      time.Time
	snap     *policy.Snapshot
	verified bool
}

func (d *Desk) view() (view, error) {
	v := view{now: d.cfg.Now(), snap: d.cfg.Policy.Snapshot()}
	if v.snap == nil {
		return v, ErrNoPolicy
	}
	v.verified = d.cfg.Verified != nil && d.cfg.Verified()
	return v, nil
}

// errBusy says that others change an approval all the time.
var errBusy = errors.New("the approval is changed by others all the time; try again")

// load reads an approval and brings it to where it stands; [store.ErrNotFound]
// if there is none.
func (d *Desk) load(ctx context.Context, id string, v *view) (*store.Approval, error) {
	a, err := d.cfg.Store.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	return d.bring(ctx, a, v, true)
}

// bring brings an approval to where it stands: what nobody decided in time has
// expired, and what was asked under another policy is superseded, whether or not
// somebody wrote it down. With write it is written down and recorded.
func (d *Desk) bring(ctx context.Context, a *store.Approval, v *view, write bool) (*store.Approval, error) {
	for range swapTries {
		next := v.due(a)
		if next == nil {
			return a, nil
		}
		if !write {
			a = next
			continue
		}
		err := d.swap(ctx, next, v.now, eventOf(next))
		switch {
		case err == nil:
			a = next
		case again(err):
			if a, err = d.cfg.Store.Get(ctx, a.ID); err != nil {
				return nil, err
			}
		default:
			return nil, err
		}
	}
	return nil, errBusy
}

// again tells whether a swap did nothing because the approval is not what it
// was when it was read.
func again(err error) bool {
	return errors.Is(err, store.ErrChanged) || errors.Is(err, store.ErrUnsure)
}

// swap stores an approval and records what happened to it.
func (d *Desk) swap(ctx context.Context, a *store.Approval, now time.Time, e *ApprovalEvent) error {
	if err := d.cfg.Store.Swap(ctx, a); err != nil {
		return err
	}
	return d.happened(ctx, a, now, e)
}

// due is what has become of an approval by itself; nil: nothing.
func (v *view) due(a *store.Approval) *store.Approval {
	switch deadline := deadlineOf(a); {
	case a.State.Final():
		return nil
	case a.State == store.Approved && a.Unsure:
		// It has to be asked again before anything else can be done to it.
		return v.reopened(a, nil, "the store may have lost that it was used")
	case a.Grant != nil && a.State == store.Pending && !v.now.Before(a.OpenedAt.Add(grantMaking)):
		// It was not made to the end, or may have lost uses: nobody votes on it again.
		return v.ended(a, store.Cancelled, "", "it is not known how often it was used, or whether it was wanted; make another one")
	case !v.now.Before(deadline):
		return v.ended(a, store.Expired, "", fmt.Sprintf("its time was over at %s", deadline.UTC().Format(time.RFC3339)))
	default:
		if why := v.outdated(a); why != "" {
			return v.ended(a, store.Superseded, "", why)
		}
		return nil
	}
}

// deadlineOf is the first moment at which an open approval is one no more.
func deadlineOf(a *store.Approval) time.Time {
	if a.State == store.Pending || a.UseBy.IsZero() {
		return a.ExpiresAt
	}
	return a.UseBy
}

// outdated says which rule of the approval is not the policy's any more; "": all are.
func (v *view) outdated(a *store.Approval) string {
	for i := range a.Requirements {
		asked := &a.Requirements[i]
		switch inForce, ok := v.snap.Requirement(asked.Rule); {
		case !ok:
			return fmt.Sprintf("the policy has no %s any more", asked.Rule)
		case inForce.Version != asked.Version:
			return fmt.Sprintf("%s was changed, or who its approvers are", asked.Rule)
		}
	}
	return ""
}

func (v *view) ended(a *store.Approval, to store.State, by, why string) *store.Approval {
	next := a.Clone()
	next.State, next.EndedAt, next.EndedBy, next.Why = to, v.now, by, why
	next.Shown = shortened(a.Shown)
	return next
}

// reopened asks the humans again, with what was said so far or none of it. One
// whose time is over gets no more of it.
func (v *view) reopened(a *store.Approval, votes []store.Vote, why string) *store.Approval {
	next := a.Clone()
	next.State, next.Votes, next.Unsure = store.Pending, votes, false
	next.ExpiresAt, next.UseBy = a.UseBy, time.Time{}
	if v.now.Before(a.UseBy) {
		next.ExpiresAt = v.now.Add(v.pendingTime(a))
	}
	next.Why = why
	return next
}

// pendingTime is for how long the rules let an approval be pending.
func (v *view) pendingTime(a *store.Approval) time.Duration {
	least := time.Duration(0)
	for i := range a.Requirements {
		if r, ok := v.snap.Requirement(a.Requirements[i].Rule); ok && (least == 0 || r.Expires < least) {
			least = r.Expires
		}
	}
	return least
}
