package client

import (
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"time"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

// MapHTTP says what to ask for an HTTP request. It must take the agent from
// something that was verified (a client certificate, a checked token), never
// from a header that the agent writes itself.
//
// [ErrUnauthenticated] is answered 401 and [ErrUnguarded] goes through without a
// decision; any other error, or a nil request, is answered 400. It must not
// consume the body unless it puts it back.
type MapHTTP func(r *http.Request) (*authzv1.AuthorizeRequest, error)

// Middleware asks before each request reaches the handler.
//
// What may not go through is answered with a JSON body ([HTTPRefusal]), the
// decision's id in [DecisionIDHeader] and, where waiting helps, Retry-After:
// 401 the identity or credential does not hold, 403 DENY and REQUIRE_APPROVAL,
// 429 a limit is reached, 400 the request is malformed, 503 no decision could be
// made. Handlers find the decision with [DecisionFromContext].
func Middleware(a Authorizer, m MapHTTP) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			req, err := m(r)
			ctx, refused := guard(r.Context(), a, req, err)
			if refused != nil {
				refused.writeHTTP(w)
				return
			}
			if d, ok := DecisionFromContext(ctx); ok && d.ID() != "" {
				w.Header().Set(DecisionIDHeader, d.ID())
			}
			next.ServeHTTP(w, r.WithContext(ctx))
		})
	}
}

// HTTPRefusal is the JSON body of a refused HTTP request.
type HTTPRefusal struct {
	// Decision is DENY, REQUIRE_APPROVAL, or UNSPECIFIED if none was made.
	Decision string `json:"decision"`
	// Reason is the stable code; absent if no decision was made.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// DecisionID names the decision in the records.
	DecisionID string `json:"decision_id,omitempty"`
	// RetryAfterSeconds is how long to wait, rounded up.
	RetryAfterSeconds int64 `json:"retry_after_seconds,omitempty"`
	// RequiredScopes are those of which any one is enough.
	RequiredScopes []string `json:"required_scopes,omitempty"`
	// Approval is what must be approved.
	Approval *HTTPApproval `json:"approval,omitempty"`
}

// HTTPApproval is the approval in an [HTTPRefusal].
type HTTPApproval struct {
	ID     string `json:"id,omitempty"`
	Digest string `json:"digest,omitempty"`
	URL    string `json:"url,omitempty"`
}

func (r *refusal) writeHTTP(w http.ResponseWriter) {
	body := HTTPRefusal{
		Decision: r.Decision, Reason: r.Reason, Message: r.Message, DecisionID: r.ID,
		RetryAfterSeconds: wholeSeconds(r.RetryAfter), RequiredScopes: r.Response.GetRequiredScopes(),
	}
	if a := r.Response.GetApproval(); a != nil {
		body.Approval = &HTTPApproval{ID: a.GetId(), Digest: a.GetDigest(), URL: a.GetUrl()}
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	// A cached "no" would outlive its reason.
	h.Set("Cache-Control", "no-store")
	if r.ID != "" {
		h.Set(DecisionIDHeader, r.ID)
	}
	if body.RetryAfterSeconds > 0 {
		h.Set("Retry-After", strconv.FormatInt(body.RetryAfterSeconds, 10))
	}
	if r.Kind == kindUnauthenticated && h.Get("WWW-Authenticate") == "" {
		// RFC 9110 section 15.5.2 asks for a challenge; set another before the middleware to replace it.
		h.Set("WWW-Authenticate", "Bearer")
	}
	w.WriteHeader(r.Kind.http())
	// The status is out: if the body cannot be written, the caller is gone.
	_ = json.NewEncoder(w).Encode(body) //nolint:errchkjson // As said; and strings always encode.
}

// wholeSeconds rounds up, so that nobody comes back too early.
func wholeSeconds(d time.Duration) int64 {
	return int64(math.Ceil(max(0, d).Seconds()))
}
