package extauthz

import (
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/kelpie-authz/kelpie/pdp"
)

// Headers of ours. Those that the client sends are removed from the request.
const (
	ownPrefix        = "x-kelpie-"
	decisionIDHeader = "x-kelpie-decision-id"
)

// isOwn tells a header of ours, also by the name that a server makes of it
// which takes _ for -.
func isOwn(name string) bool {
	if len(name) < len(ownPrefix) || name[0]|0x20 != 'x' {
		return false
	}
	for i := 1; i < len(ownPrefix); i++ {
		c := name[i]
		switch {
		case c == '_' || c == '.':
			c = '-'
		case 'A' <= c && c <= 'Z':
			c |= 0x20
		}
		if c != ownPrefix[i] {
			return false
		}
	}
	return true
}

// headers is a list of headers of a denying answer.
type headers []*corev3.HeaderValueOption

// set overwrites what is there under the name.
func (h *headers) set(name, value string) {
	h.add(name, value, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD)
}

func (h *headers) add(name, value string, action corev3.HeaderValueOption_HeaderAppendAction) {
	*h = append(*h, &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: value}, AppendAction: action})
}

// appendLimits writes the values of RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-10):
// q is what a limit gives, r what is left, t when it is full again, in seconds.
func appendLimits(policies, states []byte, limits []pdp.LimitStatus) (newPolicies, newStates []byte) {
	for i := range limits {
		l := &limits[i]
		if i > 0 {
			policies, states = append(policies, ", "...), append(states, ", "...)
		}
		policies = appendName(policies, l.Name)
		policies = append(policies, ";q="...)
		policies = strconv.AppendInt(policies, max(l.Limit, 0), 10)
		states = appendName(states, l.Name)
		states = append(states, ";r="...)
		states = strconv.AppendInt(states, max(l.Remaining, 0), 10)
		states = append(states, ";t="...)
		states = strconv.AppendInt(states, seconds(l.Reset), 10)
	}
	return policies, states
}

// appendName writes a limit's name, which holds nothing that a string of a
// structured field would have to escape.
func appendName(b []byte, name string) []byte {
	b = append(b, '"')
	b = append(b, name...)
	return append(b, '"')
}

// repeats tells the headers by which a client that Envoy takes for an internal
// one has a request sent many times, or elsewhere, on one decision.
func repeats(name string) bool {
	rest, envoy := strings.CutPrefix(name, "x-envoy-")
	if !envoy {
		return false
	}
	switch {
	case strings.HasPrefix(rest, "retr"), strings.HasPrefix(rest, "hedge-"), rest == "max-retries", rest == "original-dst-host":
		return true
	default:
		return false
	}
}

// seconds is a span in whole seconds, never shorter.
func seconds(d time.Duration) int64 {
	return int64((max(d, 0) + time.Second - 1) / time.Second)
}

// Bounds of what goes into access logs.
const (
	maxMetadataText  = 512
	maxMetadataRules = 16
)

// metadata is what access logs and later filters get: eight members at most,
// the decision's id being the key to all the rest.
func metadata(d *pdp.HTTPDecision) *structpb.Struct {
	fields := map[string]*structpb.Value{}
	for _, one := range texts(d) {
		if one.text != "" {
			fields[one.name] = structpb.NewStringValue(bounded(one.text))
		}
	}
	rules := &structpb.ListValue{}
	for _, rule := range someRules(d.Matched) {
		rules.Values = append(rules.Values, structpb.NewStringValue(bounded(rule)))
	}
	fields[rulesMember] = structpb.NewListValue(rules)
	return &structpb.Struct{Fields: fields}
}

// rulesMember holds the rules that made the decision.
const rulesMember = "matched"

func someRules(matched []string) []string { return matched[:min(len(matched), maxMetadataRules)] }

// member is one text of the metadata; an empty one is left out.
type member struct{ name, text string }

func texts(d *pdp.HTTPDecision) [7]member {
	return [...]member{
		{"decision", d.Verdict.String()},
		{"reason", string(d.Reason)},
		{"decision_id", d.ID},
		{"agent", d.Agent},
		{"action", d.Action},
		{"resource", d.Resource},
		{"route", d.Route},
	}
}

// bounded cuts a text, and leaves it UTF-8.
func bounded(text string) string {
	if len(text) <= maxMetadataText {
		return text
	}
	return strings.ToValidUTF8(text[:maxMetadataText], "") + "..."
}
