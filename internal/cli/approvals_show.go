package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	approvalv1 "github.com/kelpie-authz/kelpie/gen/kelpie/approval/v1"
)

// Columns of what is shown of one approval.
const (
	nameColumns  = 12
	valueColumns = 76 - nameColumns
)

// approvalJSON prints a message as JSON in which nothing is hidden.
func (p *printer) approvalJSON(m proto.Message) {
	var text bytes.Buffer
	inner := &printer{w: &text, err: p.err}
	inner.message(m)
	p.err = inner.err
	p.printf("%s", visibleJSON(text.String()))
}

// listJSON prints a list as JSON, also where it is empty: protojson leaves that out.
func (p *printer) listJSON(found *approvalv1.ListResponse) {
	if len(found.GetApprovals()) == 0 {
		p.json(map[string][]string{"approvals": {}})
		return
	}
	p.approvalJSON(found)
}

// approvalLine prints a message as JSON in one line.
func (p *printer) approvalLine(m proto.Message) {
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	var line bytes.Buffer
	if err == nil {
		// protojson varies its blanks on purpose.
		err = json.Compact(&line, raw)
	}
	if err != nil && p.err == nil {
		p.err = fmt.Errorf("encode the answer: %w", err)
	}
	p.printf("%s\n", visibleJSON(line.String()))
}

func stateWord(s approvalv1.ApprovalState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "APPROVAL_STATE_"))
}

func stateColor(s approvalv1.ApprovalState) string {
	switch s {
	case approvalv1.ApprovalState_APPROVAL_STATE_PENDING:
		return yellow
	case approvalv1.ApprovalState_APPROVAL_STATE_APPROVED:
		return green
	case approvalv1.ApprovalState_APPROVAL_STATE_DENIED, approvalv1.ApprovalState_APPROVAL_STATE_REVOKED:
		return red
	default:
		return dim
	}
}

func riskColor(risk string) string {
	if risk == "delete" || risk == "admin" {
		return red
	}
	return plain
}

// open tells whether an approval can still change.
func open(s approvalv1.ApprovalState) bool {
	return s == approvalv1.ApprovalState_APPROVAL_STATE_PENDING || s == approvalv1.ApprovalState_APPROVAL_STATE_APPROVED
}

// approvals prints a list as a table.
func (p *printer) approvals(found *approvalv1.ListResponse, all bool, most uint32, now time.Time) {
	if len(found.GetApprovals()) == 0 {
		if all {
			p.printf("There are no approvals.\n")
		} else {
			p.printf("Nothing waits for a human.\n")
		}
		return
	}
	rows := [][]cell{{{"ID", dim}, {"STATE", dim}, {"RISK", dim}, {"AGENT", dim}, {"ACTION", dim}, {"RESOURCE", dim}, {"EXPIRES", dim}, {"NEEDS", dim}}}
	cut := false
	short := func(text string, most int) string {
		out := cutAt(text, most)
		cut = cut || out != text
		return word(out)
	}
	for _, a := range found.GetApprovals() {
		expires := ""
		if open(a.GetState()) {
			expires = left(a.GetExpiresAt(), now)
		}
		rows = append(rows, []cell{
			{visible(a.GetId()), plain},
			{stateWord(a.GetState()), stateColor(a.GetState())},
			{visible(a.GetRisk()), riskColor(a.GetRisk())},
			{short(a.GetAgent(), 32), plain},
			{short(a.GetAction(), 32), plain},
			{short(a.GetResource(), 48), plain},
			{expires, plain},
			{visible(cutAt(lacking(a), 48)), plain},
		})
	}
	p.table(rows)
	if cut {
		p.printf("What ends in ... is cut; `kelpie approvals show ID` has all of it.\n")
	}
	if found.GetNext() != "" {
		p.printf("There may be more than these %d; see --limit.\n", most)
	}
}

// left is how long an approval has, for a person.
func left(at *timestamppb.Timestamp, now time.Time) string {
	if at == nil {
		return ""
	}
	d := at.AsTime().Sub(now)
	if d <= 0 {
		return "now"
	}
	return "in " + rounded(d).String()
}

// lacking is what an approval still needs; "" if nothing, or if it is decided. What
// is no approval of one call says so instead.
func lacking(a *approvalv1.Approval) string {
	if a.GetGrant() != nil {
		return grantNeeds(a)
	}
	if a.GetState() == approvalv1.ApprovalState_APPROVAL_STATE_APPROVED {
		return "the call to come again"
	}
	if a.GetState() != approvalv1.ApprovalState_APPROVAL_STATE_PENDING {
		return ""
	}
	var out []string
	for _, r := range a.GetRequirements() {
		if n := int64(r.GetQuorum()) - int64(r.GetYes()); n > 0 {
			out = append(out, fmt.Sprintf("%d of %s", n, groupsOf(r)))
		}
	}
	return strings.Join(out, ", ")
}

func groupsOf(r *approvalv1.Requirement) string {
	if len(r.GetGroups()) == 0 {
		return "any approver"
	}
	return strings.Join(r.GetGroups(), " or ")
}

