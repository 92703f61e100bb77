package pdp

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kelpie-authz/kelpie/store"
)

// maxListed is how many approvals one answer holds.
const maxListed = 1000

// openStates are those that can still change.
func openStates() []store.State { return []store.State{store.Pending, store.Approved} }

// List implements [ApprovalDesk]. A page can hold fewer than asked for though
// more follow: what came to its end meanwhile is left out.
func (d *Desk) List(ctx context.Context, f ApprovalFilter) (list []ApprovalRecord, next string, err error) {
	states, err := f.states()
	if err != nil {
		return nil, "", err
	}
	if f.Limit < 0 || f.Limit > maxListed {
		return nil, "", &InvalidError{Field: "limit", Why: fmt.Sprintf("limit is out of range; write 1 to %d, or leave it out", maxListed)}
	}
	v, err := d.view()
	if err != nil {
		return nil, "", err
	}
	found, next, err := d.cfg.Store.List(ctx, store.Filter{States: states, Agent: f.Agent, Limit: f.Limit, After: f.After})
	if errors.Is(err, store.ErrNotFound) {
		return nil, "", &InvalidError{Field: "after", Why: "after is not where a page ended; write what next said, or leave it out"}
	}
	if err != nil {
		return nil, "", err
	}
	list = make([]ApprovalRecord, 0, len(found))
	for _, a := range found {
		a, err := d.bring(ctx, a, &v, true)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, "", err
		}
		if len(states) == 0 || slices.Contains(states, a.State) {
			list = append(list, *d.show(a, &v))
		}
	}
	return list, next, nil
}

func (f *ApprovalFilter) states() ([]store.State, error) {
	switch {
	case f.State != ApprovalUnspecified:
		for s := store.Pending; s <= store.Revoked; s++ {
			if approvalStateOf(s) == f.State {
				return []store.State{s}, nil
			}
		}
		return nil, &InvalidError{Field: "state", Why: "state is unknown; leave it out, or write one that an approval can have"}
	case f.All:
		return nil, nil
	default:
		return openStates(), nil
	}
}

// approvalStateOf is the state as approvers see it.
func approvalStateOf(s store.State) ApprovalState {
	switch s {
	case store.Pending:
		return ApprovalPending
	case store.Approved:
		return ApprovalApproved
	case store.Consumed:
		return ApprovalConsumed
	case store.Denied:
		return ApprovalDenied
	case store.Expired:
		return ApprovalExpired
	case store.Cancelled:
		return ApprovalCancelled
	case store.Superseded:
		return ApprovalSuperseded
	case store.Revoked:
		return ApprovalRevoked
	default:
		return ApprovalUnspecified
	}
}

// Get implements [ApprovalDesk].
func (d *Desk) Get(ctx context.Context, id string) (*ApprovalRecord, error) {
	if !isApprovalID(id) {
		return nil, (&Ballot{ApprovalID: id}).check()
	}
	v, err := d.view()
	if err != nil {
		return nil, err
	}
	a, err := d.load(ctx, id, &v)
	if err != nil {
		return nil, unknown(err)
	}
	r := d.show(a, &v)
	d.showWhole(r, a)
	if d.cfg.Recent != nil {
		r.Recent = d.cfg.Recent(a.Agent)
	}
	return r, nil
}

// show is an approval as approvers see it.
func (d *Desk) show(a *store.Approval, v *view) *ApprovalRecord {
	r := &ApprovalRecord{
		ID: a.ID, Digest: a.Digest, State: approvalStateOf(a.State), Version: a.Version,
		Agent: a.Agent, Owner: v.snap.Owner(a.Agent), Subject: a.Subject, Action: a.Action, Resource: a.Resource,
		Risk: a.Risk, Gateway: a.Gateway, DecisionID: a.DecisionID, PolicyVersion: a.PolicyVersion,
		OpenedAt: a.OpenedAt, ExpiresAt: deadlineOf(a), EndedAt: a.EndedAt, EndedBy: a.EndedBy, Why: a.Why,
	}
	if a.Used != nil {
		r.UsedBy = a.Used.DecisionID
	}
	if g := a.Grant; g != nil {
		r.Grant = &GrantState{From: g.From, Resource: g.Resource, MaxCost: g.MaxCost, MaxUses: g.MaxUses, Uses: g.Uses}
		if glass := g.BreakGlass; glass != nil {
			r.Grant.BreakGlass = &BreakGlassState{
				Action: glass.Action, Reason: glass.Reason, Ticket: glass.Ticket,
				ReviewedBy: glass.ReviewedBy, Review: glass.Review, ReviewedAt: glass.ReviewedAt, ReviewBy: a.OpenedAt.Add(a.UseWithin + reviewWithin),
			}
		}
		for _, b := range g.Bounds {
			r.Grant.Bounds = append(r.Grant.Bounds, GrantBound(b))
		}
	}
	if what, err := readShown(a); err != nil {
		r.Details = append(r.Details, ApprovalDetail{Name: "unreadable", Value: "what was asked cannot be read; cancel it"})
		r.Partial = true
	} else {
		r.details(what.brief())
	}
	for i := range a.Votes {
		vote := &a.Votes[i]
		r.Votes = append(r.Votes, ApprovalVote{
			Voter: Person{Name: vote.Voter, How: vote.How}.String(), Yes: vote.Yes, Rule: vote.Rule, Reason: vote.Reason, At: vote.At,
		})
	}
	e := v.electorate(a)
	for i := range a.Requirements {
		r.Requirements = append(r.Requirements, e.state(&a.Requirements[i], a.Votes))
	}
	return r
}

