package policy

// Reason is a stable code that says why a decision came out as it did. Its
// text is the form in logs, command-line output and policy tests. The set is
// DESIGN's; this package gives those below, and pdp adds the rest.
//
// The zero value, "", is no reason.
type Reason string

// The reasons that the policy itself gives.
const (
	ReasonOK                    Reason = "ok"
	ReasonAgentUnknown          Reason = "agent_unknown"
	ReasonAgentSuspended        Reason = "agent_suspended"
	ReasonIPNotAllowed          Reason = "ip_not_allowed"
	ReasonActionDenied          Reason = "action_denied"
	ReasonInsufficientScope     Reason = "insufficient_scope"
	ReasonNoMatchingScope       Reason = "no_matching_scope"
	ReasonConditionFailed       Reason = "condition_failed"
	ReasonParametersUnavailable Reason = "parameters_unavailable"
	ReasonApprovalRequired      Reason = "approval_required"
)

// Risk orders how dangerous a call is. The zero value is no risk known and
// lower than every other.
type Risk uint8

// The risks, in order.
const (
	RiskNone Risk = iota
	RiskRead
	RiskWrite
	RiskDelete
	RiskAdmin
)

// String returns the risk as policies write it, and "" for RiskNone.
func (r Risk) String() string {
	switch r {
	case RiskRead:
		return "read"
	case RiskWrite:
		return "write"
	case RiskDelete:
		return "delete"
	case RiskAdmin:
		return "admin"
	default:
		return ""
	}
}
