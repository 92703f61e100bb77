package cli

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/audit/fileaudit"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/pdp"
)

func newAudit(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Search, follow and verify the audit",
		Long: "Search, follow and verify the audit: the record of every decision and of everything that changed what\n" +
			"is decided. The commands read the server's files, whether it runs or not.",
		Args: commandsOnly,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newAuditQuery(env), newAuditTail(env), newAuditVerify(env))
	return cmd
}

// auditFlags say where the audit is.
type auditFlags struct {
	dir    string
	asJSON bool
}

func (f *auditFlags) register(set *pflag.FlagSet) {
	set.StringVar(&f.dir, "dir", "", "`directory` of the audit (KELPIE_AUDIT_DIR; "+defaultAuditDir()+")")
	set.BoolVar(&f.asJSON, "json", false, "print JSON")
}

// defaultAuditDir is where a server without --state keeps its audit.
func defaultAuditDir() string { return filepath.Join(config.DefaultState, "audit") }

func (f *auditFlags) complete(env *Env) {
	if f.dir = env.or(f.dir, "KELPIE_AUDIT_DIR"); f.dir == "" {
		f.dir = defaultAuditDir()
	}
}

// there says where to look if there is no audit. A directory with some files of one is
// looked at: that others are gone is what verifying is for.
func (f *auditFlags) there() error {
	const advice = "name its directory with --dir; a server keeps it in \"audit\" in its state directory"
	files, err := os.ReadDir(f.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no audit in %s, which does not exist; %s", f.dir, advice)
	case err != nil:
		return fmt.Errorf("read the audit: %w; %s", err, advice)
	}
	for _, file := range files {
		if strings.HasPrefix(file.Name(), "audit") || file.Name() == "head.json" {
			return nil
		}
	}
	return fmt.Errorf("there is no audit in %s, which has no file of one; %s", f.dir, advice)
}

// queryFlags select records.
type queryFlags struct {
	auditFlags

	q            audit.Query
	kinds        []string
	since, until string
}

func (f *queryFlags) register(set *pflag.FlagSet) {
	f.auditFlags.register(set)
	set.StringVar(&f.q.Agent, "agent", "", "of this `agent`, established or claimed")
	set.StringVar(&f.q.Subject, "subject", "", "on behalf of this `human`")
	set.StringVar(&f.q.Gateway, "gateway", "", "asked by this `gateway`")
	set.StringVar(&f.q.Actor, "actor", "", "done by this `person`, also where the admin token alone says that it was: votes, resets and the like")
	set.StringVar(&f.q.Action, "action", "", "of actions that this `pattern` selects, as in a policy")
	set.StringVar(&f.q.Resource, "resource", "", "of resources that this `pattern` selects, as in a policy")
	set.StringVar(&f.q.Decision, "decision", "", "with this `decision`: allow, deny or require_approval")
	set.StringVar(&f.q.Reason, "reason", "", "with this `reason`, such as rate_limited")
	set.StringSliceVar(&f.kinds, "kind", nil, "of these `kinds`: decision, approval, settle, policy, ...; default all")
	set.StringVar(&f.q.DecisionID, "decision-id", "", "about the decision with this `id`")
	set.StringVar(&f.q.ApprovalID, "approval-id", "", "about the approval with this `id`")
}

func (f *queryFlags) complete(env *Env, now time.Time) error {
	f.auditFlags.complete(env)
	for _, k := range f.kinds {
		if !knownKind(k) {
			return fmt.Errorf("--kind: %q is none; write decision, settle, release, reset, approval, revocation, policy or admin, or one such as approval_vote", k)
		}
		f.q.Kinds = append(f.q.Kinds, audit.Kind(k))
	}
	switch strings.ToLower(f.q.Decision) {
	case "", "allow", "deny", "require_approval":
	default:
		return fmt.Errorf("--decision: %q is none; write allow, deny or require_approval", f.q.Decision)
	}
	if err := f.completeReason(); err != nil {
		return err
	}
	for _, t := range []struct {
		flag, text string
		into       *time.Time
	}{{"since", f.since, &f.q.From}, {"until", f.until, &f.q.To}} {
		if t.text == "" {
			continue
		}
		at, err := moment(t.text, now)
		if err != nil {
			return fmt.Errorf("--%s: %w", t.flag, err)
		}
		*t.into = at
	}
	if !f.q.From.IsZero() && !f.q.To.IsZero() && !f.q.From.Before(f.q.To) {
		return fmt.Errorf("--since %s is not before --until %s: nothing can be between them; turn them round", stamp(f.q.From), stamp(f.q.To))
	}
	return nil
}

