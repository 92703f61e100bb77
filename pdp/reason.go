package pdp

import (
	"slices"

	"github.com/kelpie-authz/kelpie/policy"
)

// Reason is a stable code that says why a decision came out as it did. Its
// text is the form in HTTP, logs, command-line output and policy tests; the
// zero value, "", is no reason.
type Reason = policy.Reason

// The reasons, in the order of the wire's enum.
const (
	ReasonOK           = policy.ReasonOK
	ReasonOKApproved   = Reason("ok_approved")
	ReasonOKGrant      = Reason("ok_grant")
	ReasonOKBreakglass = Reason("ok_breakglass")

	ReasonAgentUnknown   = policy.ReasonAgentUnknown
	ReasonAgentSuspended = policy.ReasonAgentSuspended
	ReasonAgentRevoked   = Reason("agent_revoked")

	ReasonUnauthenticatedIdentity = Reason("unauthenticated_identity")
	ReasonIdentityMismatch        = Reason("identity_mismatch")
	ReasonTokenInvalid            = Reason("token_invalid")
	ReasonTokenAudience           = Reason("token_audience")
	ReasonTokenLifetimeExceeded   = Reason("token_lifetime_exceeded")
	ReasonHumanCredential         = Reason("human_credential")
	ReasonSenderConstraintFailed  = Reason("sender_constraint_failed")

	ReasonCredentialUnknown       = Reason("credential_unknown")
	ReasonCredentialRevoked       = Reason("credential_revoked")
	ReasonCredentialAgeExceeded   = Reason("credential_age_exceeded")
	ReasonCredentialAgentMismatch = Reason("credential_agent_mismatch")

	ReasonIPNotAllowed = policy.ReasonIPNotAllowed

	ReasonActionDenied      = policy.ReasonActionDenied
	ReasonInsufficientScope = policy.ReasonInsufficientScope
	ReasonNoMatchingScope   = policy.ReasonNoMatchingScope
	ReasonConditionFailed   = policy.ReasonConditionFailed

	ReasonRateLimited      = Reason("rate_limited")
	ReasonQuotaExhausted   = Reason("quota_exhausted")
	ReasonCostExceedsLimit = Reason("cost_exceeds_limit")
	ReasonLoopDetected     = Reason("loop_detected")

	ReasonApprovalRequired        = policy.ReasonApprovalRequired
	ReasonApprovalPending         = Reason("approval_pending")
	ReasonApprovalDenied          = Reason("approval_denied")
	ReasonApprovalExpired         = Reason("approval_expired")
	ReasonApprovalConsumed        = Reason("approval_consumed")
	ReasonApprovalBindingMismatch = Reason("approval_binding_mismatch")
	ReasonApprovalQuota           = Reason("approval_quota")
	ReasonGrantExhausted          = Reason("grant_exhausted")

	ReasonUnknownMethod         = Reason("unknown_method")
	ReasonHeaderMismatch        = Reason("header_mismatch")
	ReasonParametersUnavailable = policy.ReasonParametersUnavailable
	ReasonParametersInvalid     = Reason("parameters_invalid")

	ReasonDependencyUnavailable = Reason("dependency_unavailable")
	ReasonAuditUnavailable      = Reason("audit_unavailable")
	ReasonInternalError         = Reason("internal_error")
)

