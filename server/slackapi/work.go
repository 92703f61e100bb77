package slackapi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"

	"github.com/kelpie-authz/kelpie/pdp"
)

// deniedBy is the reason of a no: a button has none, and nobody's is made up.
const deniedBy = "denied by a button in Slack, which asks for no reason"

// work counts one word, and tells whoever said it what became of it.
func (h *Handler) work(ctx context.Context, c *click) {
	// A word that was taken is counted also while the server ends.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), workWithin)
	defer cancel()
	outcome, text := h.count(ctx, c)
	h.cfg.Count(outcome)
	if err := h.cfg.Tell(ctx, c.user, text); err != nil {
		h.cfg.Log.WarnContext(ctx, "a user of Slack could not be told what became of an answer", slog.String("user", c.user), slog.Any("error", err))
	}
}

// count hands the word to the desk.
func (h *Handler) count(ctx context.Context, c *click) (outcome, text string) {
	name, known := h.cfg.Users[c.user]
	if !known || name == "" {
		h.cfg.Log.WarnContext(ctx, "an answer in Slack of a user that the configuration does not know", slog.String("user", c.user))
		return Unknown, "Kelpie does not know who you are. Whoever runs it can add your Slack user id, " + c.user + ", to its configuration."
	}
	id, ours := h.cfg.Approval(c.value)
	if !ours {
		h.cfg.Log.WarnContext(ctx, "an answer in Slack on a card that is not ours", slog.String("user", c.user))
		return Unknown, "This card is out of date, or not Kelpie's. Nothing was counted."
	}
	b := &pdp.Ballot{ApprovalID: id, Person: pdp.Person{Name: name, How: pdp.KnownBySlack}, VoteID: c.voteID(id)}
	say := h.cfg.Desk.Approve
	if !c.yes {
		b.Reason, say = deniedBy, h.cfg.Desk.Deny
	}
	r, err := say(ctx, b)
	if err != nil {
		return Refused, h.refusal(ctx, id, err)
	}
	switch {
	case !c.yes:
		return Counted, "Your no is counted: " + id + " is denied."
	case r.State == pdp.ApprovalPending:
		return Counted, "Your yes is counted. " + id + " needs others too."
	default:
		return Counted, "Your yes is counted: the call goes through once if it comes again."
	}
}

// refusal says why the desk did not take a word.
func (h *Handler) refusal(ctx context.Context, id string, err error) string {
	switch {
	case errors.Is(err, pdp.ErrApprovalDecided):
		return "Nothing was counted: " + id + " is already decided."
	case errors.Is(err, pdp.ErrNoSuchApproval):
		return "Nothing was counted: there is no " + id + " any more."
	case errors.Is(err, pdp.ErrNotEligible):
		return "Nothing was counted: " + err.Error() + "."
	}
	h.cfg.Log.ErrorContext(ctx, "an answer in Slack could not be counted", slog.String("approval_id", id), slog.Any("error", err))
	return "Nothing is known to be counted, because of a failure: look with kelpie approvals show " + id + ", and press again."
}

// voteID names the word by the press, so that the same press told to two servers
// counts once.
func (c *click) voteID(approval string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q %t", c.trigger, c.at, c.user, approval, c.yes))
	return "slack_" + hex.EncodeToString(sum[:16])
}
