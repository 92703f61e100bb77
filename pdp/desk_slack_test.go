package pdp_test

import (
	"testing"

	"github.com/kelpie-authz/kelpie/pdp"
)

func overSlack(name string) pdp.Person { return pdp.Person{Name: name, How: pdp.KnownBySlack} }

// A word over Slack is its human's, and counts for no call of risk delete or admin,
// whichever card it came from.
func TestAVoteOverSlack(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1, func(c *pdp.DeskConfig) { c.Verified = func() bool { return true } })
	id := o.opened(t, payRent)
	o.refused(t, id, overSlack("mallory@example.com"), pdp.ErrNotEligible)
	o.refused(t, id, local("controller@example.com"), pdp.ErrNotEligible)
	if r := o.yes(t, id, overSlack("controller@example.com")); r.State != pdp.ApprovalApproved {
		t.Errorf("a yes over Slack: %v", r.State)
	}
	o.want(t, payRent, pdp.Allow, pdp.ReasonOKApproved)

	for _, call := range []*pdp.Request{removeNote, call("cleaner", "wipe", "disks/1")} {
		id = o.opened(t, call)
		o.refused(t, id, overSlack("lead@example.com"), pdp.ErrNotEligible)
		if _, err := o.desk.Deny(t.Context(), &pdp.Ballot{ApprovalID: id, Person: overSlack("lead@example.com"), Reason: "no"}); err == nil {
			t.Errorf("a no over Slack to %s", call.Action)
		}
		o.want(t, call, pdp.RequireApproval, pdp.ReasonApprovalPending)
	}
}

// Nor does it count where a card cannot have had all that there is to judge.
func TestAVoteOverSlackOnWhatIsHidden(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1, func(c *pdp.DeskConfig) { c.Verified = func() bool { return true } })
	id := o.opened(t, with(payRent, func(r *pdp.Request) { r.ParametersJSON = []byte(`{"token":"hunter2"}`) }))
	o.refused(t, id, overSlack("controller@example.com"), pdp.ErrNotEligible)
	o.yes(t, id, controller)
}

// A yes over Slack does not outlast that the call's risk was what Slack is good for.
func TestAVoteOverSlackWhenTheRiskRises(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1, func(c *pdp.DeskConfig) { c.Verified = func() bool { return true } })
	id := o.approved(t, payRent, overSlack("controller@example.com"))
	const pay = `pay: {actions: [pay], resources: ["bank/**"]`
	o.edit(t, pay, pay+", risk: delete")
	for range 2 {
		o.want(t, payRent, pdp.RequireApproval, pdp.ReasonApprovalPending)
		o.want(t, byID(payRent, id), pdp.RequireApproval, pdp.ReasonApprovalPending)
	}
	o.refused(t, id, overSlack("controller@example.com"), pdp.ErrNotEligible)
	o.yes(t, id, controller)
	o.want(t, payRent, pdp.Allow, pdp.ReasonOKApproved)
}

// One human who is known in two ways is one human.
func TestSlackAndOIDCAreOneHuman(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	board := with(payRent, func(r *pdp.Request) { r.Resource = "bank/board/1" })
	id := o.opened(t, board)
	o.yes(t, id, controller)
	o.yes(t, id, overSlack("ann@example.com"))
	if r := o.yes(t, id, oidc("ann@example.com")); r.State != pdp.ApprovalPending {
		t.Errorf("after ann twice: %v", r.State)
	}
	if r := o.yes(t, id, oidc("bob@example.com")); r.State != pdp.ApprovalApproved {
		t.Errorf("after bob: %v", r.State)
	}
}