// change prints one change as one line.
func (p *printer) change(a *approvalv1.Approval, now time.Time) {
	p.printf("%s  %s  %s", p.paint(dim, stamp(now)), visible(a.GetId()), p.paint(stateColor(a.GetState()), stateWord(a.GetState())))
	needs := "needs"
	if a.GetGrant() != nil && !inForce(a) {
		needs = ""
	}
	for _, part := range []struct{ name, text string }{
		{"risk", word(a.GetRisk())},
		{"", word(cutAt(a.GetAgent(), 120))},
		{"for", word(cutAt(a.GetSubject(), 120))},
		{"", word(a.GetAction())},
		{"", word(cutAt(a.GetResource(), 120))},
		{needs, visible(lacking(a))},
		{"by", word(a.GetEndedBy())},
		{"why", word(cutAt(a.GetWhy(), 120))},
	} {
		if part.text == "" {
			continue
		}
		p.printf("  ")
		if part.name != "" {
			p.printf("%s ", p.paint(dim, part.name))
		}
		p.printf("%s", part.text)
	}
	p.printf("\n")
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func stampOf(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return stamp(t.AsTime())
}

// approval prints everything that a person needs to judge one call.
func (p *printer) approval(a *approvalv1.Approval, now time.Time) {
	p.printf("%s  %s", p.paint(bold, visible(a.GetId())), p.paint(stateColor(a.GetState()), stateWord(a.GetState())))
	if open(a.GetState()) {
		p.printf("  expires %s", left(a.GetExpiresAt(), now))
	}
	p.printf("\n\n")
	subject := a.GetSubject()
	if subject == "" {
		subject = "nobody is named"
	}
	p.painted("risk", riskColor(a.GetRisk()), a.GetRisk())
	p.row("agent", a.GetAgent())
	p.row("owner", a.GetOwner())
	p.row("acting for", subject)
	p.row("action", a.GetAction())
	p.row("resource", a.GetResource())
	for _, d := range a.GetDetails() {
		if !d.GetUnverified() {
			p.row(d.GetName(), d.GetValue())
		}
	}
	p.row("last hour", strings.Replace(a.GetRecent(), " in the last hour", "", 1))
	p.row("asked", stampOf(a.GetOpenedAt()))
	if open(a.GetState()) {
		p.row("expires", stampOf(a.GetExpiresAt()))
	}
	p.row("gateway", a.GetGateway())
	p.row("decision", a.GetDecisionId())
	p.row("policy", a.GetPolicyVersion())
	p.row("digest", a.GetDigest())
	p.row("ended", stampOf(a.GetEndedAt()))
	p.row("by", a.GetEndedBy())
	p.row("why", a.GetWhy())
	p.row("used by", a.GetUsedBy())
	texts := []string{a.GetAgent(), a.GetSubject(), a.GetAction(), a.GetResource()}
	for _, d := range a.GetDetails() {
		texts = append(texts, d.GetName(), d.GetValue())
	}
	for _, text := range texts {
		if mixed := alphabets(text); mixed != "" {
			p.row("look twice", fmt.Sprintf("%s has letters that look alike, of %s", cutAt(text, 120), mixed))
		}
	}
	if a.GetPartial() && a.GetGrant() == nil && open(a.GetState()) {
		p.row("not all", "the parameters were not seen whole: what you do not see is part of the call")
	}
	if a.GetMasked() && open(a.GetState()) {
		p.row("hidden", "what looks like a secret; the agent may have named it so, and it is part of the call")
	}
	p.grant(a)
	p.requirements(a.GetRequirements())
	p.votes(a.GetVotes())
	p.words(a.GetDetails())
}

// row prints a name and its value; nothing if there is no value.
func (p *printer) row(name, value string) { p.painted(name, plain, value) }

func (p *printer) painted(name, style, value string) {
	if value == "" {
		return
	}
	lines := fold(whole(value), valueColumns)
	for i, line := range lines {
		if i < len(lines)-1 {
			line = strings.TrimSuffix(line, " ") // The line ends there.
		}
		p.printf("  %s %s\n", p.paint(dim, fmt.Sprintf("%-*s", nameColumns, visible(name))), p.paint(style, line))
		name = ""
	}
}

// maxNamed is how many of those who may decide are named.
const maxNamed = 20

func (p *printer) requirements(list []*approvalv1.Requirement) {
	if len(list) == 0 {
		return
	}
	p.printf("\n%s\n", p.paint(bold, "Needed"))
	for _, r := range list {
		p.row("rule", r.GetRule())
		p.row("", fmt.Sprintf("%d of %d said yes, of %s", r.GetYes(), r.GetQuorum(), groupsOf(r)))
		who := r.GetApprovers()
		switch n := len(who); {
		case n == 0:
			p.painted("", red, "nobody may, by the policy in force")
		case n > maxNamed:
			p.row("", fmt.Sprintf("who may: %s and %d more", strings.Join(who[:maxNamed], ", "), n-maxNamed))
		default:
			p.row("", "who may: "+strings.Join(who, ", "))
		}
	}
}

func (p *printer) votes(list []*approvalv1.Vote) {
	if len(list) == 0 {
		return
	}
	p.printf("\n%s\n", p.paint(bold, "Said so far"))
	for _, v := range list {
		word, style := "no", red
		if v.GetYes() {
			word, style = "yes", green
		}
		p.painted(word, style, v.GetVoter())
		p.row("", strings.TrimSpace(stampOf(v.GetAt())+" "+v.GetRule()))
		p.row("", v.GetReason())
	}
}

// words prints what the agent says, in a block that cannot be taken for the rest.
func (p *printer) words(list []*approvalv1.Detail) {
	if !slices.ContainsFunc(list, (*approvalv1.Detail).GetUnverified) {
		return
	}
	p.printf("\n%s\n", p.paint(bold, "What the agent says: its own words, not verified"))
	for _, d := range list {
		if !d.GetUnverified() {
			continue
		}
		for i, line := range fold(whole(d.GetName())+" = "+whole(d.GetValue()), nameColumns+valueColumns-4) {
			if i > 0 {
				line = "  " + line
			}
			p.printf("  | %s\n", line)
		}
	}
}