func (f *queryFlags) completeReason() error {
	f.q.Reason = strings.ToLower(f.q.Reason)
	known := pdp.AllReasons()
	if f.q.Reason == "" || slices.Contains(known, pdp.Reason(f.q.Reason)) {
		return nil
	}
	words := make([]string, 0, len(known))
	for _, r := range known {
		words = append(words, string(r))
	}
	return fmt.Errorf("--reason: %q is none; write one of %s", f.q.Reason, join(words))
}

// knownKind tells whether a word is a kind of record, or a family of kinds.
func knownKind(word string) bool {
	if k := audit.Kind(word); k.Valid() || k.Note() {
		return true
	}
	return slices.ContainsFunc(audit.Kinds(), func(k audit.Kind) bool {
		family, _, found := strings.Cut(string(k), "_")
		return found && family == word
	})
}

// moment reads a time, or how long ago it was.
func moment(text string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	return time.Time{}, fmt.Errorf("%q is no time; write how long ago it was, such as 90m, or 2026-06-17T12:00:00Z", text)
}

func newAuditQuery(env *Env) *cobra.Command {
	var f queryFlags
	var oldest bool
	cmd := &cobra.Command{
		Use:   "query",
		Short: "Search the audit",
		Long: "Search the audit. All flags have to hold together; without any, the newest records are shown.\n" +
			"Standard error says if there are more than --limit, or none.\n\n" +
			"With --json each record is one line, as it is kept, with its number and hash.",
		Example: "  kelpie audit query --agent data-cleaner --since 24h\n" +
			"  kelpie audit query --decision deny --resource 'salesforce/**' --json",
		Args: flagsOnly,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if oldest {
				f.q.Order = audit.OldestFirst
			}
			if err := f.complete(env, time.Now()); err != nil {
				return err
			}
			if err := f.there(); err != nil {
				return err
			}
			return f.query(cmd.Context(), env)
		},
	}
	set := cmd.Flags()
	f.register(set)
	set.StringVar(&f.since, "since", "", "not before this `time`: how long ago (90m), or 2026-06-17T12:00:00Z")
	set.StringVar(&f.until, "until", "", "before this `time`, given likewise")
	set.IntVar(&f.q.Limit, "limit", 100, "show at most so many; 0: all")
	set.BoolVar(&oldest, "oldest-first", false, "show the oldest first")
	return cmd
}

func newAuditTail(env *Env) *cobra.Command {
	var f queryFlags
	cmd := &cobra.Command{
		Use:     "tail",
		Short:   "Show what is added to the audit, until interrupted",
		Long:    "Show what is added to the audit from now on, until interrupted. Flags select as those of `kelpie audit query`.",
		Example: "  kelpie audit tail --decision deny",
		Args:    flagsOnly,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.complete(env, time.Now()); err != nil {
				return err
			}
			if err := f.there(); err != nil {
				return err
			}
			_, err := f.show(env, fileaudit.NewReader(f.dir).Tail(cmd.Context(), &f.q), 0)
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		},
	}
	f.register(cmd.Flags())
	return cmd
}

// query prints what is found, and on standard error, which no script reads, whether
// that was all.
func (f *queryFlags) query(ctx context.Context, env *Env) error {
	q, most := f.q, f.q.Limit
	if most > 0 && most < math.MaxInt {
		q.Limit++ // To see whether there are more.
	}
	found, err := f.show(env, fileaudit.NewReader(f.dir).Query(ctx, &q), most)
	if err != nil {
		return err
	}
	note := &printer{w: env.Stderr}
	switch {
	case found == 0:
		note.printf("No record in %s matches.\n", f.dir)
	case most > 0 && found > most:
		note.printf("There are more than these %d; see --limit.\n", most)
	}
	return note.done()
}

