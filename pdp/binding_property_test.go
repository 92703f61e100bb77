package pdp_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf16"

	"pgregory.net/rapid"

	"github.com/kelpie-authz/kelpie/pdp"
)

// bindingPolicy lets every change of a call that is approved be a call that could be
// allowed, if somebody said yes to it: what stops it is that nobody did.
const bindingPolicy = `
scopes:
  pay: {actions: [pay, refund], resources: ["bank/**"]}
networks:
  office: {cidrs: [10.0.0.0/8]}
agents:
  cleaner: {owner: team@example.com, scopes: [pay], networks: [office]}
  sweeper: {owner: team@example.com, scopes: [pay], networks: [office]}
approvers:
  finance: {members: [controller@example.com]}
approvals:
  pays:
    match: {actions: [pay, refund], when: 'context.channel == context.channel && context.ticket == context.ticket'}
    approvers: [finance]
limits:
  calls: {rate: 600/minute, burst: 600, per: [agent]}
`

// jsonValue draws what JSON can hold, so deep at most.
func jsonValue(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		kinds := 7
		if depth == 0 {
			kinds = 5
		}
		switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
		case 0:
			return jsonTexts().Draw(t, "text")
		case 1:
			return float64(rapid.IntRange(-1_000_000, 1_000_000).Draw(t, "integer"))
		case 2:
			return rapid.SampledFrom([]float64{0, 0.5, -0.125, 1e-7, 1e21, 5e-324, 1e308, 333333333.3333333}).Draw(t, "number")
		case 3:
			return rapid.Bool().Draw(t, "bool")
		case 4:
			return nil
		case 5:
			return rapid.SliceOfN(jsonValue(depth-1), 0, 3).Draw(t, "list")
		default:
			return jsonObject(depth-1, 0).Draw(t, "object")
		}
	})
}

// jsonObject draws members; some have names of secrets, whose values approvers are not
// shown.
func jsonObject(depth, least int) *rapid.Generator[any] {
	name := rapid.OneOf(rapid.SampledFrom([]string{"amount", "to", "password", "card", "iban", "", "é", "e\u0301", `a"b\c`}), rapid.StringN(0, 4, 16).Filter(printable))
	return rapid.Map(rapid.MapOfN(name, jsonValue(depth), least, 4), func(m map[string]any) any { return m })
}

// printable is what a name in the context has to be.
func printable(s string) bool { return !strings.ContainsFunc(s, unicode.IsControl) }

// jsonTexts draws some that are looked at in other ways by what shows them: long ones,
// account numbers, marks that cannot be seen.
func jsonTexts() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.StringN(0, 8, 32),
		rapid.SampledFrom([]string{strings.Repeat("x", 2000), "4111111111111111", "DE89370400440532013000", "pay\u202e", "a/b", "true", "null", "1"}),
	)
}

// place is a way into a value: names and numbers.
type place []any

// places are all there are in a value, the value itself first.
func places(v any) []place {
	all := []place{{}}
	inner := func(key, v any) {
		for _, p := range places(v) {
			all = append(all, append(place{key}, p...))
		}
	}
	switch v := v.(type) {
	case []any:
		for i, e := range v {
			inner(i, e)
		}
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			inner(name, v[name])
		}
	}
	return all
}

// changed is a copy of a value with what f makes of what is at a place.
func changed(v any, at place, f func(any) any) any {
	if len(at) == 0 {
		return f(v)
	}
	switch v := v.(type) {
	case []any:
		i, _ := at[0].(int)
		out := slices.Clone(v)
		out[i] = changed(v[i], at[1:], f)
		return out
	case map[string]any:
		name, _ := at[0].(string)
		out := maps.Clone(v)
		out[name] = changed(v[name], at[1:], f)
		return out
	}
	panic("a place that is not there")
}

