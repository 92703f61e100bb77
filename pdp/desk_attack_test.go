package pdp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/policy"
	"github.com/kelpie-authz/kelpie/store"
)

// The tests of this file are the rows of the table of attacks on approvals.

// value draws a JSON value.
func value(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		kinds := 6
		if depth == 0 {
			kinds = 4
		}
		switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
		case 0:
			return nil
		case 1:
			return rapid.Bool().Draw(t, "bool")
		case 2:
			return float64(rapid.Int64Range(-1<<40, 1<<40).Draw(t, "number")) / float64(rapid.SampledFrom([]int{1, 2, 8}).Draw(t, "over"))
		case 3:
			return rapid.StringN(0, 6, -1).Draw(t, "text")
		case 4:
			return rapid.SliceOfN(value(depth-1), 0, 3).Draw(t, "list")
		default:
			return rapid.MapOfN(rapid.StringN(1, 4, -1), value(depth-1), 0, 3).Draw(t, "object")
		}
	})
}

// mutant changes one leaf, name or type somewhere in a value; the original is
// left as it is.
func mutant(t *rapid.T, v any) any {
	if object, is := v.(map[string]any); is && len(object) > 0 && rapid.Bool().Draw(t, "deeper") {
		out := maps.Clone(object)
		name := rapid.SampledFrom(slices.Sorted(maps.Keys(object))).Draw(t, "member")
		switch rapid.IntRange(0, 3).Draw(t, "what") {
		case 0:
			delete(out, name)
		case 1:
			delete(out, name)
			out[name+"x"] = object[name]
		default:
			out[name] = mutant(t, object[name])
		}
		return out
	}
	if list, is := v.([]any); is && len(list) > 0 && rapid.Bool().Draw(t, "deeper") {
		out := slices.Clone(list)
		at := rapid.IntRange(0, len(list)-1).Draw(t, "element")
		switch rapid.IntRange(0, 3).Draw(t, "what") {
		case 0:
			out = slices.Delete(out, at, at+1)
		case 1:
			slices.Reverse(out)
		default:
			out[at] = mutant(t, list[at])
		}
		return out
	}
	switch v := v.(type) {
	case float64:
		return rapid.SampledFrom([]any{v + 1, -v - 1, v * 10, fmt.Sprint(v), []any{v}, nil}).Draw(t, "number")
	case string:
		return rapid.SampledFrom([]any{v + "x", " " + v, strings.ToUpper(v) + "\u200b", []any{v}, nil, true}).Draw(t, "text")
	case bool:
		return rapid.SampledFrom([]any{!v, fmt.Sprint(v), 1.0, nil}).Draw(t, "bool")
	case nil:
		return rapid.SampledFrom([]any{false, 0.0, "", "null", map[string]any{}}).Draw(t, "null")
	case []any:
		return rapid.SampledFrom([]any{append(slices.Clone(v), nil), map[string]any{"0": v}}).Draw(t, "list")
	default:
		return []any{v}
	}
}

func asJSON(t interface{ Fatal(args ...any) }, v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestAttackParametersSwappedAfterApproval(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		o := newOffice(t, 1)
		params := rapid.MapOfN(rapid.StringN(1, 4, -1), value(2), 1, 4).Draw(rt, "parameters")
		changed, object := mutant(rt, any(params)).(map[string]any)
		if !object {
			changed = map[string]any{"x": params}
		}
		if reflect.DeepEqual(changed, params) {
			rt.Skip("the same value")
		}
		ask := func(p map[string]any, id string) *pdp.Request {
			return with(removeNote, func(r *pdp.Request) { r.ParametersJSON, r.ApprovalID = asJSON(rt, p), id })
		}
		id := o.approved(t, ask(params, ""), lead)
		for _, id := range []string{id, ""} {
			if dec := o.ask(t, ask(changed, id)); dec.Verdict == pdp.Allow || dec.Verdict == pdp.VerdictNone {
				rt.Fatalf("%v %s for\n%s\napproved was\n%s", dec.Verdict, dec.Reason, asJSON(rt, changed), asJSON(rt, params))
			}
		}
		// The yes was there all the time.
		o.want(t, ask(params, id), pdp.Allow, pdp.ReasonOKApproved)
	})
}

