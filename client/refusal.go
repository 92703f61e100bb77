package client

import (
	"context"
	"errors"
	"net/http"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

// DecisionIDHeader is the header (in gRPC: the metadata key) that carries the
// decision's id to the caller, for both yes and no.
const DecisionIDHeader = "x-kelpie-decision-id"

var (
	// ErrUnauthenticated is what a mapping function returns, wrapped or not, for
	// a request whose agent it cannot establish. It is answered 401.
	ErrUnauthenticated = errors.New("the agent could not be established")
	// ErrUnguarded is what a mapping function returns for a request that may go
	// through WITHOUT ANY DECISION: a health check, say. It is never recorded.
	ErrUnguarded = errors.New("this request needs no decision")
)

// unavailableRetry is what callers are told to wait when no decision could be made.
const unavailableRetry = time.Second

// refusal says how a request that may not go through is answered, whatever the door.
type refusal struct {
	Kind kind
	// Decision and Reason are the wire forms; Reason is "" where no decision was made.
	Decision   string
	Reason     string
	Message    string
	ID         string
	RetryAfter time.Duration
	Response   *authzv1.AuthorizeResponse
}

// kind sorts refusals by what the caller can do about them. The zero kind is an
// ordinary "no".
type kind uint8

const (
	kindMalformed kind = iota + 1
	kindUnauthenticated
	kindForbidden
	kindTooMany
	kindUnavailable
)

// http is the status code of HTTP for this kind.
func (k kind) http() int {
	switch k {
	case kindMalformed:
		return http.StatusBadRequest
	case kindUnauthenticated:
		return http.StatusUnauthorized
	case kindTooMany:
		return http.StatusTooManyRequests
	case kindUnavailable:
		return http.StatusServiceUnavailable
	case kindForbidden:
		return http.StatusForbidden
	default:
		return http.StatusForbidden
	}
}

// grpc is the status code of gRPC for this kind.
func (k kind) grpc() codes.Code {
	switch k {
	case kindMalformed:
		return codes.InvalidArgument
	case kindUnauthenticated:
		return codes.Unauthenticated
	case kindTooMany:
		return codes.ResourceExhausted
	case kindUnavailable:
		return codes.Unavailable
	case kindForbidden:
		return codes.PermissionDenied
	default:
		return codes.PermissionDenied
	}
}

// kindOf sorts the reasons of a decision that is not ALLOW. What is not listed
// is an ordinary "no".
func kindOf(r authzv1.Reason) kind {
	switch r {
	case authzv1.Reason_REASON_UNAUTHENTICATED_IDENTITY, authzv1.Reason_REASON_TOKEN_INVALID,
		authzv1.Reason_REASON_TOKEN_AUDIENCE, authzv1.Reason_REASON_TOKEN_LIFETIME_EXCEEDED,
		authzv1.Reason_REASON_SENDER_CONSTRAINT_FAILED, authzv1.Reason_REASON_CREDENTIAL_UNKNOWN,
		authzv1.Reason_REASON_CREDENTIAL_REVOKED, authzv1.Reason_REASON_CREDENTIAL_AGE_EXCEEDED:
		return kindUnauthenticated
	case authzv1.Reason_REASON_RATE_LIMITED, authzv1.Reason_REASON_QUOTA_EXHAUSTED,
		authzv1.Reason_REASON_LOOP_DETECTED, authzv1.Reason_REASON_APPROVAL_QUOTA:
		return kindTooMany
	case authzv1.Reason_REASON_DEPENDENCY_UNAVAILABLE, authzv1.Reason_REASON_AUDIT_UNAVAILABLE,
		authzv1.Reason_REASON_INTERNAL_ERROR:
		return kindUnavailable
	case authzv1.Reason_REASON_PARAMETERS_INVALID:
		return kindMalformed
	default:
		return kindForbidden
	}
}

// refusalOf is the answer to a request that d or err keeps out.
func refusalOf(d Decision, err error) refusal {
	if err != nil {
		return noDecision(err)
	}
	resp := d.Response()
	k := kindOf(resp.GetReason())
	decision, message := decisionText(resp.GetDecision()), resp.GetMessage()
	if resp.GetDecision() == authzv1.Decision_DECISION_ALLOW {
		decision, k = "DENY", kindForbidden
		message = "The decision is ALLOW with an obligation that this service does not meet."
	}
	retry := d.RetryAfter()
	if k == kindUnavailable && retry == 0 {
		retry = unavailableRetry
	}
	return refusal{
		Kind: k, Decision: decision, Reason: reasonText(resp.GetReason()),
		Message: message, ID: resp.GetDecisionId(), RetryAfter: retry, Response: resp,
	}
}

// noDecision is the answer where none was made. The error's own text stays
// inside: it may tell addresses.
func noDecision(err error) refusal {
	if status.Code(err) == codes.InvalidArgument {
		return refusal{
			Kind: kindMalformed, Decision: "DENY", Reason: "parameters_invalid",
			Message: "The request cannot be judged as it is.",
		}
	}
	return refusal{
		Kind: kindUnavailable, Decision: "UNSPECIFIED",
		Message: "No decision could be made; try again later.", RetryAfter: unavailableRetry,
	}
}

// unmapped is the answer to a request that the mapping function gave no question for.
func unmapped(err error) refusal {
	if errors.Is(err, ErrUnauthenticated) {
		return refusal{
			Kind: kindUnauthenticated, Decision: "DENY",
			Reason: "unauthenticated_identity", Message: "The agent could not be established.",
		}
	}
	return refusal{
		Kind: kindMalformed, Decision: "DENY", Reason: "parameters_invalid",
		Message: "The request cannot be judged as it is.",
	}
}

// guard asks for one request. It returns nil if the request may go through, with
// the decision in the context.
func guard(
	ctx context.Context, a Authorizer, req *authzv1.AuthorizeRequest, mapErr error,
) (context.Context, *refusal) {
	if errors.Is(mapErr, ErrUnguarded) {
		return ctx, nil
	}
	if mapErr != nil || req == nil {
		r := unmapped(mapErr)
		return ctx, &r
	}
	d, err := a.Authorize(ctx, req)
	if err != nil || !d.Allowed() {
		r := refusalOf(d, err)
		return ctx, &r
	}
	return context.WithValue(ctx, decisionKey{}, d), nil
}

type decisionKey struct{}

// DecisionFromContext returns the decision that let a request through to its
// handler, and whether there is one: there is none after [ErrUnguarded].
func DecisionFromContext(ctx context.Context) (Decision, bool) {
	d, ok := ctx.Value(decisionKey{}).(Decision)
	return d, ok
}
