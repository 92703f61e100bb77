package cli

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	approvalv1 "github.com/kelpie-authz/kelpie/gen/kelpie/approval/v1"
)

// voteFlags are those of the commands that decide.
type voteFlags struct {
	adminFlags

	as, reason string
	yes        bool
	standing   standingFlags
}

// vote is one of the commands that decide.
type vote struct {
	cmd *cobra.Command
	// ask is the question that a terminal gets.
	ask string
	// send says the word.
	send func(ctx context.Context, d *desk, id string, f *voteFlags) (answer, error)
	// stands says that it may make a standing grant.
	stands bool
	// needsReason says that there is none without --reason.
	needsReason bool
	reasonUsage string
}

// answer is what the decisions answer.
type answer interface {
	proto.Message
	GetApproval() *approvalv1.Approval
}

const confirmation = "\n\nOn a terminal it shows what is decided and asks for confirmation; --yes, which a script needs, takes it\n" +
	"as given. With the admin token alone --as says who decides: it is recorded as not verified, and all who\n" +
	"have the token are one human.\n\n" +
	"Exit code: 0 done, 1 not: nothing was decided, or it is not known."

func newApprovalsApprove(env *Env) *cobra.Command {
	return newVote(env, &vote{
		cmd: &cobra.Command{
			Use:   "approve ID",
			Short: "Say yes to one call",
			Long: "Say yes to one call. Once every rule has the humans that it needs, the call goes through when it comes\n" +
				"again, once. --standing lets calls like it through in future as well, never of risk delete or admin, nor\n" +
				"where several have to say yes." + confirmation,
			Example: "  kelpie approvals approve apr_00112233445566778899aabbccddeeff --as security-oncall@example.com\n" +
				"  kelpie approvals approve apr_00112233445566778899aabbccddeeff --as controller@example.com \\\n" +
				"    --standing 10 --for 1h --bound 'amount<=100'",
		},
		ask:         "Approve this call?",
		stands:      true,
		reasonUsage: "`why`, for the record",
		send: func(ctx context.Context, d *desk, id string, f *voteFlags) (answer, error) {
			terms, err := f.standing.terms()
			if err != nil {
				return nil, err
			}
			return d.approvals.Approve(ctx, &approvalv1.ApproveRequest{Id: id, As: f.as, Reason: f.reason, Standing: terms})
		},
	})
}

func newApprovalsDeny(env *Env) *cobra.Command {
	return newVote(env, &vote{
		cmd: &cobra.Command{
			Use:   "deny ID",
			Short: "Say no to one call, which decides it",
			Long:  "Say no to one call, and why. One no decides it, whatever others said." + confirmation,
			Example: "  kelpie approvals deny apr_00112233445566778899aabbccddeeff --as security-oncall@example.com \\\n" +
				"    --reason 'the lead is not a duplicate'",
		},
		ask:         "Deny this call?",
		needsReason: true,
		reasonUsage: "`why`, for whoever asked and for the record; needed",
		send: func(ctx context.Context, d *desk, id string, f *voteFlags) (answer, error) {
			return d.approvals.Deny(ctx, &approvalv1.DenyRequest{Id: id, As: f.as, Reason: f.reason})
		},
	})
}

func newApprovalsCancel(env *Env) *cobra.Command {
	return newVote(env, &vote{
		cmd: &cobra.Command{
			Use:   "cancel ID",
			Short: "Take back what waits, or a yes that is not used yet",
			Long: "Take an approval back: nobody has to decide it any more, and if it has its yes, the call does not go\n" +
				"through. It ends a standing grant and a break-glass as well." + confirmation,
			Example: "  kelpie approvals cancel apr_00112233445566778899aabbccddeeff --as security-oncall@example.com",
		},
		ask:         "Take this approval back?",
		reasonUsage: "`why`, for the record",
		send: func(ctx context.Context, d *desk, id string, f *voteFlags) (answer, error) {
			return d.approvals.Cancel(ctx, &approvalv1.CancelRequest{Id: id, As: f.as, Reason: f.reason})
		},
	})
}

func newVote(env *Env, v *vote) *cobra.Command {
	var f voteFlags
	cmd := v.cmd
	cmd.Args, cmd.ValidArgsFunction = oneApproval, f.completeID(env)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if v.needsReason && strings.TrimSpace(f.reason) == "" {
			return errors.New("a no needs a reason, for whoever asked; give --reason")
		}
		if !f.yes && !personAt(env.Stdin) {
			return errors.New("there is no terminal to ask for confirmation, so nothing was decided; look at `kelpie approvals show`, then give --yes")
		}
		return f.atDesk(env, func(d *desk) error { return v.decide(cmd.Context(), env, d, &f, args[0]) })
	}
	set := cmd.Flags()
	f.registerHuman(set)
	set.StringVar(&f.as, "as", "", "the `name` of who decides, as the policy's approvers have it; with the admin token alone")
	set.StringVar(&f.reason, "reason", "", v.reasonUsage)
	if v.stands {
		f.standing.register(set)
	}
	set.BoolVar(&f.yes, "yes", false, "do not ask for confirmation")
	return cmd
}

