package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	approvalv1 "github.com/kelpie-authz/kelpie/gen/kelpie/approval/v1"
)

func newApprovals(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "approvals",
		Short: "List, show and decide the calls that wait for a human",
		Long: "List, show and decide the calls that wait for a human's yes on a running server. The commands ask its\n" +
			"admin listener, as you (--token-file, or --tls-cert), or with the token from its state directory.\n\n" +
			"Exit code: 0 done, 1 not: nothing was decided, or it is not known.",
		Args: commandsOnly,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		newApprovalsList(env), newApprovalsShow(env), newApprovalsApprove(env),
		newApprovalsDeny(env), newApprovalsCancel(env), newApprovalsWatch(env),
	)
	return cmd
}

// desk asks the approvals of a running server.
type desk struct {
	*admin

	approvals approvalv1.ApprovalServiceClient
}

// atDesk connects, does what is to be done there, and closes the connection.
func (f *adminFlags) atDesk(env *Env, do func(*desk) error) error {
	a, err := f.connect(env)
	if err != nil {
		return err
	}
	err = do(&desk{admin: a, approvals: approvalv1.NewApprovalServiceClient(a.conn)})
	if closeErr := a.conn.Close(); err == nil && closeErr != nil {
		return fmt.Errorf("close the connection to %s: %w", a.addr, closeErr)
	}
	return err
}

// authorized gives calls the token.
func (d *desk) authorized(ctx context.Context) context.Context {
	return d.show(ctx)
}

// call makes one call with the token and a deadline.
func (d *desk) call(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(d.authorized(ctx), d.flags.timeout)
	defer cancel()
	if err := do(ctx); err != nil {
		return d.advise(err)
	}
	return nil
}

// get reads one approval.
func (d *desk) get(ctx context.Context, id string) (resp *approvalv1.GetResponse, err error) {
	err = d.call(ctx, func(ctx context.Context) (err error) {
		resp, err = d.approvals.Get(ctx, &approvalv1.GetRequest{Id: id})
		return err
	})
	return resp, err
}

// maxPage is how many approvals the server gives at once.
const maxPage = 1000

// list reads page after page, until there are as many as in.Limit says, or all
// if it is 0. The answer's next is where more follow.
func (d *desk) list(ctx context.Context, in *approvalv1.ListRequest) (*approvalv1.ListResponse, error) {
	most := int(in.GetLimit())
	all := &approvalv1.ListResponse{}
	for {
		in.Limit = maxPage
		if most > 0 {
			in.Limit = uint32(min(most-len(all.GetApprovals()), maxPage)) //nolint:gosec // At most maxPage, and more than 0.
		}
		var page *approvalv1.ListResponse
		err := d.call(ctx, func(ctx context.Context) (err error) {
			page, err = d.approvals.List(ctx, in)
			return err
		})
		if err != nil {
			return nil, err
		}
		all.Approvals = append(all.Approvals, page.GetApprovals()...)
		all.Next = page.GetNext()
		if all.GetNext() == "" || most > 0 && len(all.GetApprovals()) >= most {
			return all, nil
		}
		in.After = all.GetNext()
	}
}

// oneApproval takes the approval's id, the only argument.
func oneApproval(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("one approval's id is needed, and %d words were given; see `kelpie approvals list` and `%s --help`", len(args), cmd.CommandPath())
	}
	return nil
}

// completing is how long a shell waits for the ids of approvals.
const completing = 2 * time.Second

// completeID offers the ids of what can be decided now. What does not work
// offers nothing: a shell has no place for an error.
func (f *adminFlags) completeID(env *Env) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) (ids []cobra.Completion, _ cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		f.timeout = min(f.timeout, completing)
		_ = f.atDesk(env, func(d *desk) error {
			found, err := d.list(cmd.Context(), &approvalv1.ListRequest{Limit: 100})
			for _, a := range found.GetApprovals() {
				if strings.HasPrefix(a.GetId(), begun) {
					about := a.GetAgent() + " " + a.GetAction() + " " + a.GetResource()
					ids = append(ids, cobra.CompletionWithDesc(visible(a.GetId()), visible(cutAt(about, 60))))
				}
			}
			return err
		})
		return ids, cobra.ShellCompDirectiveNoFileComp
	}
}

