package pdp

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/kelpie-authz/kelpie/policy"
	"github.com/kelpie-authz/kelpie/store"
)

const (
	maxPersonBytes = 1024
	maxReasonBytes = 2048
	maxVoteIDBytes = 256
)

// Approve implements [ApprovalDesk]. The same yes sent again counts once.
func (d *Desk) Approve(ctx context.Context, b *Ballot) (*ApprovalRecord, error) {
	return d.vote(ctx, b, true)
}

// Deny implements [ApprovalDesk]. One no ends the approval, also of somebody who
// said yes before.
func (d *Desk) Deny(ctx context.Context, b *Ballot) (*ApprovalRecord, error) {
	if b.Reason == "" {
		return nil, &InvalidError{Field: "reason", Why: "reason is missing; say why, for whoever asked"}
	}
	return d.vote(ctx, b, false)
}

func (b *Ballot) check() *InvalidError {
	if !isApprovalID(b.ApprovalID) {
		return &InvalidError{Field: "id", Why: "id is not an approval's; write apr_ and 32 hexadecimal digits, as list shows it"}
	}
	if b.Person.Name == "" {
		return &InvalidError{Field: "person", Why: "person is missing; say who decides"}
	}
	for _, f := range [...]struct {
		name, text string
		most       int
	}{{"person", b.Person.Name, maxPersonBytes}, {"reason", b.Reason, maxReasonBytes}, {"vote_id", b.VoteID, maxVoteIDBytes}} {
		if err := policy.CheckText(f.name, f.text, f.most); err != nil {
			return invalid(f.name, err)
		}
	}
	return nil
}

// cast makes the vote of a ballot. Its id is made of what it says, unless the
// ballot has one.
func (b *Ballot) cast(yes bool) store.Vote {
	v := store.Vote{ID: b.VoteID, Voter: b.Person.Name, How: b.Person.How, Yes: yes, Reason: b.Reason}
	if v.ID == "" {
		sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %t", b.ApprovalID, voterKey(v.How, v.Voter), yes))
		v.ID = hex.EncodeToString(sum[:16])
	}
	return v
}

// ballotBox carries one word into an approval.
type ballotBox struct {
	desk   *Desk
	ballot *Ballot
	vote   store.Vote
	// told says that the word was recorded, so that what became of it has to be.
	told bool
	last *store.Approval
	view view
}

func (d *Desk) vote(ctx context.Context, b *Ballot, yes bool) (*ApprovalRecord, error) {
	if bad := b.check(); bad != nil {
		return nil, bad
	}
	grant, err := d.wanted(ctx, b, yes)
	if err != nil {
		return nil, err
	}
	box := &ballotBox{desk: d, ballot: b, vote: b.cast(yes)}
	a, err := box.put(ctx)
	if err != nil {
		return nil, errors.Join(err, box.uncounted(ctx, err))
	}
	r := d.show(a, &box.view)
	switch {
	case grant == nil:
		return r, nil
	case !box.told || a.State != store.Approved:
		// The same yes again makes no second grant.
		return nil, fmt.Errorf("%w: it is %s already, and no standing grant was made now; if one was made with that yes, list shows it", ErrApprovalDecided, a.State)
	}
	at := slices.IndexFunc(a.Votes, func(v store.Vote) bool { return v.Yes && v.ID == box.vote.ID && v.Voter == box.vote.Voter })
	if at < 0 {
		return nil, fmt.Errorf("the yes counts, and the standing grant was not made: %w", errBusy)
	}
	made, err := d.stand(ctx, grant, a.Votes[at], b.Person, &box.view)
	if err != nil {
		return nil, fmt.Errorf("the yes counts, and the standing grant was not made: %w", err)
	}
	b.Standing.Made = made.ID
	return r, nil
}

// wanted is the standing grant that goes with a yes; nil: none.
func (d *Desk) wanted(ctx context.Context, b *Ballot, yes bool) (*store.Approval, error) {
	if b.Standing == nil || !yes {
		return nil, nil //nolint:nilnil // There is none.
	}
	v, err := d.view()
	if err != nil {
		return nil, err
	}
	a, err := d.load(ctx, b.ApprovalID, &v)
	if err != nil {
		return nil, unknown(err)
	}
	g, err := v.grantOf(a, b.Standing)
	if err != nil {
		return nil, err
	}
	return g, v.longGrant(a, g, b.Person)
}