// AllReasons returns every reason, in the order of the wire's enum. The slice
// is the caller's own.
func AllReasons() []Reason {
	return slices.Clone([]Reason{
		ReasonOK, ReasonOKApproved, ReasonOKGrant, ReasonOKBreakglass,
		ReasonAgentUnknown, ReasonAgentSuspended, ReasonAgentRevoked,
		ReasonUnauthenticatedIdentity, ReasonIdentityMismatch, ReasonTokenInvalid, ReasonTokenAudience,
		ReasonTokenLifetimeExceeded, ReasonHumanCredential, ReasonSenderConstraintFailed,
		ReasonCredentialUnknown, ReasonCredentialRevoked, ReasonCredentialAgeExceeded, ReasonCredentialAgentMismatch,
		ReasonIPNotAllowed,
		ReasonActionDenied, ReasonInsufficientScope, ReasonNoMatchingScope, ReasonConditionFailed,
		ReasonRateLimited, ReasonQuotaExhausted, ReasonCostExceedsLimit, ReasonLoopDetected,
		ReasonApprovalRequired, ReasonApprovalPending, ReasonApprovalDenied, ReasonApprovalExpired,
		ReasonApprovalConsumed, ReasonApprovalBindingMismatch, ReasonApprovalQuota, ReasonGrantExhausted,
		ReasonUnknownMethod, ReasonHeaderMismatch, ReasonParametersUnavailable, ReasonParametersInvalid,
		ReasonDependencyUnavailable, ReasonAuditUnavailable, ReasonInternalError,
	})
}

// advice is what a reason tells the caller: what is wrong, what to do about it
// in words, and the same for a program.
type advice struct {
	message string
	next    NextAction
}

// adviceFor has an entry for every reason; an unknown one is told nothing to
// do, so that no caller waits or retries for a reason nobody explained.
func adviceFor(r Reason) advice {
	switch r {
	case ReasonOK, ReasonOKApproved, ReasonOKGrant, ReasonOKBreakglass:
		return adviceAllow(r)
	case ReasonActionDenied, ReasonInsufficientScope, ReasonNoMatchingScope, ReasonConditionFailed,
		ReasonIPNotAllowed, ReasonParametersUnavailable, ReasonParametersInvalid:
		return advicePolicy(r)
	case ReasonRateLimited, ReasonQuotaExhausted, ReasonCostExceedsLimit, ReasonLoopDetected:
		return adviceLimit(r)
	case ReasonApprovalRequired, ReasonApprovalPending, ReasonApprovalDenied, ReasonApprovalExpired,
		ReasonApprovalConsumed, ReasonApprovalBindingMismatch, ReasonApprovalQuota, ReasonGrantExhausted:
		return adviceApproval(r)
	case ReasonUnknownMethod, ReasonHeaderMismatch, ReasonDependencyUnavailable, ReasonAuditUnavailable, ReasonInternalError:
		return adviceFault(r)
	default:
		return adviceIdentity(r)
	}
}

func adviceAllow(r Reason) advice {
	switch r {
	case ReasonOKApproved:
		return advice{"Granted, and approved for exactly this call.", NextNone}
	case ReasonOKGrant:
		return advice{"Granted, and a standing grant covers the approval.", NextNone}
	case ReasonOKBreakglass:
		return advice{"Granted in an emergency; the use will be reviewed.", NextNone}
	default:
		return advice{"Granted.", NextNone}
	}
}

func advicePolicy(r Reason) advice {
	switch r {
	case ReasonActionDenied:
		return advice{"A deny rule forbids this call; do something else.", NextNone}
	case ReasonInsufficientScope:
		return advice{"The agent holds none of the scopes that cover this call; ask for one of required_scopes.", NextRequest}
	case ReasonNoMatchingScope:
		return advice{"No scope of the policy covers this action on this resource; check both, or have a scope written.", NextNone}
	case ReasonConditionFailed:
		return advice{"A condition on this call does not hold or cannot be evaluated; the record of the decision names the rules.", NextNone}
	case ReasonIPNotAllowed:
		return advice{"The agent may not call from this source_ip; call from one of its networks.", NextNone}
	case ReasonParametersUnavailable:
		return advice{"A rule reads the parameters and they were not seen whole; send all of them.", NextNone}
	default:
		return advice{"The request is malformed; correct it.", NextNone}
	}
}