// another draws a value that is not v but near it.
func another(t *rapid.T, v any) any {
	var near []any
	switch v := v.(type) {
	case string:
		near = []any{v + " ", v + "\u200b", v + "\x00", strings.ToUpper(v) + "X", "_" + v, []any{v}, map[string]any{v: nil}}
		if v != "" {
			cut := []rune(v)
			near = append(near, string(cut[:len(cut)-1]), nil)
		}
	case float64:
		near = []any{math.Nextafter(v, 0), v + 1, -v - 1, strconv.FormatFloat(v, 'g', -1, 64), v != 0, []any{v}}
	case bool:
		near = []any{!v, strconv.FormatBool(v), float64(0), float64(1), nil}
	case nil:
		near = []any{"null", "", false, float64(0), []any{}, map[string]any{}, []any{nil}}
	case []any:
		near = []any{append(slices.Clone(v), nil), append([]any{map[string]any{}}, v...), map[string]any{"0": v}, nil}
		if len(v) > 0 {
			near = append(near, slices.Clone(v[1:]), slices.Clone(v[:len(v)-1]))
		}
		turned := slices.Clone(v)
		slices.Reverse(turned)
		near = append(near, turned)
	case map[string]any:
		more := maps.Clone(v)
		more["another"] = true
		near = []any{more}
		for _, name := range slices.Sorted(maps.Keys(v)) {
			less, renamed := maps.Clone(v), maps.Clone(v)
			delete(less, name)
			delete(renamed, name)
			renamed[name+"_"] = v[name]
			near = append(near, less, renamed)
		}
	}
	near = append(near, jsonValue(1).Draw(t, "anything"))
	return rapid.SampledFrom(slices.DeleteFunc(near, func(n any) bool { return reflect.DeepEqual(n, v) })).Draw(t, "another")
}

// spelling writes a value as JSON in one of the ways that there are.
func spelling(t *rapid.T, v any) string {
	blank := func() string { return rapid.SampledFrom([]string{"", "", " ", "\n\t", "\r\n"}).Draw(t, "blank") }
	switch v := v.(type) {
	case string:
		return quote(t, v)
	case float64:
		ways := []string{strconv.FormatFloat(v, 'e', -1, 64), strings.ToUpper(strconv.FormatFloat(v, 'e', -1, 64))}
		if v == math.Trunc(v) && math.Abs(v) < 1e7 {
			ways = append(ways, fmt.Sprintf("%.0f", v), fmt.Sprintf("%.1f", v), fmt.Sprintf("%.3f", v), fmt.Sprintf("%.0fE+0", v))
			if v != 0 {
				ways = append(ways, fmt.Sprintf("%.0f0e-1", v))
			}
		}
		return rapid.SampledFrom(ways).Draw(t, "number")
	case []any:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = blank() + spelling(t, e) + blank()
		}
		return "[" + strings.Join(parts, ",") + "]"
	case map[string]any:
		var parts []string
		for _, name := range slices.Sorted(maps.Keys(v)) {
			parts = append(parts, blank()+quote(t, name)+blank()+":"+blank()+spelling(t, v[name])+blank())
		}
		if len(parts) == 0 {
			return "{" + blank() + "}"
		}
		return "{" + strings.Join(rapid.Permutation(parts).Draw(t, "order"), ",") + "}"
	case bool:
		return strconv.FormatBool(v)
	default:
		return "null"
	}
}