func TestAttackParametersSwapped82000For820000(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	id := o.approved(t, payRent, controller)
	for _, amount := range []string{`820000`, `"82000"`, `82000.5`, `[82000]`, `8.2e3`, `-82000`} {
		dear := with(payRent, func(r *pdp.Request) {
			r.ParametersJSON = []byte(`{"amount":` + amount + `,"to":{"name":"landlord","tags":["a","b"]}}`)
		})
		o.want(t, byID(dear, id), pdp.Deny, pdp.ReasonApprovalBindingMismatch)
		o.want(t, dear, pdp.RequireApproval, pdp.ReasonApprovalRequired)
	}
	// Another way to write the same call is the same call.
	same := with(payRent, func(r *pdp.Request) {
		r.ParametersJSON = []byte(`{ "to":{"tags":["a","b"],"name":"l\u0061ndlord"}, "amount":8.2e4 }`)
	})
	o.want(t, byID(same, id), pdp.Allow, pdp.ReasonOKApproved)
}

func TestAttackReuseByAnotherAgentUserOrCall(t *testing.T) {
	t.Parallel()
	base := with(payRent, func(r *pdp.Request) {
		r.Subject, r.Tool, r.Cost = "user@example.com", pdp.Tool{Server: "bank", Name: "transfer"}, 2
	})
	for field, change := range map[string]func(*pdp.Request){
		"agent":                    func(r *pdp.Request) { r.Agent = "sweeper" },
		"subject":                  func(r *pdp.Request) { r.Subject = "other@example.com" },
		"no subject":               func(r *pdp.Request) { r.Subject = "" },
		"subject in capitals":      func(r *pdp.Request) { r.Subject = "User@example.com" },
		"action":                   func(r *pdp.Request) { r.Action, r.Resource = "delete", "notes/1" },
		"resource":                 func(r *pdp.Request) { r.Resource = "bank/loan" },
		"resource of another rule": func(r *pdp.Request) { r.Resource = "bank/large/rent" },
		"tool server":              func(r *pdp.Request) { r.Tool.Server = "other" },
		"tool name":                func(r *pdp.Request) { r.Tool.Name = "other" },
		"no tool":                  func(r *pdp.Request) { r.Tool = pdp.Tool{} },
		"parameters":               func(r *pdp.Request) { r.ParametersJSON = []byte(`{}`) },
		"no parameters":            func(r *pdp.Request) { r.ParametersJSON = nil },
		"parameters not seen":      func(r *pdp.Request) { r.ParametersJSON, r.ParametersState = nil, pdp.ParametersNotSeen },
		"parameters truncated":     func(r *pdp.Request) { r.ParametersJSON, r.ParametersState = nil, pdp.ParametersTruncated },
		"cost":                     func(r *pdp.Request) { r.Cost = 2.000001 },
		"no cost":                  func(r *pdp.Request) { r.Cost = 0 },
		"context that a rule reads": func(r *pdp.Request) {
			r.Context = map[string]any{"channel": "chat", "note": "not read"}
		},
		"type of the context": func(r *pdp.Request) { r.Context = map[string]any{"channel": []any{"email"}} },
		"no context":          func(r *pdp.Request) { r.Context = nil },
	} {
		t.Run(field, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, 1)
			id := o.approved(t, base, controller)
			for _, id := range []string{id, ""} {
				if dec := o.ask(t, byID(with(base, change), id)); dec.Verdict != pdp.Deny && dec.Verdict != pdp.RequireApproval {
					t.Errorf("with id %q: %v %s", id, dec.Verdict, dec.Reason)
				}
			}
			o.want(t, byID(base, id), pdp.Allow, pdp.ReasonOKApproved)
		})
	}
}