func (x *ballotBox) put(ctx context.Context) (*store.Approval, error) {
	d := x.desk
	for range swapTries {
		var err error
		if x.view, err = d.view(); err != nil {
			return nil, err
		}
		a, err := d.load(ctx, x.ballot.ApprovalID, &x.view)
		if err != nil {
			return nil, unknown(err)
		}
		x.last = a
		next, err := x.counted(a)
		if err != nil || next == nil {
			return a, err
		}
		if err := x.tell(ctx, next); err != nil {
			return nil, err
		}
		err = d.cfg.Store.Swap(ctx, next)
		switch {
		case err == nil && next.State == store.Pending:
			return next, nil
		case err == nil:
			e := eventOf(next)
			e.Actor, e.How = x.ballot.Person.String(), x.ballot.Person.How
			return next, d.happened(ctx, next, x.view.now, e)
		case !again(err):
			return nil, unknown(err)
		}
	}
	return nil, errBusy
}

// unknown names the error of an approval that is not there.
func unknown(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return ErrNoSuchApproval
	}
	return err
}

// tell records the word before it counts: no yes is used that was not recorded.
func (x *ballotBox) tell(ctx context.Context, a *store.Approval) error {
	if x.told {
		return nil
	}
	if err := x.desk.recorded(ctx, a, x.view.now, x.event()); err != nil {
		return err
	}
	x.told = true
	return nil
}

func (x *ballotBox) event() *ApprovalEvent {
	p := x.ballot.Person
	return &ApprovalEvent{
		Kind: ApprovalVoted, Actor: p.String(), How: p.How, Yes: x.vote.Yes, VoteID: x.vote.ID, Why: x.vote.Reason,
	}
}

// uncounted records a word that was refused, or that did not come to count after
// it was recorded.
func (x *ballotBox) uncounted(ctx context.Context, why error) error {
	refused := errors.Is(why, ErrNotEligible) || errors.Is(why, ErrApprovalDecided)
	if x.last == nil || errors.Is(why, ErrUnrecorded) || !x.told && !refused {
		return nil
	}
	e := x.event()
	e.Failed, e.Cause = true, why.Error()
	return x.desk.recorded(ctx, x.last, x.view.now, e)
}

// counted is the approval with the word; nil if the word is in it already.
func (x *ballotBox) counted(a *store.Approval) (*store.Approval, error) {
	if a.Grant != nil {
		return nil, fmt.Errorf("%w: it is no call that waits", ErrApprovalDecided)
	}
	said, err := x.said(a)
	if err != nil || said {
		return nil, err
	}
	switch {
	case a.State == store.Approved && !x.vote.Yes:
		return nil, fmt.Errorf("%w: it is approved; cancel takes that back", ErrApprovalDecided)
	case a.State != store.Pending:
		return nil, fmt.Errorf("%w: it is %s", ErrApprovalDecided, a.State)
	}
	e := x.view.electorate(a)
	if why := e.refusal(x.ballot.Person); why != "" {
		return nil, fmt.Errorf("%w: %s", ErrNotEligible, why)
	}
	vote := x.vote
	vote.At, vote.Groups = x.view.now, e.counting(x.ballot.Person.Groups)
	if !vote.Yes {
		next := x.view.ended(a, store.Denied, x.ballot.Person.String(), vote.Reason)
		next.Votes = append(next.Votes, vote)
		return next, nil
	}
	next := a.Clone()
	votes, met := e.count(append(next.Votes, vote))
	if len(votes) == 0 || votes[len(votes)-1].ID != vote.ID || votes[len(votes)-1].Voter != vote.Voter {
		return nil, fmt.Errorf("%w: every rule that %s may decide has its yes already; somebody of another group has to say it", ErrNotEligible, vote.Voter)
	}
	next.Votes = votes
	if met {
		next.State, next.UseBy, next.Why = store.Approved, x.view.now.Add(a.UseWithin), ""
	}
	return next, nil
}

// said tells whether the approval has the word already, and still goes by it.
func (x *ballotBox) said(a *store.Approval) (bool, error) {
	key := voterKey(x.vote.How, x.vote.Voter)
	for i := range a.Votes {
		v := &a.Votes[i]
		if voterKey(v.How, v.Voter) != key {
			continue // Also if it has the same id: nobody takes another's word by it.
		}
		if v.Yes != x.vote.Yes {
			if v.ID == x.vote.ID {
				return false, &InvalidError{Field: "vote_id", Why: "vote_id names your other word on this approval; give each word its own, or none"}
			}
			continue
		}
		if v.Yes && v.How == LocalAdmin && humanKey(v.Voter) != humanKey(x.vote.Voter) {
			return false, fmt.Errorf("%w: all who hold the admin token are one human, who said yes as %s", ErrNotEligible, v.Voter)
		}
		switch a.State {
		case store.Pending, store.Approved, store.Consumed:
			return v.Yes, nil
		case store.Denied:
			return !v.Yes, nil
		case store.Expired, store.Cancelled, store.Superseded, store.Revoked:
		}
	}
	return false, nil
}

