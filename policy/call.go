package policy

import (
	"net/netip"
	"time"
)

// Call is one call as the evaluator sees it: the agent's identity is
// established, and every field passed the syntax checks of this package
// (CheckAgent, CheckAction, CheckResource, ParseSourceIP, ParseParameters).
// Decide does not repeat them.
//
// A Call is read only while a method of Snapshot runs; it may be reused after.
type Call struct {
	Agent    string
	Action   string
	Resource string
	// SourceIP is unmapped and without zone; the zero Addr means absent.
	SourceIP netip.Addr
	// Now is the one clock reading of this decision.
	Now       time.Time
	Subject   string
	SessionID string
	RunID     string
	Tool      Tool
	// Parameters of the call; the zero value means none were given.
	Parameters Parameters
	// Context holds what google.protobuf.Struct can: nil, bool, float64,
	// string, []any, map[string]any. nil means absent and reads as empty.
	Context map[string]any
}

// Tool names a tool and the server that offers it. Empty fields are absent.
type Tool struct {
	Server string
	Name   string
}

// ParametersState says how much of a call's parameters was seen.
type ParametersState uint8

// The states. Absent and Complete come from an unspecified state on the wire.
const (
	// ParametersAbsent means that the caller gave none: rules that read them cannot be evaluated.
	ParametersAbsent ParametersState = iota
	// ParametersComplete means that Raw is all of them.
	ParametersComplete
	// ParametersTruncated means that there were more than the gateway could pass on.
	ParametersTruncated
	// ParametersNotSeen means that the gateway did not look.
	ParametersNotSeen
)

// Parameters are a call's parameters. The zero value is absent.
type Parameters struct {
	State ParametersState
	// Raw is the JSON object as it came, checked by ParseParameters; nil unless Complete.
	Raw []byte
	// Values is the parsed object: nil, bool, int64, float64, string, []any,
	// map[string]any; integers are int64, other numbers float64. nil unless Complete.
	Values map[string]any
}
