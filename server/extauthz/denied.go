package extauthz

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kelpie-authz/kelpie/pdp"
)

// explanation is the body of a denying answer. It goes to the agent, so it
// names no rule of the policy.
type explanation struct {
	Decision   string `json:"decision"`
	Reason     string `json:"reason"`
	Message    string `json:"message"`
	DecisionID string `json:"decision_id,omitempty"`
	NextAction string `json:"next_action"`
	// RetryAfter is in seconds.
	RetryAfter     int64     `json:"retry_after_seconds,omitempty"`
	RequiredScopes []string  `json:"required_scopes,omitempty"`
	Approval       *approval `json:"approval,omitempty"`
}

// approval is the handle of an approval that the call waits for.
type approval struct {
	ID        string     `json:"id,omitempty"`
	State     string     `json:"state,omitempty"`
	Digest    string     `json:"digest,omitempty"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
}

// denied is the answer that stops the request. Whatever is not an ALLOW comes here.
func denied(d *pdp.HTTPDecision) *authv3.CheckResponse {
	e := &explanation{
		Decision: d.Verdict.String(), Reason: string(d.Reason), Message: d.Message, DecisionID: d.ID,
		NextAction: d.Next.String(), RetryAfter: seconds(d.RetryAfter), RequiredScopes: d.RequiredScopes,
		Approval: approvalOf(d.Approval),
	}
	out := stop(statusOf(d.Reason), e, d.Limits)
	out.DynamicMetadata = metadata(d)
	return out
}

// refusal is the answer where no decision was made.
func refusal(err error) *authv3.CheckResponse {
	code, reason, next := http.StatusServiceUnavailable, pdp.ReasonDependencyUnavailable, pdp.NextRetry
	message := "No decision was made: " + status.Convert(err).Message() + "."
	switch status.Code(err) {
	case codes.InvalidArgument:
		code, reason, next = http.StatusBadRequest, pdp.ReasonParametersInvalid, pdp.NextNone
	case codes.PermissionDenied, codes.Unauthenticated:
		code, reason, next = http.StatusForbidden, pdp.ReasonUnauthenticatedIdentity, pdp.NextNone
	case codes.ResourceExhausted, codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
	default:
		reason = pdp.ReasonInternalError
		message = "No decision was made: the server failed in this one call."
	}
	e := &explanation{Decision: pdp.Deny.String(), Reason: string(reason), Message: message, NextAction: next.String()}
	if next == pdp.NextRetry {
		e.RetryAfter = 1
	}
	out := stop(code, e, nil)
	refused := pdp.HTTPDecision{Decision: pdp.Decision{Verdict: pdp.Deny, Reason: reason}}
	out.DynamicMetadata = metadata(&refused)
	return out
}

// stop makes a denying answer.
func stop(code int, e *explanation, limits []pdp.LimitStatus) *authv3.CheckResponse {
	h := headers{}
	h.set("content-type", "application/json")
	h.set("cache-control", "no-store")
	if e.DecisionID != "" {
		h.set(decisionIDHeader, e.DecisionID)
	}
	if e.RetryAfter > 0 {
		h.set("retry-after", strconv.FormatInt(e.RetryAfter, 10))
	}
	if challenge := challengeOf(code, e); challenge != "" {
		h.set("www-authenticate", challenge)
	}
	if len(limits) > 0 {
		policies, states := appendLimits(nil, nil, limits)
		h.add("ratelimit-policy", string(policies), corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD)
		h.add("ratelimit", string(states), corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD)
	}
	grpcCode := codes.PermissionDenied
	if code == http.StatusUnauthorized {
		grpcCode = codes.Unauthenticated
	}
	text, err := json.Marshal(e)
	if err != nil {
		text = []byte(`{"decision":"DENY"}`) // It holds texts and numbers alone, so this is never seen.
	}
	return &authv3.CheckResponse{
		Status: &rpcstatus.Status{Code: int32(grpcCode), Message: e.Reason},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status:  &typev3.HttpStatus{Code: typev3.StatusCode(code)}, //nolint:gosec // A code of HTTP is a small number.
			Headers: h,
			Body:    string(append(text, '\n')),
		}},
	}
}

// statusOf is the HTTP status of a reason: 401 where a better credential would
// help, 429 and 503 where time does, 400 where the request cannot be read.
func statusOf(r pdp.Reason) int {
	switch r {
	case pdp.ReasonUnauthenticatedIdentity, pdp.ReasonTokenInvalid, pdp.ReasonTokenAudience, pdp.ReasonTokenLifetimeExceeded,
		pdp.ReasonSenderConstraintFailed, pdp.ReasonCredentialUnknown, pdp.ReasonCredentialRevoked, pdp.ReasonCredentialAgeExceeded:
		return http.StatusUnauthorized
	case pdp.ReasonRateLimited, pdp.ReasonQuotaExhausted, pdp.ReasonLoopDetected, pdp.ReasonApprovalQuota:
		return http.StatusTooManyRequests
	case pdp.ReasonParametersInvalid, pdp.ReasonHeaderMismatch:
		return http.StatusBadRequest
	case pdp.ReasonDependencyUnavailable, pdp.ReasonAuditUnavailable, pdp.ReasonInternalError:
		return http.StatusServiceUnavailable
	default:
		return http.StatusForbidden
	}
}

// challengeOf is the WWW-Authenticate of an answer (RFC 6750, section 3). Of
// the scopes any one is enough, and a challenge asks for all that it names.
func challengeOf(code int, e *explanation) string {
	const realm = `Bearer realm="kelpie"`
	switch {
	case code == http.StatusUnauthorized && e.Reason == string(pdp.ReasonUnauthenticatedIdentity):
		return realm
	case code == http.StatusUnauthorized:
		return realm + `, error="invalid_token"`
	case e.Reason == string(pdp.ReasonInsufficientScope) && len(e.RequiredScopes) > 0:
		return realm + `, error="insufficient_scope", scope="` + e.RequiredScopes[0] + `"`
	default:
		return ""
	}
}

func approvalOf(a *pdp.Approval) *approval {
	if a == nil {
		return nil
	}
	out := &approval{ID: a.ID, State: a.State.String(), Digest: a.Digest}
	if !a.ExpiresAt.IsZero() {
		out.ExpiresAt = &a.ExpiresAt
	}
	return out
}