// Cancel implements [ApprovalDesk]. Whoever may decide it may, and the subject,
// who takes back what is done for him. A reason is welcome.
func (d *Desk) Cancel(ctx context.Context, b *Ballot) (*ApprovalRecord, error) {
	if bad := b.check(); bad != nil {
		return nil, bad
	}
	for range swapTries {
		v, err := d.view()
		if err != nil {
			return nil, err
		}
		a, err := d.load(ctx, b.ApprovalID, &v)
		if err != nil {
			return nil, unknown(err)
		}
		if a.State.Final() && a.EndedBy == b.Person.String() && (a.State == store.Cancelled || a.State == store.Revoked) {
			return d.show(a, &v), d.cancelGrants(ctx, a, b)
		}
		if err := v.cancelRefusal(a, b.Person); err != nil {
			e := &ApprovalEvent{Kind: ApprovalWithdrawn, Actor: b.Person.String(), How: b.Person.How, Why: b.Reason, Failed: true, Cause: err.Error()}
			return nil, errors.Join(err, d.recorded(ctx, a, v.now, e))
		}
		next, err := d.takeBack(ctx, a, b, &v)
		if err == nil {
			return d.show(next, &v), d.cancelGrants(ctx, next, b)
		}
		if !again(err) {
			return nil, unknown(err)
		}
	}
	return nil, errBusy
}

// takeBack ends an open approval by the word of a human.
func (d *Desk) takeBack(ctx context.Context, a *store.Approval, b *Ballot, v *view) (*store.Approval, error) {
	to := store.Cancelled
	if a.State == store.Approved {
		to = store.Revoked
	}
	next := v.ended(a, to, b.Person.String(), b.Reason)
	e := eventOf(next)
	e.Actor, e.How = b.Person.String(), b.Person.How
	return next, d.swap(ctx, next, v.now, e)
}

// cancelGrants takes back the standing grants that were made with the yes that is
// taken back. Whoever cancels again has those ended that were left.
func (d *Desk) cancelGrants(ctx context.Context, a *store.Approval, b *Ballot) error {
	if a.Grant != nil {
		return nil
	}
	found, err := d.grantsOf(ctx, a)
	for _, g := range found {
		for range swapTries {
			v, viewErr := d.view()
			if viewErr != nil {
				return viewErr
			}
			now, loadErr := d.load(ctx, g.ID, &v)
			if loadErr != nil || now.State.Final() {
				err = errors.Join(err, loadErr)
				break
			}
			if _, swapErr := d.takeBack(ctx, now, b, &v); !again(swapErr) {
				err = errors.Join(err, swapErr)
				break
			}
		}
	}
	if err != nil {
		return fmt.Errorf("it is taken back, and a standing grant that was made with it may not be; cancel it again: %w", err)
	}
	return nil
}

// grantsOf are the standing grants in force that were made with a yes.
func (d *Desk) grantsOf(ctx context.Context, a *store.Approval) (grants []*store.Approval, err error) {
	for after := ""; ; {
		found, next, err := d.cfg.Store.List(ctx, store.Filter{States: []store.State{store.Approved}, Agent: a.Agent, Limit: maxListed, After: after})
		for _, g := range found {
			if g.Grant != nil && g.Grant.From == a.ID {
				grants = append(grants, g)
			}
		}
		if err != nil || next == "" {
			return grants, err
		}
		after = next
	}
}

// cancelRefusal says why somebody may not cancel; nil if he may.
func (v *view) cancelRefusal(a *store.Approval, p Person) error {
	known := p.How == KnownByMTLS || p.How == KnownByOIDC
	why := ""
	switch {
	case known && a.Subject != "" && p.Name == a.Subject:
	case a.Grant != nil && a.Grant.BreakGlass != nil:
		why = v.breaker(p)
	default:
		e := v.electorate(a)
		e.unreadable = false // Taking it back needs no judgment.
		why = e.refusal(p)
	}
	switch {
	case why != "":
		return fmt.Errorf("%w: %s", ErrNotEligible, why)
	case a.State.Final():
		return fmt.Errorf("%w: it is %s", ErrApprovalDecided, a.State)
	}
	return nil
}