func TestAttackWhatIsNotBoundMayChange(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	o.approved(t, payRent, controller)
	o.want(t, with(payRent, func(r *pdp.Request) {
		r.RequestID, r.SessionID, r.RunID, r.Gateway, r.SourceIP = "r", "s", "u", "g", "10.9.9.9"
		r.Context = map[string]any{"channel": "email", "note": "still not read"}
	}), pdp.Allow, pdp.ReasonOKApproved)
}

// race has callers ask at the same moment, spread over the replicas, and returns
// how often each reason came.
func (o *office) race(tb testing.TB, callers int, ask func(i int) *pdp.Request) map[pdp.Reason]int {
	tb.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	reasons := map[pdp.Reason]int{}
	start := make(chan struct{})
	for i := range callers {
		wg.Go(func() {
			<-start
			var dec pdp.Decision
			err := o.svcs[i%len(o.svcs)].Authorize(context.Background(), ask(i), &dec)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				tb.Errorf("caller %d: %v", i, err)
			}
			if (dec.Verdict == pdp.Allow) != (dec.Reason == pdp.ReasonOKApproved) {
				tb.Errorf("%v with %s", dec.Verdict, dec.Reason)
			}
			reasons[dec.Reason]++
		})
	}
	close(start)
	wg.Wait()
	return reasons
}

func TestAttackDoubleSpendBy64CallersOver3Replicas(t *testing.T) {
	t.Parallel()
	const callers, rounds = 64, 10
	for name, ids := range map[string]func(r *pdp.Request, i int){
		"distinct request ids":              func(r *pdp.Request, i int) { r.RequestID, r.Gateway = fmt.Sprint("r-", i), "edge" },
		"empty request ids":                 func(r *pdp.Request, _ int) { r.Gateway = "edge" },
		"one request id, no gateway":        func(r *pdp.Request, _ int) { r.RequestID = "r" },
		"one request id, many gateways":     func(r *pdp.Request, i int) { r.RequestID, r.Gateway = "r", fmt.Sprint("edge-", i) },
		"one request id, proxy":             func(r *pdp.Request, _ int) { r.RequestID, r.Gateway = "r", "proxy" },
		"one request id, another replica's": func(r *pdp.Request, i int) { r.RequestID, r.Gateway = "r", fmt.Sprint("edge-", i%3, "/", i) },
	} {
		for _, named := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, by id %t", name, named), func(t *testing.T) {
				t.Parallel()
				o := newOffice(t, 3, func(c *pdp.DeskConfig) { c.MayRetry = func(g string) bool { return g != "proxy" } })
				for round := range rounds {
					o.clock.advance(time.Hour)
					req := with(removeNote, func(r *pdp.Request) { r.Resource = fmt.Sprint("notes/", round) })
					id := o.approved(t, req, lead)
					reasons := o.race(t, callers, func(i int) *pdp.Request {
						return with(req, func(r *pdp.Request) {
							ids(r, i)
							if named {
								r.ApprovalID = id
							}
						})
					})
					if reasons[pdp.ReasonOKApproved] != 1 {
						t.Fatalf("round %d: %v, want exactly one ok_approved", round, reasons)
					}
					if named && reasons[pdp.ReasonApprovalConsumed] != callers-1 {
						t.Fatalf("round %d: %v, want approval_consumed for all others", round, reasons)
					}
				}
			})
		}
	}
}

// One id of two gateways is two requests.
func TestAttackRequestIDRepeatedFromAnotherGateway(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 3, func(c *pdp.DeskConfig) { c.MayRetry = func(string) bool { return true } })
	id := o.approved(t, removeNote, lead)
	reasons := o.race(t, 64, func(i int) *pdp.Request {
		return with(removeNote, func(r *pdp.Request) {
			r.ApprovalID, r.RequestID, r.Gateway = id, "r", fmt.Sprint("edge-", i%2)
		})
	})
	// One gateway has it, and is answered each time that it asks again.
	if reasons[pdp.ReasonOKApproved] != 32 || reasons[pdp.ReasonApprovalConsumed] != 32 {
		t.Errorf("%v, want one gateway to have it and the other not", reasons)
	}
	row := o.store.row(id)
	for _, gateway := range []string{"edge-0", "edge-1"} {
		want := pdp.ReasonApprovalConsumed
		if row.Used.Gateway == gateway {
			want = pdp.ReasonOKApproved
		}
		dec := o.ask(t, with(removeNote, func(r *pdp.Request) { r.ApprovalID, r.RequestID, r.Gateway = id, "r", gateway }))
		if dec.Reason != want {
			t.Errorf("%s: %s, want %s", gateway, dec.Reason, want)
		}
	}
}

