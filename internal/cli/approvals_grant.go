package cli

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	approvalv1 "github.com/kelpie-authz/kelpie/gen/kelpie/approval/v1"
)

// A standing grant and a broken glass are kept as approvals, but wait for nobody:
// what is said of them turns on whether they are in force.

// inForce tells whether calls need no yes because of a grant.
func inForce(a *approvalv1.Approval) bool {
	return a.GetState() == approvalv1.ApprovalState_APPROVAL_STATE_APPROVED
}

// inTheMaking tells whether a grant does not count yet.
func inTheMaking(a *approvalv1.Approval) bool {
	return a.GetState() == approvalv1.ApprovalState_APPROVAL_STATE_PENDING
}

// usesOf is how often a grant was used.
func usesOf(g *approvalv1.StandingGrant) string {
	if g.GetBreakGlass() != nil {
		return count(int(g.GetUses()), "time")
	}
	return fmt.Sprintf("%d of %s", g.GetUses(), count(int(g.GetMaxUses()), "time"))
}

// grantNeeds says in a few words what a grant is, where an approval has whom it needs.
func grantNeeds(a *approvalv1.Approval) string {
	g := a.GetGrant()
	name, is, was := "standing grant", "standing grant", "standing grant"
	if g.GetBreakGlass() != nil {
		name, is, was = "break-glass", "the glass is broken", "the glass was broken"
	}
	switch {
	case inForce(a):
		return "nobody: " + is + ", used " + usesOf(g)
	case inTheMaking(a):
		return name + ", not in force yet"
	default:
		return "ended: " + was + ", used " + usesOf(g)
	}
}

// grantTitle says in a sentence what a grant allows, or allowed.
func grantTitle(a *approvalv1.Approval) string {
	glass := a.GetGrant().GetBreakGlass() != nil
	switch {
	case inForce(a) && glass:
		return "The glass is broken: calls of the agent need no yes"
	case inForce(a):
		return "A standing grant: calls like the one that was approved need no yes"
	case inTheMaking(a) && glass:
		return "The glass is not broken yet: this lets no call through"
	case inTheMaking(a):
		return "A standing grant that is not in force yet: it lets no call through"
	case glass:
		return "The glass was broken, which has ended: this lets no call through any more"
	default:
		return "A standing grant that has ended: it lets no call through any more"
	}
}

// grantName names a grant in the midst of a line.
func grantName(a *approvalv1.Approval) string {
	agent, resource := word(cutAt(a.GetAgent(), 120)), word(cutAt(a.GetGrant().GetResource(), 240))
	if glass := a.GetGrant().GetBreakGlass(); glass != nil {
		return fmt.Sprintf("broken glass for %s, actions %s, resources %s, ticket %s",
			agent, cmp.Or(word(cutAt(glass.GetAction(), 120)), "any"), resource, word(cutAt(glass.GetTicket(), 120)))
	}
	return fmt.Sprintf("standing grant, used %s: %s %s %s", usesOf(a.GetGrant()), agent, word(a.GetAction()), resource)
}

// grantOutcome says how a grant stands after it was taken back.
func grantOutcome(a *approvalv1.Approval) string {
	glass := a.GetGrant().GetBreakGlass()
	if glass == nil {
		return "the grant has ended, used " + usesOf(a.GetGrant()) + "; it lets no call through any more"
	}
	text := fmt.Sprintf("the break-glass of %s has ended, used %s; it lets no call through any more", word(cutAt(a.GetAgent(), 120)), usesOf(a.GetGrant()))
	if glass.GetReviewedBy() == "" {
		text += ". Somebody else has to review it by " + stampOf(glass.GetReviewBy())
	}
	return text
}

// grant prints what a standing grant allows.
func (p *printer) grant(a *approvalv1.Approval) {
	g := a.GetGrant()
	if g == nil {
		return
	}
	p.printf("\n%s\n", p.paint(bold, grantTitle(a)))
	if glass := g.GetBreakGlass(); glass != nil {
		p.row("ticket", glass.GetTicket())
		p.row("reason", glass.GetReason())
		p.row("actions", cmp.Or(glass.GetAction(), "any"))
		p.row("used", usesOf(g))
		p.row("review by", stampOf(glass.GetReviewBy()))
		p.row("reviewed", strings.TrimSpace(glass.GetReviewedBy()+" "+glass.GetReview()))
		return
	}
	p.row("made from", g.GetFrom())
	p.row("used", usesOf(g))
	p.row("resource", g.GetResource())
	p.row("cost", "at most "+strconv.FormatFloat(max(g.GetMaxCost(), 1), 'g', -1, 64))
	p.bounds(g.GetBounds())
}