// show prints lines as they come, so many at most, and counts them and the one after; 0: all.
func (f *queryFlags) show(env *Env, lines iter.Seq2[*audit.Line, error], most int) (found int, _ error) {
	p := env.printer()
	for line, err := range lines {
		if err != nil {
			return found, fmt.Errorf("read the audit: %w", err)
		}
		if found++; most > 0 && found > most {
			break
		}
		if f.asJSON {
			p.printf("%s\n", line.Append(nil))
		} else {
			p.auditLine(line)
		}
		if p.err != nil {
			break
		}
	}
	return found, p.done()
}

// auditLine prints a record as one line for people.
func (p *printer) auditLine(l *audit.Line) {
	style := plain
	switch l.Decision {
	case "ALLOW":
		style = green
	case "DENY":
		style = red
	case "REQUIRE_APPROVAL":
		style = yellow
	}
	p.printf("%s  ", p.paint(dim, l.Time.UTC().Format("2006-01-02T15:04:05.000Z")))
	if l.Kind == audit.KindDecision {
		p.printf("%s %s", p.paint(style, clean(l.Decision)), clean(l.Reason))
	} else {
		p.printf("%s", p.paint(bold, kindWords(l)))
	}
	if l.Failed && l.Kind != audit.KindPolicyRefused {
		// Early in the line: what comes behind it reads like something that was done.
		p.printf("  %s", p.paint(red, failedWord(l.Kind)))
	}
	for _, part := range []struct{ name, text string }{
		{"", l.Agent},
		{"for", l.Subject},
		{"", l.Action},
		{"", l.Resource},
		{"by", l.Actor},
		{"approval", l.ApprovalID},
		{"why", l.Why},
		{"cause", l.Cause},
		{"decision", l.DecisionID},
	} {
		if part.text == "" {
			continue
		}
		if part.name != "" {
			p.printf("  %s", p.paint(dim, part.name))
		} else {
			p.printf(" ")
		}
		p.printf(" %s", clean(part.text))
	}
	if l.DryRun {
		p.printf("  %s", p.paint(dim, "dry run"))
	}
	p.printf("\n")
}

// kindWords are what a record is about, with what somebody said if it is a vote.
func kindWords(l *audit.Line) string {
	words := clean(strings.ReplaceAll(string(l.Kind), "_", " "))
	if l.Kind != audit.KindApprovalVote {
		return words
	}
	for _, d := range l.Details {
		if d.Name == "vote" {
			return words + " " + clean(d.Value)
		}
	}
	return words
}

// failedWord says that what is recorded was not done.
func failedWord(k audit.Kind) string {
	if strings.HasPrefix(string(k), "approval_") {
		return "refused"
	}
	return "failed"
}

func newAuditVerify(env *Env) *cobra.Command {
	var f auditFlags
	var key, head string
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check that the audit is what was written",
		Long: "Check that the audit is what was written: that no record was changed, cut, moved or added by hand. The\n" +
			"public key is one that was copied away when the server made it; the one beside the audit proves nothing\n" +
			"to who does not trust that directory. That the audit is not an older copy of itself is proved by a copy of\n" +
			"its head.json, kept where who can write the audit cannot: it has to reach at least as far as that one.\n\n" +
			"Exit code: 0 the audit is whole, 3 it is not, 1 it could not be read.",
		Example: "  kelpie audit verify --key /etc/kelpie/audit.pub\n" +
			"  kelpie audit verify --key /etc/kelpie/audit.pub --head /mnt/elsewhere/head.json",
		Args: flagsOnly,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.complete(env)
			if err := f.there(); err != nil {
				return err
			}
			public, err := f.publicKey(env, key)
			if err != nil {
				return err
			}
			var anchors []audit.Checkpoint
			if head != "" {
				kept, err := fileaudit.ReadHead(head)
				if err != nil {
					return fmt.Errorf("--head: %w", err)
				}
				anchors = append(anchors, kept)
			}
			v, err := fileaudit.Verify(cmd.Context(), f.dir, public, anchors...)
			if err != nil {
				return fmt.Errorf("read the audit: %w", err)
			}
			p := env.printer()
			if f.asJSON {
				p.json(&v)
			} else {
				p.verification(&v)
			}
			if err := p.done(); err != nil {
				return err
			}
			if !v.OK() {
				return exitError(ExitDeny)
			}
			return nil
		},
	}
	f.register(cmd.Flags())
	cmd.Flags().StringVar(&key, "key", "", "`file` with the public key (KELPIE_AUDIT_PUBLIC_KEY; audit.pub in the directory)")
	cmd.Flags().StringVar(&head, "head", "", "`file` with a copy of head.json, which the audit has to reach")
	return cmd
}

