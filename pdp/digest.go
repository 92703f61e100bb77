package pdp

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/kelpie-authz/kelpie/policy"
)

// digestDomain keeps the digests of approvals apart from every other SHA-256.
// A change of the fields below needs a new version here.
const digestDomain = "kelpie-approval-v1\x00"

// Binding is everything that one yes is good for. Two calls with equal
// digests are the same call to whoever approves.
//
// The request's id, time and source address are left out: a call that is
// repeated after the yes has others, and the address is checked again then.
type Binding struct {
	Agent   string
	Subject string
	// ActorChain are the agents between the agent and the subject, nearest first.
	ActorChain []string
	Action     string
	Resource   string
	ToolServer string
	ToolName   string
	// ToolDefinitionDigest is of the definition that the agent saw.
	ToolDefinitionDigest string
	// HTTPMethod, HTTPHost and HTTPRoute are of the HTTP request that the call was made
	// of, the host as [policy.NormalHost] has it: an action and a resource can stand
	// for several. Empty if it was made of none.
	HTTPMethod, HTTPHost, HTTPRoute string
	// ParametersState and ParametersRaw are the parameters as they were seen.
	// Raw must have passed policy.ParseParameters. What was not seen is bound
	// as not seen, so that a yes to unseen parameters is none to seen ones.
	ParametersState policy.ParametersState
	ParametersRaw   []byte
	// Cost as the request gives it; 0 if absent.
	Cost float64
	// Context holds the members that a matching rule reads, and no others.
	Context map[string]any
	// Rules are the approval rules to be met, sorted by rule.
	Rules []BoundRule
}

// BoundRule is one approval rule and the version that the humans see.
type BoundRule struct {
	Rule    string
	Version string
}

// Digest returns the hex SHA-256 over a domain prefix and the binding as
// canonical JSON (RFC 8785), so that key order, whitespace and the spelling of
// numbers and strings make no difference and everything else does.
//
// It errs on what JSON cannot say: invalid UTF-8, NaN, infinities.
func (b *Binding) Digest() (string, error) {
	raw, err := b.appendJSON(make([]byte, 0, 512+len(b.ParametersRaw)))
	if err != nil {
		return "", fmt.Errorf("approval digest: %w", err)
	}
	value := jsontext.Value(raw)
	if err := value.Canonicalize(); err != nil {
		return "", fmt.Errorf("approval digest: %w", err)
	}
	h := sha256.New()
	_, _ = h.Write([]byte(digestDomain)) // A hash never fails.
	_, _ = h.Write(value)
	return hex.EncodeToString(h.Sum(nil)), nil
}

// objectWriter appends JSON and keeps the first error, so that the fields can
// be listed without an if for each.
type objectWriter struct {
	buf []byte
	err error
}

func (w *objectWriter) raw(s string) { w.buf = append(w.buf, s...) }

func (w *objectWriter) string(s string) {
	if w.err == nil {
		w.buf, w.err = jsontext.AppendQuote(w.buf, s)
	}
}

func (w *objectWriter) member(name, s string) {
	w.raw(name)
	w.string(s)
}

func (w *objectWriter) number(f float64) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		if w.err == nil {
			w.err = fmt.Errorf("%v is not a JSON number", f)
		}
		return
	}
	w.buf = strconv.AppendFloat(w.buf, f, 'g', -1, 64)
}

func (b *Binding) appendJSON(buf []byte) ([]byte, error) {
	w := objectWriter{buf: buf}
	w.member(`{"agent":`, b.Agent)
	w.member(`,"subject":`, b.Subject)
	w.raw(`,"actor_chain":[`)
	for i, actor := range b.ActorChain {
		w.separate(i)
		w.string(actor)
	}
	w.member(`],"action":`, b.Action)
	w.member(`,"resource":`, b.Resource)
	w.member(`,"tool":{"server":`, b.ToolServer)
	w.member(`,"name":`, b.ToolName)
	w.member(`,"definition_digest":`, b.ToolDefinitionDigest)
	w.raw(`},`)
	if b.HTTPMethod != "" || b.HTTPHost != "" || b.HTTPRoute != "" {
		w.member(`"http":{"method":`, b.HTTPMethod)
		w.member(`,"host":`, b.HTTPHost)
		w.member(`,"route":`, b.HTTPRoute)
		w.raw(`},`)
	}
	w.raw(`"parameters":`)
	w.parameters(b)
	w.raw(`,"cost":`)
	w.number(b.Cost)
	w.raw(`,"context":`)
	w.object(b.Context)
	w.raw(`,"rules":[`)
	for i, rule := range b.Rules {
		w.separate(i)
		w.member(`[`, rule.Rule)
		w.member(`,`, rule.Version)
		w.raw(`]`)
	}
	w.raw(`]}`)
	return w.buf, w.err
}

func (w *objectWriter) separate(i int) {
	if i > 0 {
		w.raw(`,`)
	}
}

// parameters writes an object if they were seen, and otherwise a string or
// null, which no parameters can be.
func (w *objectWriter) parameters(b *Binding) {
	switch b.ParametersState {
	case policy.ParametersAbsent:
		w.raw(`null`)
	case policy.ParametersComplete:
		// Checked by itself first, so that no bytes can close the member and
		// go on to write another one.
		if raw := jsontext.Value(b.ParametersRaw); w.err == nil && (raw.Kind() != '{' || !raw.IsValid()) {
			w.err = errors.New("parameters are not one JSON object with unique names")
		}
		w.buf = append(w.buf, b.ParametersRaw...)
	case policy.ParametersTruncated:
		w.raw(`"truncated"`)
	case policy.ParametersNotSeen:
		w.raw(`"not_seen"`)
	default:
		if w.err == nil {
			w.err = fmt.Errorf("unknown parameters state %d", b.ParametersState)
		}
	}
}

// object writes members in any order: the canonical form sorts them.
func (w *objectWriter) object(members map[string]any) {
	w.raw(`{`)
	first := true
	for name, v := range members {
		if !first {
			w.raw(`,`)
		}
		first = false
		w.string(name)
		w.raw(`:`)
		w.value(v)
	}
	w.raw(`}`)
}

// value writes what google.protobuf.Struct can hold.
func (w *objectWriter) value(v any) {
	switch v := v.(type) {
	case nil:
		w.raw(`null`)
	case bool:
		w.buf = strconv.AppendBool(w.buf, v)
	case float64:
		w.number(v)
	case string:
		w.string(v)
	case []any:
		w.raw(`[`)
		for i, e := range v {
			w.separate(i)
			w.value(e)
		}
		w.raw(`]`)
	case map[string]any:
		w.object(v)
	default:
		if w.err == nil {
			w.err = fmt.Errorf("context holds a %T; it may hold null, bool, float64, string, []any and map[string]any", v)
		}
	}
}
