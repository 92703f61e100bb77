package pdp

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kelpie-authz/kelpie/policy"
	"github.com/kelpie-authz/kelpie/store"
)

const (
	// BreakGlassGroup is the approver group whose members may break the glass. A
	// policy without it has no break-glass.
	BreakGlassGroup = policy.BreakGlassGroup

	breakGlassTime    = 15 * time.Minute
	maxBreakGlassTime = time.Hour
	// reviewWithin is how soon somebody else has to look at it afterwards.
	reviewWithin = 24 * time.Hour
)

// BreakGlassOrder is what somebody wants in an emergency: that an agent's calls wait
// for nobody's yes for a while.
type BreakGlassOrder struct {
	Person Person
	// Agent is whose calls; needed.
	Agent string
	// Action and Resource are patterns of the policy language; "": any.
	Action, Resource string
	// Within is for how long; 0: 15 minutes, at most an hour.
	Within time.Duration
	// Reason and Ticket are needed.
	Reason, Ticket string
}

// BreakGlassState is how an emergency stands, for approvers.
type BreakGlassState struct {
	Action, Reason, Ticket string
	ReviewedBy, Review     string
	ReviewedAt             time.Time
	// ReviewBy is when it has to be reviewed.
	ReviewBy time.Time
}

func (o *BreakGlassOrder) check() *InvalidError {
	for _, f := range []struct {
		name, text string
		most       int
	}{{"agent", o.Agent, maxPersonBytes}, {"reason", o.Reason, maxReasonBytes}, {"ticket", o.Ticket, maxVoteIDBytes}} {
		if f.text == "" {
			return &InvalidError{Field: f.name, Why: f.name + " is missing; write it"}
		}
		if err := policy.CheckText(f.name, f.text, f.most); err != nil {
			return invalid(f.name, err)
		}
	}
	if o.Within < 0 || o.Within > maxBreakGlassTime {
		return &InvalidError{Field: "within", Why: "within is out of range; write at most 1h, or leave it out for 15m"}
	}
	if _, err := policy.MatchAction(o.Action, "x"); o.Action != "" && err != nil {
		return &InvalidError{Field: "action", Why: "action is no pattern: " + err.Error()}
	}
	if _, err := policy.MatchResource(o.Resource, "x"); o.Resource != "" && err != nil {
		return &InvalidError{Field: "resource", Why: "resource is no pattern: " + err.Error()}
	}
	return nil
}

// breaker says why somebody may not break the glass, or look at it afterwards; "" if
// he may. Who has the admin token alone may not.
func (v *view) breaker(p Person) string {
	switch {
	case p.How != KnownByMTLS && p.How != KnownByOIDC:
		return "the glass is for who is known by a certificate or an identity provider; the admin token does not say who has it"
	case !v.snap.InGroup(BreakGlassGroup, p.Name, p.Groups):
		return p.Name + " is not in the approver group " + BreakGlassGroup
	}
	return ""
}

// BreakGlass implements [ApprovalDesk].
func (d *Desk) BreakGlass(ctx context.Context, o *BreakGlassOrder) (*ApprovalRecord, error) {
	if bad := o.check(); bad != nil {
		return nil, bad
	}
	v, err := d.view()
	if err != nil {
		return nil, err
	}
	if !v.snap.HasAgent(o.Agent) {
		return nil, &InvalidError{Field: "agent", Why: "agent is not one that the policy has: " + visible(o.Agent) + "; write its id as the calls do"}
	}
	why := v.breaker(o.Person)
	switch {
	case why != "":
	case humanKey(o.Agent) == humanKey(o.Person.Name):
		why = o.Person.Name + " is the agent itself"
	default:
		if why, err = d.notAgain(ctx, o); err != nil {
			return nil, err
		}
	}
	within, resource := o.Within, o.Resource
	if within == 0 {
		within = breakGlassTime
	}
	if resource == "" {
		resource = "**"
	}
	a := &store.Approval{
		ID: d.cfg.NewID(), State: store.Pending, Agent: o.Agent, Action: o.Action, Resource: resource, PolicyVersion: v.snap.Version(),
		OpenedAt: v.now, ExpiresAt: v.now.Add(within), UseWithin: within,
		Grant: &store.Grant{Resource: resource, BreakGlass: &store.BreakGlass{Action: o.Action, Reason: o.Reason, Ticket: o.Ticket}},
	}
	a.Digest = grantDigest + a.ID
	e := &ApprovalEvent{
		Kind: ApprovalBreakGlass, Actor: o.Person.String(), How: o.Person.How,
		Why: fmt.Sprintf("%s (ticket %s; for %v)", o.Reason, o.Ticket, within),
	}
	if why != "" {
		e.Failed, e.Cause = true, why
		return nil, errors.Join(fmt.Errorf("%w: %s", ErrNotEligible, why), d.recorded(ctx, a, v.now, e))
	}
	kept, opened, err := d.cfg.Store.Open(ctx, a, store.OpenLimits{Now: v.now})
	if err != nil {
		return nil, err
	}
	if !opened {
		return nil, errBusy // The id is taken, which cannot be.
	}
	// It is recorded before it counts, as every vote is.
	if err := d.recorded(ctx, kept, v.now, e); err != nil {
		return nil, err
	}
	kept.State, kept.UseBy = store.Approved, kept.ExpiresAt
	kept.Votes = []store.Vote{{
		ID: kept.ID, Voter: o.Person.Name, How: o.Person.How, Groups: breakGlassGroups(&v, o.Person), Yes: true, Reason: o.Reason, At: v.now,
	}}
	if err := d.cfg.Store.Swap(ctx, kept); err != nil {
		return nil, err
	}
	return d.show(kept, &v), nil
}