func TestAttackSelfApproval(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		subject string
		voter   pdp.Person
	}{
		"the agent":                     {"", oidc("cleaner")},
		"the subject":                   {"lead@example.com", lead},
		"in capitals":                   {"LEAD@Example.COM", lead},
		"with a tag":                    {"lead+agent@example.com", lead},
		"with a Cyrillic letter":        {"l\u0435ad@example.com", lead},
		"in full width":                 {"ｌｅａｄ@example.com", lead},
		"with an invisible character":   {"le\u200bad@example.com", lead},
		"with a soft hyphen":            {"le\u00adad@example.com", lead},
		"with a space":                  {" lead@example.com", lead},
		"with a dot at the end":         {"lead@example.com.", lead},
		"with a one for the l":          {"1ead@example.com", lead},
		"with an accent":                {"le\u0301ad@example.com", lead},
		"as the local admin":            {"lead@example.com", local("lead@example.com")},
		"as the local admin, the agent": {"", local("cleaner")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, 1)
			req := with(removeNote, func(r *pdp.Request) { r.Subject = tc.subject })
			id := o.opened(t, req)
			o.refused(t, id, tc.voter, pdp.ErrNotEligible)
			if _, err := o.desk.Deny(t.Context(), &pdp.Ballot{ApprovalID: id, Person: tc.voter, Reason: "x"}); !errors.Is(err, pdp.ErrNotEligible) {
				t.Errorf("his no: %v", err)
			}
			o.want(t, req, pdp.RequireApproval, pdp.ReasonApprovalPending)
			o.yes(t, id, oncall)
			o.want(t, req, pdp.Allow, pdp.ReasonOKApproved)
		})
	}
}

// Members are compared byte for byte: who looks like one is none.
func TestAttackApproverThatLooksLikeOne(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	id := o.opened(t, removeNote)
	for _, name := range []string{
		"Lead@example.com", "lead@example.com ", "lead+x@example.com", "l\u0435ad@example.com", "lead@example.com.", "le\u200bad@example.com",
		"ｌead@example.com", "controller@example.com", "team@example.com", "security", "*", "lead@example.com,oncall@example.com",
	} {
		o.refused(t, id, oidc(name), pdp.ErrNotEligible)
		o.refused(t, id, local(name), pdp.ErrNotEligible)
	}
	for _, how := range []string{"", "agent", "api_key", "OIDC", "gateway"} {
		o.refused(t, id, pdp.Person{Name: "lead@example.com", How: how}, pdp.ErrNotEligible)
	}
	if row := o.store.row(id); row.State != store.Pending || len(row.Votes) != 0 {
		t.Errorf("stored %+v", row)
	}
}

func TestAttackActorOfTheChainApproves(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	need, _ := o.source.Snapshot().Requirement("approvals/deletes")
	ask := &pdp.ApprovalAsk{
		Digest: "d", Requirements: []policy.Requirement{need}, Expires: need.Expires, UseWithin: need.UseWithin, Agent: "sweeper",
		Request: call("sweeper", "delete", "notes/1"), Binding: &pdp.Binding{ActorChain: []string{"planner", "Lead@example.com"}},
	}
	opened, err := o.desk.Open(t.Context(), ask)
	if err != nil || opened.Found != pdp.FoundOpened {
		t.Fatalf("%+v %v", opened, err)
	}
	o.refused(t, opened.ID, lead, pdp.ErrNotEligible)
	// Nor does he once it cannot be read who they are.
	o.store.change(opened.ID, func(a *store.Approval) { a.Shown = []byte(`{"actor_chain":[`) })
	o.refused(t, opened.ID, lead, pdp.ErrNotEligible)
	o.refused(t, opened.ID, oncall, pdp.ErrNotEligible)
	if _, err := o.desk.Cancel(t.Context(), &pdp.Ballot{ApprovalID: opened.ID, Person: oncall}); err != nil {
		t.Errorf("cancel: %v", err)
	}
}

