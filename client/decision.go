package client

import (
	"strings"
	"time"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

// Decision is one answer. The zero value is no decision and allows nothing. It
// is immutable and may be shared.
type Decision struct {
	response   *authzv1.AuthorizeResponse
	allowed    bool
	failedOpen bool
}

// NewDecision makes a Decision of an answer, as a [Client] does. Obligations are
// the types that the caller meets. It is exported for those who bring their own
// [Authorizer]; resp may be nil and must not change afterwards.
func NewDecision(resp *authzv1.AuthorizeResponse, obligations ...string) Decision {
	known := make(map[string]bool, len(obligations))
	for _, t := range obligations {
		known[t] = true
	}
	return newDecision(resp, known)
}

func newDecision(resp *authzv1.AuthorizeResponse, known map[string]bool) Decision {
	allowed := resp.GetDecision() == authzv1.Decision_DECISION_ALLOW
	for _, o := range resp.GetObligations() {
		// The contract of the field: one that the gateway does not know means DENY.
		if !known[o.GetType()] {
			allowed = false
		}
	}
	return Decision{response: resp, allowed: allowed}
}

// Allowed reports whether the call may go through now: the server said ALLOW
// and every obligation is one that the caller meets. It is also true if
// [WithFailOpen] let the call through; FailedOpen tells the two apart.
func (d Decision) Allowed() bool { return d.allowed || d.failedOpen }

// FailedOpen reports whether the call is allowed only because no decision was
// made and [WithFailOpen] is set.
func (d Decision) FailedOpen() bool { return d.failedOpen }

// NeedsApproval reports whether the call may go through once humans have said
// yes; Response().GetApproval() says which.
func (d Decision) NeedsApproval() bool {
	return d.response.GetDecision() == authzv1.Decision_DECISION_REQUIRE_APPROVAL
}

// Response is the server's answer, nil if there is none (its getters work on
// nil). Do not change it.
func (d Decision) Response() *authzv1.AuthorizeResponse { return d.response }

// ID names the decision in the server's logs and records; "" if none was made.
func (d Decision) ID() string { return d.response.GetDecisionId() }

// Reason is the stable code of the answer as logs write it ("rate_limited"); ""
// if none was made.
func (d Decision) Reason() string { return reasonText(d.response.GetReason()) }

// RetryAfter is how long to wait before asking again; 0 if that is not what to do.
func (d Decision) RetryAfter() time.Duration {
	if d.response.GetRetryAfter() == nil {
		return 0
	}
	return d.response.GetRetryAfter().AsDuration()
}

// String returns the decision and its reason for a person, without anything of
// the request.
func (d Decision) String() string {
	switch {
	case d.failedOpen:
		return "ALLOW (failed open: no decision was made)"
	case d.response == nil:
		return "no decision"
	}
	text := decisionText(d.response.GetDecision()) + " " + d.Reason()
	if d.response.GetDecision() == authzv1.Decision_DECISION_ALLOW && !d.allowed {
		text += " (not allowed: it comes with an obligation that is not met here)"
	}
	return text
}

func decisionText(d authzv1.Decision) string {
	return strings.TrimPrefix(d.String(), "DECISION_")
}

func reasonText(r authzv1.Reason) string {
	if r == authzv1.Reason_REASON_UNSPECIFIED {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(r.String(), "REASON_"))
}