// showWhole shows all that there is to judge.
func (*Desk) showWhole(r *ApprovalRecord, a *store.Approval) {
	if what, err := readShown(a); err == nil {
		r.details(&what)
	}
}

func (r *ApprovalRecord) details(what *shown) {
	// A grant has no parameters of its own: there is nothing that is not shown of them.
	r.Partial, r.Masked, r.Details = !what.Whole && r.Grant == nil, what.Masked, nil
	for _, detail := range what.Details {
		r.Details = append(r.Details, ApprovalDetail(detail))
	}
}

// state is how far one requirement is met, and who may meet it.
func (e *electorate) state(asked *store.Requirement, votes []store.Vote) ApprovalRequirementState {
	out := ApprovalRequirementState{Rule: asked.Rule, Groups: asked.Groups, Quorum: asked.Quorum}
	for i := range votes {
		if votes[i].Yes && votes[i].Rule == asked.Rule {
			out.Yes++
		}
	}
	for i := range e.needs {
		if e.needs[i].Rule != asked.Rule {
			continue
		}
		for _, name := range e.needs[i].Approvers {
			if _, barred := e.barred[humanKey(name)]; !barred {
				out.Approvers = append(out.Approvers, name)
			}
		}
	}
	return out
}

// lookAgain is how often whoever watches looks for what he was not told of.
const lookAgain = 5 * time.Second

// Watch implements [ApprovalDesk]. The newest version of an approval is told
// always, those before it where there is time. It returns nil once f says no.
func (d *Desk) Watch(ctx context.Context, f func(*ApprovalRecord) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes, err := d.cfg.Store.Watch(ctx)
	if err != nil {
		return err
	}
	w := &watcher{desk: d, told: map[string]told{}, tell: f}
	if err := w.begin(ctx); err != nil {
		return err
	}
	look, stop := d.lookAgain()
	defer func() { _ = stop() }()
	for {
		var more bool
		select {
		case <-ctx.Done():
			return ctx.Err()
		case id, open := <-changes:
			if !open {
				if err := ctx.Err(); err != nil {
					return err
				}
				return store.ErrUnavailable
			}
			more, err = w.look(ctx, id)
		case <-look:
			more, err = w.lookAtAll(ctx)
			look, stop = d.lookAgain()
		}
		if err != nil || !more {
			return err
		}
	}
}

// lookAgain fires when it is time to look again; never if nobody is to.
func (d *Desk) lookAgain() (fires <-chan time.Time, stop func() bool) {
	if d.cfg.Timer == nil {
		return nil, func() bool { return true }
	}
	return d.cfg.Timer(lookAgain)
}

// watcher remembers what was told of each open approval, and for a while of
// those that have ended.
type watcher struct {
	desk *Desk
	told map[string]told
	tell func(*ApprovalRecord) bool
}

type told struct {
	version int64
	final   bool
}

// begin notes what is there: only changes are told.
func (w *watcher) begin(ctx context.Context) error {
	open, err := w.open(ctx)
	for _, a := range open {
		w.told[a.ID] = told{version: a.Version}
	}
	return err
}

// open is the newest of the open approvals, so that looking again stays cheap
// however many there are.
func (w *watcher) open(ctx context.Context) ([]*store.Approval, error) {
	open, _, err := w.desk.cfg.Store.List(ctx, store.Filter{States: openStates(), Limit: maxListed})
	return open, err
}

func (w *watcher) look(ctx context.Context, id string) (bool, error) {
	v, err := w.desk.view()
	if err != nil {
		return false, err
	}
	a, err := w.desk.load(ctx, id, &v)
	if errors.Is(err, store.ErrNotFound) {
		delete(w.told, id)
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if before, ok := w.told[id]; ok && before.version >= a.Version {
		return true, nil
	}
	w.told[id] = told{a.Version, a.State.Final()}
	return w.tell(w.desk.show(a, &v)), nil
}

// lookAtAll looks at what is open, and at what was and is not any more.
func (w *watcher) lookAtAll(ctx context.Context) (bool, error) {
	open, err := w.open(ctx)
	if err != nil {
		return false, err
	}
	ids := make([]string, 0, len(open))
	known := make(map[string]bool, len(open))
	for _, a := range open {
		ids = append(ids, a.ID)
		known[a.ID] = true
	}
	for id, before := range w.told {
		switch {
		case known[id]:
		case before.final:
			delete(w.told, id)
		default:
			ids = append(ids, id)
		}
	}
	for _, id := range ids {
		if more, err := w.look(ctx, id); err != nil || !more {
			return more, err
		}
	}
	return true, nil
}