func TestAttackLocalAdminUnderTwoNames(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	req := with(payRent, func(r *pdp.Request) { r.Resource = "bank/board/x" })
	id := o.opened(t, req)
	r := o.yes(t, id, local("bob@example.com"))
	if r.Votes[0].Voter != "local-admin as bob@example.com (unverified)" {
		t.Errorf("recorded as %q", r.Votes[0].Voter)
	}
	for _, name := range []string{"ann@example.com", "controller@example.com"} {
		o.refused(t, id, local(name), pdp.ErrNotEligible)
	}
	o.wantEvents(t, "opened", "vote", "vote!", "vote!")
	for _, name := range []string{"bob@example.com", "BOB@example.com"} {
		if r := o.yes(t, id, local(name)); len(r.Votes) != 1 || r.State != pdp.ApprovalPending {
			t.Errorf("as %s: %+v, want the one vote that there was", name, r.Votes)
		}
	}
	o.yes(t, id, oidc("ann@example.com"))
	if r := o.yes(t, id, controller); r.State != pdp.ApprovalApproved || len(r.Votes) != 3 {
		t.Errorf("%s with %d votes", r.State, len(r.Votes))
	}
}

func TestAttackLocalAdminWhileApproversAreVerified(t *testing.T) {
	t.Parallel()
	verified := false
	o := newOffice(t, 1, func(c *pdp.DeskConfig) { c.Verified = func() bool { return verified } })
	id := o.approved(t, removeNote, local("lead@example.com"))
	verified = true
	// What he said before counts no more.
	o.want(t, byID(removeNote, id), pdp.RequireApproval, pdp.ReasonApprovalPending)
	o.refused(t, id, local("lead@example.com"), pdp.ErrNotEligible)
	if _, err := o.desk.Cancel(t.Context(), &pdp.Ballot{ApprovalID: id, Person: local("lead@example.com")}); !errors.Is(err, pdp.ErrNotEligible) {
		t.Errorf("cancel: %v", err)
	}
	if row := o.store.row(id); len(row.Votes) != 0 || row.State != store.Pending {
		t.Errorf("stored %+v", row)
	}
	o.yes(t, id, lead)
	o.want(t, byID(removeNote, id), pdp.Allow, pdp.ReasonOKApproved)
}

func TestAttackQuorumByOnePersonTwice(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	req := with(payRent, func(r *pdp.Request) { r.Resource = "bank/board/x" })
	id := o.opened(t, req)
	o.yes(t, id, controller)
	o.yes(t, id, oidc("ann@example.com"))
	// The same person by another spelling, which the policy has as a member too,
	// and by another way to log in.
	o.yes(t, id, oidc("ANN@example.com"))
	o.yes(t, id, pdp.Person{Name: "ann@example.com", How: pdp.KnownByMTLS})
	o.yes(t, id, oidc("ann@example.com"))
	o.want(t, req, pdp.RequireApproval, pdp.ReasonApprovalPending)
	if row := o.store.row(id); len(row.Votes) != 2 {
		t.Errorf("%d votes, want 2", len(row.Votes))
	}
	o.yes(t, id, oidc("bob@example.com"))
	o.want(t, req, pdp.Allow, pdp.ReasonOKApproved)
}

