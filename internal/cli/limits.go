package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	adminv1 "github.com/kelpie-authz/kelpie/gen/kelpie/admin/v1"
)

func newLimits(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "limits",
		Short: "Show how an agent's limits stand, and reset them",
		Long: "Show how an agent's limits stand on a running server, and reset them. Both ask its admin listener,\n" +
			"with the token from its state directory.",
		Args: commandsOnly,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newLimitsShow(env), newLimitsReset(env))
	return cmd
}

// oneAgent takes the agent's id, the only argument.
func oneAgent(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("one agent's id is needed, and %d words were given; see `%s --help`", len(args), cmd.CommandPath())
	}
	return nil
}

func newLimitsShow(env *Env) *cobra.Command {
	var f adminFlags
	cmd := &cobra.Command{
		Use:   "show AGENT",
		Short: "Show how an agent's limits stand",
		Long: "Show the limits that an agent has used: what is left of each, of how many, and when it is full again or\n" +
			"its oldest part is. Limits that are full are left out, and so are those that count for several agents\n" +
			"together. It charges nothing.",
		Example: "  kelpie limits show lead-router",
		Args:    oneAgent,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := f.connect(env)
			if err != nil {
				return err
			}
			var resp *adminv1.ShowLimitsResponse
			err = a.ask(cmd.Context(), func(ctx context.Context) (err error) {
				resp, err = a.service.ShowLimits(ctx, &adminv1.ShowLimitsRequest{Agent: args[0]})
				return err
			})
			if err != nil {
				return err
			}
			p := env.printer()
			if f.asJSON {
				p.message(resp)
			} else {
				p.limits(args[0], resp)
			}
			return p.done()
		},
	}
	f.register(cmd.Flags())
	return cmd
}

// limits prints the limits as a table.
func (p *printer) limits(agent string, resp *adminv1.ShowLimitsResponse) {
	if len(resp.GetLimits()) == 0 {
		p.printf("Every limit of %s is full.\n", clean(agent))
	}
	rows := [][]cell{{{"LIMIT", dim}, {"FOR", dim}, {"LEFT", dim}, {"OF", dim}, {"RESET", dim}, {"NOTE", dim}}}
	for _, l := range resp.GetLimits() {
		style, note := plain, ""
		if l.GetRemaining() == 0 {
			style = red
		}
		if l.GetShadow() {
			style, note = plain, "in shadow"
		}
		var of []string
		for _, d := range l.GetDimensions() {
			of = append(of, d.GetName()+" "+d.GetValue())
		}
		rows = append(rows, []cell{
			{l.GetName(), plain},
			{strings.Join(of, ", "), plain},
			{strconv.FormatInt(l.GetRemaining(), 10), style},
			{strconv.FormatInt(l.GetLimit(), 10), plain},
			{"in " + rounded(l.GetReset_().AsDuration()).String(), plain},
			{note, dim},
		})
	}
	if len(rows) > 1 {
		p.table(rows)
	}
	if n := resp.GetMore(); n > 0 {
		p.printf("%d more cannot be listed.\n", n)
	}
}

// rounded is a wait as a person reads it, rounded up.
func rounded(d time.Duration) time.Duration {
	unit := time.Second
	if d < unit {
		unit = time.Millisecond
	}
	return (d + unit - 1).Truncate(unit)
}

func newLimitsReset(env *Env) *cobra.Command {
	var f adminFlags
	var limit, as string
	cmd := &cobra.Command{
		Use:   "reset AGENT",
		Short: "Make an agent's limits full again",
		Long: "Forget what was charged to an agent's limits, or to one of them: they are full again, and calls under\n" +
			"way hold no slot any more. Limits that count for several agents together stay as they are. It is recorded.",
		Example: "  kelpie limits reset lead-router --limit per-agent --as ann@example.com",
		Args:    oneAgent,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := f.connect(env)
			if err != nil {
				return err
			}
			var resp *adminv1.ResetLimitsResponse
			err = a.ask(cmd.Context(), func(ctx context.Context) (err error) {
				resp, err = a.service.ResetLimits(ctx, &adminv1.ResetLimitsRequest{Agent: args[0], Limit: limit, As: as})
				return err
			})
			if err != nil {
				return err
			}
			p := env.printer()
			switch n := resp.GetBuckets(); {
			case f.asJSON:
				p.message(resp)
			case n == 0:
				p.printf("There was nothing to reset: it was full.\n")
			case n == 1:
				p.printf("Reset 1 bucket of %s.\n", clean(args[0]))
			default:
				p.printf("Reset %d buckets of %s.\n", n, clean(args[0]))
			}
			return p.done()
		},
	}
	f.register(cmd.Flags())
	cmd.Flags().StringVar(&limit, "limit", "", "the limit's `name` in the policy; without it, every limit of the agent")
	cmd.Flags().StringVar(&as, "as", "", "the `name` of who does it, for the record")
	return cmd
}
