package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	approvalv1 "github.com/kelpie-authz/kelpie/gen/kelpie/approval/v1"
)

func newBreakGlass(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "breakglass",
		Short: "Let an agent's calls go on without a yes, in an emergency",
		Long: "Let an agent's calls go on without a human's yes for a while, in an emergency. It overrides no denial. The\n" +
			"members of the approver group breakglass may, known by --token-file or --tls-cert, and another one of them\n" +
			"reviews it within 24 hours.\n\n" +
			"Exit code: 0 done, 1 not.",
		Args: commandsOnly,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newBreakGlassOpen(env), newBreakGlassList(env), newBreakGlassReview(env))
	return cmd
}

func newBreakGlassOpen(env *Env) *cobra.Command {
	var f adminFlags
	var in approvalv1.BreakGlassRequest
	var within time.Duration
	cmd := &cobra.Command{
		Use:     "open",
		Short:   "Break the glass for one agent",
		Example: "  kelpie breakglass open --agent data-cleaner --reason 'the queue is full' --ticket INC-7 --for 30m --token-file ~/.kelpie/token",
		Args:    flagsOnly,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for flag, text := range map[string]string{"agent": in.GetAgent(), "reason": in.GetReason(), "ticket": in.GetTicket()} {
				if strings.TrimSpace(text) == "" {
					return fmt.Errorf("an emergency needs --agent, --reason and --ticket; --%s is missing", flag)
				}
			}
			if within != 0 {
				in.Within = durationpb.New(within)
			}
			return f.atDesk(env, func(d *desk) error {
				var got *approvalv1.BreakGlassResponse
				err := d.call(cmd.Context(), func(ctx context.Context) (err error) {
					got, err = d.approvals.BreakGlass(ctx, &in)
					return err
				})
				if err != nil {
					return err
				}
				p := env.printer()
				if f.asJSON {
					p.approvalJSON(got)
				} else {
					a := got.GetApproval()
					p.printf("%s: calls of %s (actions %s, resources %s) wait for nobody until %s; `kelpie approvals cancel %s` ends it. Somebody else has to review it by %s.\n",
						p.paint(red, visible(a.GetId())), word(a.GetAgent()), cmp.Or(word(a.GetGrant().GetBreakGlass().GetAction()), "any"), word(a.GetGrant().GetResource()), stampOf(a.GetExpiresAt()), visible(a.GetId()), stampOf(a.GetGrant().GetBreakGlass().GetReviewBy()))
				}
				return p.done()
			})
		},
	}
	set := cmd.Flags()
	f.registerKnown(set)
	set.StringVar(&in.Agent, "agent", "", "the agent's `id`")
	set.StringVar(&in.Action, "action", "", "`pattern` of the actions; any unless said")
	set.StringVar(&in.Resource, "resource", "", "`pattern` of the resources; any unless said")
	set.StringVar(&in.Reason, "reason", "", "`why`, for the record; needed")
	set.StringVar(&in.Ticket, "ticket", "", "the `ticket` about it; needed")
	set.DurationVar(&within, "for", 0, "for how long; 15m unless said, at most 1h")
	return cmd
}

func newBreakGlassList(env *Env) *cobra.Command {
	var f adminFlags
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List emergencies that last or are not reviewed",
		Example: "  kelpie breakglass list",
		Args:    flagsOnly,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.atDesk(env, func(d *desk) error {
				found, err := d.list(cmd.Context(), &approvalv1.ListRequest{All: true})
				if err != nil {
					return err
				}
				out := &approvalv1.ListResponse{}
				for _, a := range found.GetApprovals() {
					if glass := a.GetGrant().GetBreakGlass(); glass != nil && (open(a.GetState()) || glass.GetReviewedBy() == "") {
						out.Approvals = append(out.Approvals, a)
					}
				}
				p := env.printer()
				if f.asJSON {
					p.listJSON(out)
				} else {
					p.emergencies(out.GetApprovals(), env.Now())
				}
				return p.done()
			})
		},
	}
	f.registerHuman(cmd.Flags())
	return cmd
}

// emergencies prints a list as a table.
func (p *printer) emergencies(list []*approvalv1.Approval, now time.Time) {
	if len(list) == 0 {
		p.printf("No glass is broken, and nothing waits for a review.\n")
		return
	}
	rows := [][]cell{{{"ID", dim}, {"STATE", dim}, {"AGENT", dim}, {"USES", dim}, {"TICKET", dim}, {"REVIEW", dim}, {"WHY", dim}}}
	for _, a := range list {
		glass := a.GetGrant().GetBreakGlass()
		state, review, style := "over", "due "+left(glass.GetReviewBy(), now), yellow
		if open(a.GetState()) {
			state, review, style = "ends "+left(a.GetExpiresAt(), now), "afterwards", red
		} else if !now.Before(glass.GetReviewBy().AsTime()) {
			review, style = "overdue", red
		}
		rows = append(rows, []cell{
			{visible(a.GetId()), plain},
			{state, style},
			{word(cutAt(a.GetAgent(), 32)), plain},
			{fmt.Sprint(a.GetGrant().GetUses()), plain},
			{word(cutAt(glass.GetTicket(), 24)), plain},
			{review, style},
			{word(cutAt(glass.GetReason(), 60)), plain},
		})
	}
	p.table(rows)
}

func newBreakGlassReview(env *Env) *cobra.Command {
	var f adminFlags
	var reason string
	cmd := &cobra.Command{
		Use:     "review ID",
		Short:   "Say what was found, afterwards",
		Example: "  kelpie breakglass review apr_00112233445566778899aabbccddeeff --reason 'all four deletes were right' --token-file ~/.kelpie/token",
		Args:    oneApproval,
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.TrimSpace(reason) == "" {
				return errors.New("a review says what was found; give --reason")
			}
			return f.atDesk(env, func(d *desk) error {
				var got *approvalv1.ReviewBreakGlassResponse
				err := d.call(cmd.Context(), func(ctx context.Context) (err error) {
					got, err = d.approvals.ReviewBreakGlass(ctx, &approvalv1.ReviewBreakGlassRequest{Id: args[0], Reason: reason})
					return err
				})
				if err != nil {
					return err
				}
				p := env.printer()
				if f.asJSON {
					p.approvalJSON(got)
				} else {
					p.printf("Reviewed by %s.\n", word(got.GetApproval().GetGrant().GetBreakGlass().GetReviewedBy()))
				}
				return p.done()
			})
		},
	}
	f.registerKnown(cmd.Flags())
	cmd.Flags().StringVar(&reason, "reason", "", "`what` was found; needed")
	return cmd
}