// publicKey reads the key to verify with. The error names what named it.
func (f *auditFlags) publicKey(env *Env, flag string) (ed25519.PublicKey, error) {
	const variable = "KELPIE_AUDIT_PUBLIC_KEY"
	from, file := "--key", flag
	if file == "" {
		from, file = variable, env.or("", variable)
	}
	if file != "" {
		public, err := fileaudit.ReadPublicKey(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", from, err)
		}
		return public, nil
	}
	public, err := fileaudit.ReadPublicKey(filepath.Join(f.dir, "audit.pub"))
	if err != nil {
		return nil, fmt.Errorf("%w; name a copy of it with --key", err)
	}
	return public, nil
}

// verification prints what came of verifying.
func (p *printer) verification(v *audit.Verification) {
	if v.OK() {
		p.printf("%s: %s in %s, lines %d to %d, %s.\n", p.paint(green, "The audit is whole"),
			count(int(v.Records), "record"), count(v.Segments, "segment"), v.FirstSeq, v.LastSeq, count(v.Checkpoints, "signature")) //nolint:gosec // There are fewer than an int holds.
	} else {
		p.printf("%s: %s\n", p.paint(red, "The audit is not what was written"), clean(v.Fault.String()))
		for i := range v.Later {
			p.printf("%s: %s\n", p.paint(red, "And"), clean(v.Later[i].String()))
		}
	}
	if slices.ContainsFunc(v.Faults(), func(f audit.Fault) bool { return f.Known }) {
		p.printf("That lines are gone the audit says itself. Behind that a signature proves %s.\n", count(int(v.Proved), "record")) //nolint:gosec // There are fewer than an int holds.
	}
	if !v.From.IsZero() {
		p.printf("From %s to %s.\n", v.From.UTC().Format(time.RFC3339), v.To.UTC().Format(time.RFC3339))
	}
	if v.Removed {
		p.printf("What was before line %d was removed on purpose, because of its age or size.\n", v.FirstSeq)
	}
	if v.Unsigned > 0 {
		p.printf("%s at the end not signed yet; the signature of %s reaches to line %d.\n", count(int(v.Unsigned), "line"), v.SignedAt.UTC().Format(time.RFC3339), v.SignedSeq) //nolint:gosec // As above.
	}
	if v.Adopted > 0 {
		p.printf("%s not signed yet when a start took over what a crash had left: who could write the files then could have made them.\n", count(int(v.Adopted), "line")) //nolint:gosec // As above.
	}
	if v.Ignored > 0 {
		p.printf("%s behind the end of segments that failed, which do not count and are not shown.\n", count(int(v.Ignored), "line")) //nolint:gosec // As above.
	}
	if v.Crashes+v.Failures > 0 {
		p.printf("%s ended by a crash, %d because writing failed; %d records were refused meanwhile.\n", count(v.Crashes, "segment"), v.Failures, v.Refused)
	}
	if v.Lost > 0 {
		p.printf("%s: %s, taken without waiting, could not be written before the server ended.\n", p.paint(red, "Not in the audit"), count(int(v.Lost), "record")) //nolint:gosec // As above.
	}
}
