package cli

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

func newCheck(env *Env) *cobra.Command {
	var f callFlags
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Ask whether one call may go through",
		Long: "Ask whether one call may go through: of a policy directory (--policy), with fresh limits, or of a\n" +
			"running server (--server), which charges its limits unless --dry-run is given.\n\n" +
			"Exit code: 0 ALLOW, 3 DENY, 4 REQUIRE_APPROVAL, 1 no decision. A dry run that would be ALLOW exits with 5.",
		Example: "  kelpie check --policy examples/revops \\\n" +
			"    --agent lead-router --action read --resource salesforce/leads/42 --ip 10.8.0.5",
		Args: flagsOnly,
		RunE: func(cmd *cobra.Command, _ []string) error { return runCheck(cmd, env, &f) },
	}
	f.register(cmd)
	cmd.Flags().StringVar(&f.approval, "approval-id", "", "the `id` of the approval that the call has; one for exactly this call is found without it (needs --server)")
	cmd.Flags().DurationVar(&f.wait, "wait", 0, "how long to wait for the humans where their yes is needed, at most 30s (needs --server)")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "decide, but charge nothing and change nothing")
	return cmd
}

func runCheck(cmd *cobra.Command, env *Env, f *callFlags) error {
	req, err := f.request()
	if err != nil {
		return err
	}
	ask, err := f.asker(env)
	if err != nil {
		return err
	}
	resp, err := ask.authorize(cmd.Context(), req)
	if closeErr := ask.close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	p := env.printer()
	if f.asJSON {
		p.message(resp)
	} else {
		note := ""
		if f.dryRun {
			note = "  (dry run: nothing was charged)"
		}
		p.decision(resp, note)
	}
	if err := p.done(); err != nil {
		return err
	}
	return exitFor(resp, f.dryRun)
}

// verdict is the decision, or what a dry run would have decided.
func verdict(resp *authzv1.AuthorizeResponse) authzv1.Decision {
	if resp.GetDecision() == authzv1.Decision_DECISION_UNSPECIFIED {
		return resp.GetWouldBe()
	}
	return resp.GetDecision()
}

// exitFor is the exit code of an answer. A dry run never exits like an ALLOW,
// so that a flag left in a script opens no door.
func exitFor(resp *authzv1.AuthorizeResponse, dryRun bool) error {
	decision := resp.GetDecision()
	if dryRun {
		decision = resp.GetWouldBe()
	}
	switch decision {
	case authzv1.Decision_DECISION_ALLOW:
		if dryRun {
			return exitError(ExitDryRun)
		}
		return nil
	case authzv1.Decision_DECISION_DENY:
		return exitError(ExitDeny)
	case authzv1.Decision_DECISION_REQUIRE_APPROVAL:
		return exitError(ExitRequireApproval)
	default:
		return fmt.Errorf("the answer holds no decision that this version knows (%v); treat it as DENY", resp.GetDecision())
	}
}

// decision prints an answer for a person; note follows the reason.
func (p *printer) decision(resp *authzv1.AuthorizeResponse, note string) {
	d := verdict(resp)
	word := strings.TrimPrefix(d.String(), "DECISION_")
	p.printf("%s  %s%s\n", p.paint(decisionColor(d), word), reasonText(resp.GetReason()), note)
	if resp.GetMessage() != "" {
		p.printf("%s\n", clean(resp.GetMessage()))
	}
	row := func(name, value string) {
		if value != "" {
			p.printf("  %s %s\n", p.paint(dim, fmt.Sprintf("%-10s", name)), clean(value))
		}
	}
	row("matched", strings.Join(resp.GetMatched(), ", "))
	row("scopes", orOf(resp.GetRequiredScopes()))
	for _, r := range resp.GetApproval().GetRequirements() {
		row("approval", fmt.Sprintf("%s: %d of %s", r.GetRule(), r.GetQuorum(),
			cmp.Or(strings.Join(r.GetGroups(), ", "), "any approver")))
	}
	row("digest", resp.GetApproval().GetDigest())
	row("id", resp.GetApproval().GetId())
	row("url", resp.GetApproval().GetUrl())
	if resp.GetRetryAfter() != nil {
		row("retry", "in "+tenths(resp.GetRetryAfter().AsDuration()).String())
	}
	for _, l := range resp.GetLimits() {
		row("limit", fmt.Sprintf("%s: %d of %d left", l.GetName(), l.GetRemaining(), l.GetLimit()))
	}
	for _, s := range resp.GetShadow() {
		row("shadow", fmt.Sprintf("%s would say %s %s", s.GetRule(),
			strings.TrimPrefix(s.GetDecision().String(), "DECISION_"), reasonText(s.GetReason())))
	}
	for _, w := range resp.GetWarnings() {
		row("warning", w)
	}
}

// tenths rounds a wait up to tenths of a second: who waits for less comes too early.
func tenths(d time.Duration) time.Duration {
	const unit = time.Second / 10
	return (d + unit - 1).Truncate(unit)
}

func orOf(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return "any of " + strings.Join(words, ", ")
}

func decisionColor(d authzv1.Decision) string {
	switch d {
	case authzv1.Decision_DECISION_ALLOW:
		return green
	case authzv1.Decision_DECISION_REQUIRE_APPROVAL:
		return yellow
	default:
		return red
	}
}

func reasonText(r authzv1.Reason) string {
	if r == authzv1.Reason_REASON_UNSPECIFIED {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(r.String(), "REASON_"))
}

// message prints a protobuf message as JSON with the names of the proto.
func (p *printer) message(m proto.Message) {
	if p.err != nil {
		return
	}
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		p.err = fmt.Errorf("encode the answer: %w", err)
		return
	}
	// protojson varies its blanks on purpose; output that people diff must not.
	var flat, out bytes.Buffer
	if err := json.Compact(&flat, raw); err != nil {
		p.err = fmt.Errorf("encode the answer: %w", err)
		return
	}
	if err := json.Indent(&out, flat.Bytes(), "", "  "); err != nil {
		p.err = fmt.Errorf("encode the answer: %w", err)
		return
	}
	p.printf("%s\n", out.String())
}

func sorted(words []string) []string {
	out := slices.Clone(words)
	slices.Sort(out)
	return out
}
