package extauthz

import (
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/kelpie-authz/kelpie/pdp"
)

// Headers of ours. Those that the client sends are removed from the request.
const (
	ownPrefix        = "x-kelpie-"
	decisionIDHeader = "x-kelpie-decision-id"
)

// allowance is an allowing answer in one piece of memory.
type allowance struct {
	response authv3.CheckResponse
	status   rpcstatus.Status
	body     authv3.CheckResponse_OkResponse
	ok       authv3.OkHttpResponse
	room     [3]header
	list     [3]*corev3.HeaderValueOption
	metadata metadata
}

// allowed is the answer that lets the request through, with the id of the
// decision for the server and for the client. The status is set though it is
// OK: an answer without one would be OK as well.
func allowed(d *pdp.HTTPDecision, inbound map[string]string) *authv3.CheckResponse {
	a := new(allowance)
	h := headers{room: a.room[:], list: a.list[:0]}
	h.set(decisionIDHeader, d.ID)
	addLimits(&h, d.Limits)
	a.ok.Headers = h.list[:1:1]
	a.ok.ResponseHeadersToAdd = h.list
	for name := range inbound {
		if isOwn(name) && name != decisionIDHeader {
			a.ok.HeadersToRemove = append(a.ok.HeadersToRemove, name)
		}
	}
	a.body.OkResponse = &a.ok
	a.response.Status = &a.status
	a.response.HttpResponse = &a.body
	a.response.DynamicMetadata = a.metadata.of(d)
	return &a.response
}

// isOwn tells a header of ours, also by the name that a server makes of it
// which takes _ for -.
func isOwn(name string) bool {
	if len(name) < len(ownPrefix) || name[0]|0x20 != 'x' {
		return false
	}
	for i := 1; i < len(ownPrefix); i++ {
		c := name[i]
		switch {
		case c == '_':
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

// header is one header of an answer.
type header struct {
	option corev3.HeaderValueOption
	value  corev3.HeaderValue
}

// headers is a list of headers in room that is there already; what does not
// fit in gets its own.
type headers struct {
	room []header
	list []*corev3.HeaderValueOption
}

// set overwrites what is there under the name.
func (h *headers) set(name, value string) {
	h.add(name, value, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD)
}

// also adds to what is there: the header is a list.
func (h *headers) also(name, value string) {
	h.add(name, value, corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD)
}

func (h *headers) add(name, value string, action corev3.HeaderValueOption_HeaderAppendAction) {
	var one *header
	if len(h.room) > 0 {
		one, h.room = &h.room[0], h.room[1:]
	} else {
		one = new(header)
	}
	one.value.Key, one.value.Value = name, value
	one.option.Header, one.option.AppendAction = &one.value, action
	h.list = append(h.list, &one.option)
}

// addLimits adds RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-10):
// q is what a limit gives, r what is left, t when it is full again, in seconds.
func addLimits(h *headers, limits []pdp.LimitStatus) {
	if len(limits) == 0 {
		return
	}
	policies, states := make([]byte, 0, 64), make([]byte, 0, 64)
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
	h.also("ratelimit-policy", string(policies))
	h.also("ratelimit", string(states))
}

// appendName writes a limit's name, which holds nothing that a string of a
// structured field would have to escape.
func appendName(b []byte, name string) []byte {
	b = append(b, '"')
	b = append(b, name...)
	return append(b, '"')
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

// fewRules is how many rules most answers have.
const fewRules = 2

// metadata is the dynamic metadata of an answer, in one piece of memory. It has
// eight members, since a map of more costs twice as much to make; what is not
// in it is in the record of the decision.
type metadata struct {
	all    structpb.Struct
	values [8]structpb.Value
	texts  [8]structpb.Value_StringValue
	n      int
	list   structpb.ListValue
	rules  structpb.Value_ListValue
	ids    [fewRules]structpb.Value
	names  [fewRules]structpb.Value_StringValue
	few    [fewRules]*structpb.Value
}

// of says what was decided, for access logs and later filters.
func (m *metadata) of(d *pdp.HTTPDecision) *structpb.Struct {
	m.all.Fields = make(map[string]*structpb.Value, len(m.values))
	m.text("decision", d.Verdict.String())
	m.text("reason", string(d.Reason))
	m.text("decision_id", d.ID)
	m.text("agent", d.Agent)
	m.text("action", d.Action)
	m.text("resource", d.Resource)
	m.text("route", d.Route)
	m.list.Values = m.few[:0]
	for i, rule := range d.Matched[:min(len(d.Matched), maxMetadataRules)] {
		var v *structpb.Value
		var name *structpb.Value_StringValue
		if i < fewRules {
			v, name = &m.ids[i], &m.names[i]
		} else {
			v, name = new(structpb.Value), new(structpb.Value_StringValue)
		}
		name.StringValue = bounded(rule)
		v.Kind = name
		m.list.Values = append(m.list.Values, v)
	}
	m.rules.ListValue = &m.list
	matched := &m.values[m.n]
	matched.Kind = &m.rules
	m.all.Fields["matched"] = matched
	return &m.all
}

func (m *metadata) text(name, text string) {
	if text == "" {
		return
	}
	v, kind := &m.values[m.n], &m.texts[m.n]
	m.n++
	kind.StringValue = bounded(text)
	v.Kind = kind
	m.all.Fields[name] = v
}

// bounded cuts a text, and leaves it UTF-8.
func bounded(text string) string {
	if len(text) <= maxMetadataText {
		return text
	}
	return strings.ToValidUTF8(text[:maxMetadataText], "") + "..."
}