func newApprovalsList(env *Env) *cobra.Command {
	var f adminFlags
	in := &approvalv1.ListRequest{}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List what waits for a human, or for the call that it allows",
		Long: "List the approvals that wait for a human, and those that wait for the call that they allow, the newest\n" +
			"first. With --all those that have ended are listed too.",
		Example: "  kelpie approvals list --agent data-cleaner",
		Args:    flagsOnly,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.atDesk(env, func(d *desk) error {
				most := in.GetLimit()
				found, err := d.list(cmd.Context(), in)
				if err != nil {
					return err
				}
				p := env.printer()
				if f.asJSON {
					p.listJSON(found)
				} else {
					p.approvals(found, in.GetAll(), most, env.Now())
				}
				return p.done()
			})
		},
	}
	set := cmd.Flags()
	f.registerHuman(set)
	set.BoolVar(&in.All, "all", false, "list those that have ended as well")
	set.StringVar(&in.Agent, "agent", "", "list those of this `agent` alone")
	set.Uint32Var(&in.Limit, "limit", 100, "list at most so `many`; 0: all")
	return cmd
}

func newApprovalsShow(env *Env) *cobra.Command {
	var f adminFlags
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show everything that a person needs to judge one call",
		Long: "Show everything that a person needs to judge one call: its risk, who wants to make it and for whom, the\n" +
			"parameters, the rules, who may decide it, what was said so far, and what the agent did in the last hour.\n" +
			"What the agent says is apart from the rest: nobody checked it. Characters that are not seen, or that\n" +
			"turn the order of others, are written as \\u202e.",
		Example:           "  kelpie approvals show apr_00112233445566778899aabbccddeeff",
		Args:              oneApproval,
		ValidArgsFunction: f.completeID(env),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.atDesk(env, func(d *desk) error {
				resp, err := d.get(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				p := env.printer()
				if f.asJSON {
					p.approvalJSON(resp)
				} else {
					p.approval(resp.GetApproval(), env.Now())
				}
				return p.done()
			})
		},
	}
	f.registerHuman(cmd.Flags())
	return cmd
}

func newApprovalsWatch(env *Env) *cobra.Command {
	var f adminFlags
	in := &approvalv1.WatchRequest{}
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Show each approval that changes, until interrupted",
		Long: "Show each approval that is asked for, decided or used from now on, one a line, until interrupted. With\n" +
			"--json each change is one line.",
		Example: "  kelpie approvals watch --agent data-cleaner",
		Args:    flagsOnly,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.atDesk(env, func(d *desk) error { return d.watch(cmd.Context(), env, in, f.asJSON) })
		},
	}
	f.registerHuman(cmd.Flags())
	cmd.Flags().Lookup("timeout").Usage = "bounds nothing here: a watch lasts until it is interrupted"
	cmd.Flags().StringVar(&in.Agent, "agent", "", "show those of this `agent` alone")
	return cmd
}

// watch prints changes until ctx ends.
func (d *desk) watch(ctx context.Context, env *Env, in *approvalv1.WatchRequest, asJSON bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := d.approvals.Watch(d.authorized(ctx), in)
	if err != nil {
		return d.advise(err)
	}
	p := env.printer()
	for {
		change, err := stream.Recv()
		switch {
		case err != nil && ctx.Err() != nil && status.Code(err) == codes.Canceled:
			return p.done()
		case err != nil:
			return errors.Join(d.advise(err), p.done())
		case asJSON:
			p.approvalLine(change)
		default:
			p.change(change.GetApproval(), env.Now())
		}
		if p.err != nil {
			return p.done()
		}
	}
}
