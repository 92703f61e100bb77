package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/kelpie-authz/kelpie/notify"
	"github.com/kelpie-authz/kelpie/notify/slack"
	"github.com/kelpie-authz/kelpie/pdp"
)

// slackChannel makes the channel that posts cards; nil if there is none.
func (a *App) slackChannel() (*slack.Channel, error) {
	s := &a.cfg.Slack
	if s.Channel == "" {
		return nil, nil
	}
	cfg := slack.Config{Channel: s.Channel, Token: slack.TokenFile(s.TokenFile), APIURL: s.APIURL, Look: a.slackCard}
	if s.Addr != "" {
		cfg.Value = a.cardValue
	}
	c, err := slack.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("slack: %w", err)
	}
	return c, nil
}

// slackCard is an approval as Slack's people see it.
func (a *App) slackCard(ctx context.Context, id string) (*slack.Card, error) {
	r, err := a.approvals.desk.Get(ctx, id)
	if errors.Is(err, pdp.ErrNoSuchApproval) {
		return nil, slack.ErrNoApproval
	}
	if err != nil {
		return nil, err
	}
	return cardOf(r), nil
}

// cardOf is what of an approval is shown, with whatever an agent can have written
// made visible.
func cardOf(r *pdp.ApprovalRecord) *slack.Card {
	c := &slack.Card{
		ID: r.ID, Digest: r.Digest, Pending: r.State == pdp.ApprovalPending, State: r.State.String(),
		Buttons: !r.Partial && !r.Masked && (r.Risk == "read" || r.Risk == "write"),
		Risk:    r.Risk, Action: judged(r.Action), Agent: judged(r.Agent), Owner: judged(r.Owner),
		Subject: judged(r.Subject), Resource: judged(r.Resource), Why: judged(r.Why), ExpiresAt: r.ExpiresAt,
	}
	if r.EndedBy != "" {
		c.State += " by " + judged(r.EndedBy)
	}
	for i := range r.Requirements {
		need := &r.Requirements[i]
		who := "any approver"
		if len(need.Groups) > 0 {
			who = strings.Join(need.Groups, ", ")
		}
		c.Needs = append(c.Needs, fmt.Sprintf("%s: %d of %d said yes, of %s", need.Rule, need.Yes, need.Quorum, pdp.Visible(who)))
	}
	for _, d := range r.Details {
		fact := slack.Fact{Name: pdp.Visible(d.Name), Value: judged(d.Value)}
		if d.Unverified {
			c.Said = append(c.Said, fact)
		} else {
			c.Known = append(c.Known, fact)
		}
	}
	if r.Recent != "" {
		c.Known = append(c.Known, slack.Fact{Name: "last hour", Value: pdp.Visible(r.Recent)})
	}
	return c
}

// judged is a text for a person to judge: nothing in it is hidden, and one that
// mixes alphabets that look alike says so.
func judged(text string) string {
	shown := pdp.Visible(text)
	if mixed := pdp.Alphabets(text); mixed != "" {
		return "(mixes " + mixed + " letters) " + shown
	}
	return shown
}

// editShared has the cards of this server edited when another replica decided what
// they ask for, until ctx ends.
func (a *App) editShared(ctx context.Context) {
	if a.notices.slack == nil || a.approvals.shared == nil {
		return
	}
	for ctx.Err() == nil {
		err := a.approvals.desk.Watch(ctx, func(r *pdp.ApprovalRecord) bool {
			a.editCard(ctx, r)
			return true
		})
		if ctx.Err() != nil {
			return
		}
		a.log.WarnContext(ctx, "approvals that other replicas decide cannot be watched; cards of Slack are edited later", slog.Any("error", err))
		fires, stop := newTimer(sweepEvery)
		select {
		case <-ctx.Done():
		case <-fires:
		}
		stop()
	}
}

// noticeOfState is what brought an approval into a state.
//
//nolint:gochecknoglobals // A constant table; Go has no constant maps.
var noticeOfState = map[pdp.ApprovalState]notify.Type{
	pdp.ApprovalApproved: notify.Approved, pdp.ApprovalConsumed: notify.Consumed, pdp.ApprovalDenied: notify.Denied,
	pdp.ApprovalExpired: notify.Expired, pdp.ApprovalCancelled: notify.Cancelled, pdp.ApprovalSuperseded: notify.Superseded,
	pdp.ApprovalRevoked: notify.Revoked,
}

func (a *App) editCard(ctx context.Context, r *pdp.ApprovalRecord) {
	kind := noticeOfState[r.State]
	if kind == "" {
		return
	}
	known, err := a.notices.outbox.Known(ctx, r.ID)
	if err != nil || !known {
		return // No card of it is this server's.
	}
	// Where this server did it itself, the event has the same name and is there already.
	_ = a.notices.dispatcher.Enqueue(ctx, newNotice(kind, r.Version, a.deps.Now(), notify.About{
		ID: r.ID, Digest: r.Digest, Agent: r.Agent, Subject: r.Subject,
		Action: r.Action, Resource: r.Resource, Risk: r.Risk, ExpiresAt: r.ExpiresAt,
	}), slack.Name) // It is logged and counted.
}