// notAgain says why somebody may not break the glass for an agent once more: nobody
// has reviewed when he did so before. So it is not kept broken by one person.
func (d *Desk) notAgain(ctx context.Context, o *BreakGlassOrder) (string, error) {
	for after := ""; ; {
		found, next, err := d.cfg.Store.List(ctx, store.Filter{Agent: o.Agent, Limit: maxListed, After: after})
		if err != nil {
			return "", err
		}
		for _, a := range found {
			if a.Grant == nil || a.Grant.BreakGlass == nil || a.Grant.BreakGlass.ReviewedBy != "" || len(a.Votes) != 1 {
				continue
			}
			if humanKey(a.Votes[0].Voter) == humanKey(o.Person.Name) {
				return fmt.Sprintf("%s broke the glass for this agent before (%s), and nobody has reviewed that; have another member review it, or break it", o.Person.Name, a.ID), nil
			}
		}
		if next == "" {
			return "", nil
		}
		after = next
	}
}

// denied tells whether humans said no to exactly this call, as long as that is kept:
// for an emergency it does not end after a while.
func (d *Desk) denied(ctx context.Context, ask *ApprovalAsk) (bool, error) {
	for after := ""; ; {
		found, next, err := d.cfg.Store.List(ctx, store.Filter{States: []store.State{store.Denied}, Agent: ask.Agent, Limit: maxListed, After: after})
		if err != nil {
			return false, err
		}
		if slices.ContainsFunc(found, func(a *store.Approval) bool { return a.Digest == ask.Digest }) {
			return true, nil
		}
		if next == "" {
			return false, nil
		}
		after = next
	}
}

// breakGlassGroups are the groups of somebody that let him break the glass.
func breakGlassGroups(v *view, p Person) (out []string) {
	for _, group := range p.Groups {
		if v.snap.InGroup(BreakGlassGroup, "", []string{group}) {
			out = append(out, group)
		}
	}
	return out
}

// broken tells whether the glass is broken for a call: in time, for its agent,
// action and resource, by somebody who still may and is no party to it.
func (v *view) broken(a *store.Approval, ask *ApprovalAsk) bool {
	if a.State != store.Approved || a.Unsure || a.Agent != ask.Agent || !v.now.Before(a.UseBy) || len(a.Votes) != 1 || ask.Request == nil {
		return false
	}
	by := Person{Name: a.Votes[0].Voter, How: a.Votes[0].How, Groups: a.Votes[0].Groups}
	if v.breaker(by) != "" {
		return false
	}
	parties := []string{ask.Agent, ask.Subject}
	if ask.Binding != nil {
		parties = append(parties, ask.Binding.ActorChain...)
	}
	for _, party := range parties {
		if party != "" && humanKey(party) == humanKey(by.Name) {
			return false
		}
	}
	if fits, err := policy.MatchResource(a.Grant.Resource, ask.Request.Resource); err != nil || !fits {
		return false
	}
	if a.Grant.BreakGlass.Action == "" {
		return true
	}
	fits, err := policy.MatchAction(a.Grant.BreakGlass.Action, ask.Request.Action)
	return err == nil && fits
}

// ReviewBreakGlass implements [ApprovalDesk].
func (d *Desk) ReviewBreakGlass(ctx context.Context, b *Ballot) (*ApprovalRecord, error) {
	if b.Reason == "" {
		return nil, &InvalidError{Field: "reason", Why: "reason is missing; say what was found"}
	}
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
		if why := v.reviewer(a, b.Person); why != nil {
			return nil, why
		}
		// It is recorded before it counts.
		e := &ApprovalEvent{Kind: ApprovalReviewed, Actor: b.Person.String(), How: b.Person.How, Why: b.Reason}
		if err := d.recorded(ctx, a, v.now, e); err != nil {
			return nil, err
		}
		next := a.Clone()
		glass := next.Grant.BreakGlass
		glass.ReviewedBy, glass.Review, glass.ReviewedAt = b.Person.Name, b.Reason, v.now
		err = d.cfg.Store.Swap(ctx, next)
		if err == nil {
			return d.show(next, &v), nil
		}
		if !again(err) {
			return nil, unknown(err)
		}
	}
	return nil, errBusy
}

// reviewer says why somebody may not review an emergency now; nil if he may.
func (v *view) reviewer(a *store.Approval, p Person) error {
	switch {
	case a.Grant == nil || a.Grant.BreakGlass == nil:
		return &InvalidError{Field: "id", Why: "id is not that of a break-glass; see kelpie breakglass list"}
	case !a.State.Final():
		return &InvalidError{Field: "id", Why: "id is that of an emergency that is not over; review it afterwards, or cancel it first"}
	case a.Grant.BreakGlass.ReviewedBy != "":
		return fmt.Errorf("%w: %s reviewed it", ErrApprovalDecided, a.Grant.BreakGlass.ReviewedBy)
	}
	why := v.breaker(p)
	for i := range a.Votes {
		if humanKey(a.Votes[i].Voter) == humanKey(p.Name) {
			why = p.Name + " broke the glass, and somebody else has to look at it"
		}
	}
	if why != "" {
		return fmt.Errorf("%w: %s", ErrNotEligible, why)
	}
	return nil
}