// Who is of both groups fills one requirement.
func TestAttackOnePersonFillsTwoRequirements(t *testing.T) {
	t.Parallel()
	req := with(payRent, func(r *pdp.Request) { r.Resource = "bank/large/x" })
	for name, second := range map[string]pdp.Person{"security": oncall, "finance": controller} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, 1)
			id := o.opened(t, req)
			o.yes(t, id, lead)
			o.yes(t, id, lead)
			o.want(t, req, pdp.RequireApproval, pdp.ReasonApprovalPending)
			// Whichever rule the first yes was counted for, the second fills the other.
			r := o.yes(t, id, second)
			if r.State != pdp.ApprovalApproved || r.Requirements[0].Yes != 1 || r.Requirements[1].Yes != 1 {
				t.Errorf("%s, %+v", r.State, r.Requirements)
			}
			o.want(t, req, pdp.Allow, pdp.ReasonOKApproved, "approvals/large", "approvals/pays", "grants/cleaner/pay")
		})
	}
}

// Nobody takes another's word away by the id that it will have.
func TestAttackTakenVoteID(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	id := o.opened(t, with(payRent, func(r *pdp.Request) { r.Resource = "bank/board/x" }))
	probe := newOffice(t, 1, func(c *pdp.DeskConfig) { c.NewID = func() string { return id } })
	probe.no(t, probe.opened(t, with(payRent, func(r *pdp.Request) { r.Resource = "bank/board/x" })), lead)
	votes := probe.store.row(id).Votes
	if _, err := o.desk.Approve(t.Context(), &pdp.Ballot{ApprovalID: id, Person: oidc("ann@example.com"), VoteID: votes[0].ID}); err != nil {
		t.Fatal(err)
	}
	if r := o.no(t, id, lead); r.State != pdp.ApprovalDenied {
		t.Errorf("after the no: %s", r.State)
	}
}

func TestAttackSameVoteSentAgain(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 3)
	req := with(payRent, func(r *pdp.Request) { r.Resource = "bank/board/x" })
	id := o.opened(t, req)
	ballot := &pdp.Ballot{ApprovalID: id, Person: oidc("ann@example.com"), VoteID: "card-7"}
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			if _, err := o.desks[i%3].Approve(context.Background(), ballot); err != nil {
				t.Errorf("vote %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if row := o.store.row(id); len(row.Votes) != 1 || row.State != store.Pending {
		t.Errorf("%d votes, %s", len(row.Votes), row.State)
	}
	var bad *pdp.InvalidError
	other := *ballot
	other.Reason = "no"
	if _, err := o.desk.Deny(t.Context(), &other); !errors.As(err, &bad) || bad.Field != "vote_id" {
		t.Errorf("a no under the id of a yes: %v", err)
	}
	other = *ballot
	other.Person = oidc("bob@example.com")
	if r, err := o.desk.Approve(t.Context(), &other); err != nil || len(r.Votes) != 2 {
		t.Errorf("another's vote under this id: %v, %v", r, err)
	}
	o.yes(t, id, controller)
	o.want(t, req, pdp.Allow, pdp.ReasonOKApproved)
	if r, err := o.desk.Approve(t.Context(), ballot); err != nil || r.State != pdp.ApprovalConsumed {
		t.Errorf("again after its use: %+v %v", r, err)
	}
	o.refused(t, id, lead, pdp.ErrApprovalDecided)
}

// Many say yes at once: each counts, and once.
func TestVotesAtTheSameMoment(t *testing.T) {
	t.Parallel()
	for range 20 {
		o := newOffice(t, 3)
		id := o.opened(t, with(payRent, func(r *pdp.Request) { r.Resource = "bank/board/x" }))
		var wg sync.WaitGroup
		for i, p := range []pdp.Person{oidc("ann@example.com"), oidc("bob@example.com"), controller, local("bob@example.com")} {
			wg.Go(func() {
				// The fourth may come too late, or find that there is no need of it.
				_, err := o.desks[i%3].Approve(context.Background(), &pdp.Ballot{ApprovalID: id, Person: p})
				if err != nil && !errors.Is(err, pdp.ErrApprovalDecided) && !errors.Is(err, pdp.ErrNotEligible) {
					t.Errorf("%s: %v", p, err)
				}
			})
		}
		wg.Wait()
		if row := o.store.row(id); row.State != store.Approved || len(row.Votes) != 3 {
			t.Fatalf("%s with %d votes", row.State, len(row.Votes))
		}
	}
}