// quote escapes what has to be, and other characters as it is drawn.
func quote(t *rapid.T, s string) string {
	every := rapid.IntRange(1, 4).Draw(t, "escaped")
	var out strings.Builder
	out.WriteByte('"')
	n := 0
	for _, r := range s {
		switch n++; {
		case r == '/' && n%every == 0:
			out.WriteString(`\/`)
		case (r == '"' || r == '\\') && n%every == 0:
			out.WriteString(`\` + string(r))
		case r < 0x20 || r == '"' || r == '\\' || n%every == 0 && r <= 0xffff:
			fmt.Fprintf(&out, rapid.SampledFrom([]string{`\u%04x`, `\u%04X`}).Draw(t, "case"), r)
		case n%every == 0:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&out, `\u%04x\u%04x`, high, low)
		default:
			out.WriteRune(r)
		}
	}
	out.WriteByte('"')
	return out.String()
}

// drawnCall is a call as a person means it; nil parameters: there are none.
type drawnCall struct {
	req        pdp.Request
	parameters any
}

// sent writes it in one of the ways that are the same call: what is not bound is
// drawn anew.
func (c *drawnCall) sent(t *rapid.T) *pdp.Request {
	req := c.req
	if c.parameters != nil {
		req.ParametersJSON = []byte(spelling(t, c.parameters))
	}
	req.Context = maps.Clone(req.Context)
	req.Context["note"] = rapid.String().Draw(t, "a member that no rule reads")
	req.SourceIP = fmt.Sprintf("10.1.2.%d", rapid.IntRange(1, 254).Draw(t, "address"))
	req.RequestID, req.SessionID, req.RunID = word.Draw(t, "request"), word.Draw(t, "session"), word.Draw(t, "run")
	return &req
}

var word = rapid.StringMatching(`[a-zA-Z0-9][a-zA-Z0-9._-]{0,11}`)

func drawCall(t *rapid.T) *drawnCall {
	c := &drawnCall{req: pdp.Request{
		Agent: "cleaner", Action: "pay", Resource: "bank/" + rapid.StringMatching(`[a-z0-9]{1,6}(/[a-z]{1,4})?`).Draw(t, "resource"),
		Cost: rapid.SampledFrom([]float64{0, 1, 2.5, 1000}).Draw(t, "cost"),
		Context: map[string]any{
			"channel": rapid.SampledFrom([]any{"email", "", true, 1.0, nil}).Draw(t, "channel"), "ticket": jsonValue(2).Draw(t, "ticket"),
		},
	}}
	if rapid.Bool().Draw(t, "with a subject and a tool") {
		c.req.Subject = word.Draw(t, "subject") + "@example.com"
		c.req.Tool = pdp.Tool{Server: word.Draw(t, "server"), Name: word.Draw(t, "tool")}
	}
	if rapid.IntRange(0, 9).Draw(t, "with parameters") > 0 {
		c.parameters = jsonObject(3, 1).Draw(t, "parameters")
	}
	return c
}

// withoutMember is the change after which the rule cannot be judged.
const withoutMember = "no such member of the context"

// boundChanges change one bound field each.
var boundChanges = map[string]func(t *rapid.T, c *drawnCall){
	"agent":       func(_ *rapid.T, c *drawnCall) { c.req.Agent = "sweeper" },
	"subject":     func(t *rapid.T, c *drawnCall) { c.req.Subject += word.Draw(t, "more") },
	"action":      func(_ *rapid.T, c *drawnCall) { c.req.Action = "refund" },
	"resource":    func(t *rapid.T, c *drawnCall) { c.req.Resource += word.Draw(t, "more") },
	"below":       func(t *rapid.T, c *drawnCall) { c.req.Resource += "/" + word.Draw(t, "more") },
	"tool server": func(t *rapid.T, c *drawnCall) { c.req.Tool.Server += word.Draw(t, "more") },
	"tool name":   func(t *rapid.T, c *drawnCall) { c.req.Tool.Name += word.Draw(t, "more") },
	"cost": func(t *rapid.T, c *drawnCall) {
		c.req.Cost += rapid.SampledFrom([]float64{1e-9, 0.5, 1, 1e6}).Draw(t, "more")
	},
	"a member of the context": func(t *rapid.T, c *drawnCall) {
		name := rapid.SampledFrom([]string{"channel", "ticket"}).Draw(t, "member")
		at := rapid.SampledFrom(places(c.req.Context[name])).Draw(t, "place")
		c.req.Context = maps.Clone(c.req.Context)
		c.req.Context[name] = changed(c.req.Context[name], at, func(v any) any { return another(t, v) })
	},
	withoutMember: func(t *rapid.T, c *drawnCall) {
		c.req.Context = maps.Clone(c.req.Context)
		delete(c.req.Context, rapid.SampledFrom([]string{"channel", "ticket"}).Draw(t, "member"))
	},
	"the parameters, at any depth": func(t *rapid.T, c *drawnCall) {
		if c.parameters == nil {
			c.parameters = jsonObject(2, 0).Draw(t, "parameters")
			return
		}
		all := places(c.parameters)
		leaves := slices.DeleteFunc(slices.Clone(all), func(p place) bool {
			return slices.ContainsFunc(all, func(q place) bool { return len(q) > len(p) && reflect.DeepEqual(q[:len(p)], p) })
		})
		// Leaves twice as often as what holds them.
		at := rapid.SampledFrom(slices.Concat(all, leaves, leaves)).Draw(t, "place")
		if len(at) == 0 {
			members, _ := c.parameters.(map[string]any)
			more := maps.Clone(members)
			more["another"] = jsonValue(1).Draw(t, "one more")
			if _, had := members["another"]; had {
				delete(more, "another")
			}
			c.parameters = more
			return
		}
		c.parameters = changed(c.parameters, at, func(v any) any { return another(t, v) })
	},
	"the parameters, all": func(t *rapid.T, c *drawnCall) {
		if c.parameters == nil {
			c.parameters = map[string]any{}
		} else {
			c.parameters = nil
		}
		if c.parameters == nil && rapid.Bool().Draw(t, "not seen") {
			c.req.ParametersState = rapid.SampledFrom([]pdp.ParametersState{pdp.ParametersTruncated, pdp.ParametersNotSeen}).Draw(t, "state")
		}
	},
}

// asked is the answer; a call that is malformed has none, and is not allowed.
func (o *office) asked(t *rapid.T, req *pdp.Request) (dec pdp.Decision, malformed bool) {
	var bad *pdp.InvalidError
	err := o.svc.Authorize(context.Background(), req, &dec)
	if err != nil && !errors.As(err, &bad) {
		t.Fatalf("authorize: %v", err)
	}
	return dec, err != nil
}

// A yes is good for the call that was approved, however it is written, once, and for
// no call that differs from it in anything that is bound, with and without the id.
func TestAYesIsForNoOtherCall(t *testing.T) {
	t.Parallel()
	snap := compile(t, bindingPolicy)
	kinds := slices.Sorted(maps.Keys(boundChanges))
	changes, malformed := 0, 0
	rapid.Check(t, func(r *rapid.T) {
		o := newOffice(t, 1)
		o.source.p.Store(snap)
		call := drawCall(r)
		first := call.sent(r)
		dec, bad := o.asked(r, first)
		if bad || dec.Reason != pdp.ReasonApprovalRequired {
			r.Fatalf("%s: %v %s, malformed %v", first.ParametersJSON, dec.Verdict, dec.Reason, bad)
		}
		id := dec.Approval.ID
		if _, err := o.desk.Approve(context.Background(), &pdp.Ballot{ApprovalID: id, Person: controller}); err != nil {
			r.Fatalf("approve: %v", err)
		}
		// Each change by the id, and some as a call of their own: an agent may ask humans
		// for a few things at once only.
		alone := rapid.SliceOfNDistinct(rapid.SampledFrom(kinds), 4, 4, rapid.ID).Draw(r, "alone")
		for _, kind := range kinds {
			other := *call
			boundChanges[kind](r, &other)
			for _, approvalID := range []string{id, ""} {
				if approvalID == "" && !slices.Contains(alone, kind) {
					continue
				}
				req := byID(other.sent(r), approvalID)
				changes++
				dec, bad := o.asked(r, req)
				want := pdp.ReasonApprovalRequired
				switch {
				case kind == withoutMember:
					want = pdp.ReasonConditionFailed
				case req.ParametersState != pdp.ParametersUnspecified:
					want = pdp.ReasonParametersUnavailable
				case approvalID != "":
					want = pdp.ReasonApprovalBindingMismatch
				}
				switch {
				case bad:
					malformed++
				case dec.Reason == pdp.ReasonApprovalPending && approvalID == "": // Another change made the same call of it.
				case dec.Verdict == pdp.Allow || dec.Reason != want:
					r.Fatalf("changed %s: %v %s, want %s\napproved %+v %s\nsent %+v %s", kind, dec.Verdict, dec.Reason, want, first, first.ParametersJSON, req, req.ParametersJSON)
				}
			}
		}
		o.clock.advance(time.Duration(rapid.IntRange(0, 59).Draw(r, "seconds")) * time.Second)
		named := rapid.SampledFrom([]string{id, ""}).Draw(r, "named")
		same := byID(call.sent(r), named)
		if dec, bad := o.asked(r, same); bad || dec.Verdict != pdp.Allow || dec.Reason != pdp.ReasonOKApproved {
			r.Fatalf("the same call: %v %s, malformed %v\napproved %+v %s\nsent %+v %s", dec.Verdict, dec.Reason, bad, first, first.ParametersJSON, same, same.ParametersJSON)
		}
		for _, approvalID := range []string{id, ""} {
			if dec, _ := o.asked(r, byID(call.sent(r), approvalID)); dec.Verdict == pdp.Allow {
				r.Fatalf("the same call a second time: %s", dec.Reason)
			}
		}
	})
	t.Logf("%d changed calls, %d of them malformed", changes, malformed)
	if malformed > changes/20 {
		t.Errorf("%d of %d changed calls were malformed: they prove little", malformed, changes)
	}
}