// decide shows what is decided, asks for confirmation, says the word, and tells
// what came of it.
func (v *vote) decide(ctx context.Context, env *Env, d *desk, f *voteFlags, id string) error {
	terms, err := f.standing.terms()
	if err != nil {
		return err
	}
	found, err := d.get(ctx, id)
	if err != nil {
		return err
	}
	p := env.printer()
	a := found.GetApproval()
	if !f.yes {
		// Standard output is for what came of it.
		screen := &printer{w: env.Stderr, color: isTerminal(env.Stderr) && p.color}
		screen.approval(a, env.Now())
		screen.standing(terms, a)
		screen.printf("\n%s [y/N] ", v.ask)
		if err := errors.Join(screen.done(), p.done()); err != nil {
			return err
		}
		if err := confirmed(ctx, env.Stdin); err != nil {
			screen.printf("\n")
			return err
		}
	}
	var said answer
	err = d.call(ctx, func(ctx context.Context) (err error) {
		said, err = v.send(ctx, d, id, f)
		return err
	})
	if err != nil {
		return errors.Join(err, p.done())
	}
	if f.asJSON {
		p.approvalJSON(said)
	} else {
		if f.yes {
			// Not before: standard output is for what was done.
			p.summary(a)
		}
		p.outcome(said.GetApproval(), env.Now())
		if made, ok := said.(*approvalv1.ApproveResponse); ok && made.GetStanding() != "" {
			p.printf("STANDING: good for %s like it without asking; `kelpie approvals cancel %s` takes that back.\n", count(int(terms.GetUses()), "more call"), made.GetStanding())
		}
	}
	return p.done()
}

// personAt tells whether a person can be asked there. /dev/null is a device like
// a terminal, and what cron jobs and service managers give.
func personAt(in io.Reader) bool {
	f, ok := in.(*os.File)
	if !ok || !isTerminal(f) {
		return false
	}
	it, err1 := f.Stat()
	null, err2 := os.Stat(os.DevNull)
	return err1 == nil && err2 == nil && !os.SameFile(it, null)
}

// confirmed reads a yes. It ends with ctx: an interrupt must not wait for a line.
func confirmed(ctx context.Context, in io.Reader) error {
	type read struct {
		line string
		err  error
	}
	lines := make(chan read, 1)
	go func() {
		line, err := bufio.NewReader(in).ReadString('\n')
		lines <- read{line, err}
	}()
	select {
	case <-ctx.Done():
		return errors.New("interrupted: nothing was decided")
	case got := <-lines:
		switch strings.ToLower(strings.TrimSpace(got.line)) {
		case "y", "yes":
			if got.err == nil {
				return nil
			}
		}
		return errors.New("not confirmed: nothing was decided")
	}
}

// summary prints in one line what is decided.
func (p *printer) summary(a *approvalv1.Approval) {
	if a.GetGrant() != nil {
		p.printf("%s: %s", visible(a.GetId()), grantName(a))
	} else {
		p.printf("%s: risk %s, %s %s %s", visible(a.GetId()), p.paint(riskColor(a.GetRisk()), word(a.GetRisk())),
			word(cutAt(a.GetAgent(), 120)), word(a.GetAction()), word(cutAt(a.GetResource(), 240)))
	}
	if a.GetSubject() != "" {
		p.printf(", for %s", word(cutAt(a.GetSubject(), 120)))
	}
	p.printf("\n")
}

// outcome tells how an approval stands after a word.
func (p *printer) outcome(a *approvalv1.Approval, now time.Time) {
	word := p.paint(stateColor(a.GetState()), strings.ToUpper(stateWord(a.GetState())))
	if a.GetGrant() != nil && !open(a.GetState()) {
		p.printf("%s: %s.\n", word, grantOutcome(a))
		return
	}
	switch a.GetState() {
	case approvalv1.ApprovalState_APPROVAL_STATE_PENDING:
		p.printf("%s: the yes is counted; it still needs %s, and expires %s.\n", word, visible(lacking(a)), left(a.GetExpiresAt(), now))
	case approvalv1.ApprovalState_APPROVAL_STATE_APPROVED:
		p.printf("%s: the call goes through once if it comes again by %s.\n", word, stampOf(a.GetExpiresAt()))
	case approvalv1.ApprovalState_APPROVAL_STATE_CONSUMED:
		p.printf("%s: the yes is counted already, and was used by decision %s.\n", word, visible(a.GetUsedBy()))
	case approvalv1.ApprovalState_APPROVAL_STATE_DENIED:
		p.printf("%s: the call does not go through.\n", word)
	case approvalv1.ApprovalState_APPROVAL_STATE_CANCELLED:
		p.printf("%s: nobody has to decide it any more.\n", word)
	case approvalv1.ApprovalState_APPROVAL_STATE_REVOKED:
		p.printf("%s: the yes counts no more.\n", word)
	default:
		p.printf("%s.\n", word)
	}
}