func adviceLimit(r Reason) advice {
	switch r {
	case ReasonRateLimited:
		return advice{"A limit is reached; try again later.", NextRetry}
	case ReasonQuotaExhausted:
		return advice{"A quota is used up; try again later.", NextRetry}
	case ReasonCostExceedsLimit:
		return advice{"The cost is above what a limit can ever give; ask for less.", NextNone}
	default:
		return advice{"The same call was repeated too often; do something else, or try again later.", NextRetry}
	}
}

func adviceApproval(r Reason) advice {
	switch r {
	case ReasonApprovalRequired:
		return advice{"A human must approve this call; wait for the approval, then call again.", NextWait}
	case ReasonApprovalPending:
		return advice{"The approval of this call is pending; wait for it, then call again.", NextWait}
	case ReasonApprovalDenied:
		return advice{"The approval was refused, taken back or is out of date; do not repeat this call by yourself.", NextNone}
	case ReasonApprovalExpired:
		return advice{"The approval has expired; ask for a new one by calling without approval_id.", NextRequest}
	case ReasonApprovalConsumed:
		return advice{"The approval was used already; ask for a new one by calling without approval_id.", NextRequest}
	case ReasonApprovalBindingMismatch:
		return advice{"The approval is unknown or was given for another call; ask for one by calling without approval_id.", NextRequest}
	case ReasonApprovalQuota:
		return advice{"Too many approvals of this agent are pending; wait until some are decided.", NextWait}
	default:
		return advice{"The standing grant is used up; ask for a new one.", NextRequest}
	}
}

func adviceFault(r Reason) advice {
	switch r {
	case ReasonUnknownMethod:
		return advice{"The door does not know this method; use one that it knows.", NextNone}
	case ReasonHeaderMismatch:
		return advice{"Headers and body contradict each other; make them agree.", NextNone}
	case ReasonDependencyUnavailable:
		return advice{"Something that this decision needs cannot be asked; try again later.", NextRetry}
	case ReasonAuditUnavailable:
		return advice{"The decision could not be recorded, so the call may not go through; try again later.", NextRetry}
	default:
		return advice{"The decision failed inside Kelpie; try again later, and tell the operators the decision_id.", NextRetry}
	}
}

func adviceIdentity(r Reason) advice {
	switch r {
	case ReasonAgentUnknown:
		return advice{"The policy knows no such agent; check the id, or have the agent added.", NextNone}
	case ReasonAgentSuspended:
		return advice{"The agent is suspended; ask its owner.", NextNone}
	case ReasonAgentRevoked:
		return advice{"The agent was revoked; ask its owner.", NextNone}
	case ReasonUnauthenticatedIdentity:
		return advice{"The agent's identity was not established; present a credential.", NextRequest}
	case ReasonIdentityMismatch:
		return advice{"The credential is not of the agent that the request names; use the agent's own.", NextNone}
	case ReasonTokenInvalid:
		return advice{"The token is not valid; get a fresh one.", NextRequest}
	case ReasonTokenAudience:
		return advice{"The token is meant for another audience; get one for this service.", NextRequest}
	case ReasonTokenLifetimeExceeded:
		return advice{"The token lives longer than the policy allows; get a shorter one.", NextRequest}
	case ReasonHumanCredential:
		return advice{"The token is a human's; use the agent's own credential.", NextRequest}
	case ReasonSenderConstraintFailed:
		return advice{"The token is bound to a key that was not proved; prove it.", NextNone}
	case ReasonCredentialUnknown:
		return advice{"No such credential is registered; use the agent's own.", NextRequest}
	case ReasonCredentialRevoked:
		return advice{"The credential was revoked; get a new one.", NextRequest}
	case ReasonCredentialAgeExceeded:
		return advice{"The credential is too old; rotate it.", NextRequest}
	case ReasonCredentialAgentMismatch:
		return advice{"The credential belongs to another agent; use the agent's own.", NextNone}
	default:
		return advice{"The call may not go through.", NextNone}
	}
}
