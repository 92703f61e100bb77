package extauthz

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kelpie-authz/kelpie/pdp"
)

// encoder writes allowing answers as the wire has them. Made of messages and
// marshalled, such an answer cost as much as its decision; denials are rarer
// and are made of messages. Its buffers are reused; its zero value is ready.
//
// The answer is a CheckResponse of nothing but unknown fields, which protobuf
// writes as they stand. Only an ALLOW may come so: whoever looked at the message
// instead of the wire would see no status, and that is OK as well.
type encoder struct {
	ok, meta         []byte
	policies, states []byte
	rules            []byte
}

// Numbers of the fields, of envoy/service/auth/v3/external_auth.proto,
// envoy/config/core/v3/base.proto and google/protobuf/struct.proto.
const (
	statusField   protowire.Number = 1 // CheckResponse
	okField       protowire.Number = 3
	metadataField protowire.Number = 4

	upstreamField protowire.Number = 2 // OkHttpResponse
	removeField   protowire.Number = 5
	responseField protowire.Number = 6

	headerField protowire.Number = 1 // HeaderValueOption
	actionField protowire.Number = 3

	keyField   protowire.Number = 1 // HeaderValue, and an entry of a map
	valueField protowire.Number = 2

	membersField protowire.Number = 1 // Struct
	stringField  protowire.Number = 3 // Value
	listField    protowire.Number = 6
	itemsField   protowire.Number = 1 // ListValue
)

// allowed is the answer that lets the request through, with the id of the
// decision for the server and for the client, and without headers that the client
// sent and that are ours, or would make several requests of the one that was judged.
func (e *encoder) allowed(d *pdp.HTTPDecision, inbound map[string]string) *authv3.CheckResponse {
	const overwrite, also = corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD, corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD
	e.ok = appendHeader(e.ok[:0], upstreamField, decisionIDHeader, d.ID, overwrite)
	for name := range inbound {
		if isOwn(name) && name != decisionIDHeader || repeats(name) {
			e.ok = appendText(e.ok, removeField, name)
		}
	}
	e.ok = appendHeader(e.ok, responseField, decisionIDHeader, d.ID, overwrite)
	if len(d.Limits) > 0 {
		e.policies, e.states = appendLimits(e.policies[:0], e.states[:0], d.Limits)
		e.ok = appendHeader(e.ok, responseField, "ratelimit-policy", e.policies, also)
		e.ok = appendHeader(e.ok, responseField, "ratelimit", e.states, also)
	}
	e.metadata(d)
	size := 2 + sizeBytes(len(e.ok)) + sizeBytes(len(e.meta))
	wire := make([]byte, 0, size)
	wire = appendText(wire, statusField, "") // a status that is there, and OK
	wire = appendText(wire, okField, e.ok)
	wire = appendText(wire, metadataField, e.meta)
	out := new(authv3.CheckResponse)
	out.ProtoReflect().SetUnknown(wire)
	return out
}

// metadata writes what metadata makes.
func (e *encoder) metadata(d *pdp.HTTPDecision) {
	e.meta = e.meta[:0]
	for _, one := range texts(d) {
		if one.text == "" {
			continue
		}
		text := bounded(one.text)
		e.meta = appendMember(e.meta, one.name, sizeBytes(len(text)))
		e.meta = appendText(e.meta, stringField, text)
	}
	e.rules = e.rules[:0]
	for _, rule := range someRules(d.Matched) {
		text := bounded(rule)
		e.rules = protowire.AppendTag(e.rules, itemsField, protowire.BytesType)
		e.rules = protowire.AppendVarint(e.rules, uint64(sizeBytes(len(text)))) //nolint:gosec // A length is never negative.
		e.rules = appendText(e.rules, stringField, text)
	}
	e.meta = appendMember(e.meta, rulesMember, sizeBytes(len(e.rules)))
	e.meta = appendText(e.meta, listField, e.rules)
}

// appendMember begins an entry of a Struct whose Value has a size.
func appendMember(b []byte, name string, size int) []byte {
	b = appendLength(b, membersField, sizeBytes(len(name))+sizeBytes(size))
	b = appendText(b, keyField, name)
	return appendLength(b, valueField, size)
}

func appendHeader[T string | []byte](
	b []byte, field protowire.Number, name string, value T, action corev3.HeaderValueOption_HeaderAppendAction,
) []byte {
	header := sizeBytes(len(name)) + sizeBytes(len(value))
	option := sizeBytes(header)
	if action != 0 {
		option += 2
	}
	b = appendLength(b, field, option)
	b = appendLength(b, headerField, header)
	b = appendText(b, keyField, name)
	b = appendText(b, valueField, value)
	if action != 0 {
		b = protowire.AppendTag(b, actionField, protowire.VarintType)
		b = protowire.AppendVarint(b, uint64(action)) //nolint:gosec // A small number of an enum.
	}
	return b
}

func appendText[T string | []byte](b []byte, field protowire.Number, text T) []byte {
	b = appendLength(b, field, len(text))
	return append(b, text...)
}

// appendLength begins a field of so many bytes. All fields here have numbers
// below 16, and so tags of one byte.
func appendLength(b []byte, field protowire.Number, size int) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendVarint(b, uint64(size)) //nolint:gosec // A length is never negative.
}

// sizeBytes is what a field of so many bytes takes with its tag.
func sizeBytes(n int) int { return 1 + protowire.SizeBytes(n) }
