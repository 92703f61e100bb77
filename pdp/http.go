package pdp

import (
	"context"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/policy"
)

// HTTPRequest is one HTTP request as a proxy told a door of it: nothing in it
// has been checked, decoded or normalised. It is only read. The zero value is
// refused as malformed.
type HTTPRequest struct {
	// Method and Host as the proxy forwards them.
	Method, Host string
	// Target is the path and the query as the proxy forwards them (the
	// origin-form of RFC 9112, section 3.2.1), not decoded.
	Target string
	// Headers by name in small letters. Several fields of one name are joined
	// by commas (RFC 9110, section 5.3).
	Headers map[string]string
	// Body and how much of it that is.
	Body      []byte
	BodyState BodyState
	// Peer is the address that the proxy was called from; "" if unknown.
	Peer string
	// Principal is the verified identity of the proxy's peer; "" if none.
	Principal string
	// Claims are those of tokens that the proxy verified; nil if none.
	Claims Claims
	// Extensions come from the proxy's own configuration, not from the request.
	Extensions map[string]string
	// Gateway is who asks, as the door established it; for the record.
	Gateway string
}

// BodyState says what is known of a request's body.
type BodyState uint8

// The states. The zero value is the one that promises nothing.
const (
	// BodyUnknown: none came, and nothing says that there is none.
	BodyUnknown BodyState = iota
	// BodyNone: there is none.
	BodyNone
	// BodyWhole: Body is all of it.
	BodyWhole
	// BodyCut: Body may be a part of it, or changed.
	BodyCut
	// BodyUnseen: there is one, and it was not passed on.
	BodyUnseen
)

// Claims are the claims of tokens that a proxy verified.
type Claims interface {
	// Claim returns the claim at a path within the payload that the proxy
	// keeps under name: a string, something else, or nil if the payload has no
	// such claim. found says that there is such a payload.
	Claim(name string, path []string) (claim any, found bool)
}

// HTTPDecision is the answer to an HTTPRequest, with the call that was made of
// it as far as that came. The zero value is ready to be filled by AuthorizeHTTP.
type HTTPDecision struct {
	Decision

	// Agent is "" where none was established, Action and Resource where no
	// route is about the request or it was refused before one was looked for.
	Agent, Action, Resource string
	// Route is the id of the route that made the call, "" if none did.
	Route string
}

// httpCall is a judgment with room for what is made of an HTTP request.
type httpCall struct {
	judgment

	mapper mapper
	calls  [1]limiter.Call
}

// AuthorizeHTTP makes a call of an HTTP request by the http section of the
// policy in force, decides it by the same snapshot, and fills out.
//
// A request that cannot be read in one way only is DENY parameters_invalid or
// header_mismatch, one that tells no agent DENY unauthenticated_identity, and
// one that no route is about DENY no_matching_scope once agent and address
// have passed. An error means that no decision was made: ctx's error if it has
// ended, [ErrNoPolicy], [limiter.ErrClosed]. The request must not go through then.
func (s *Service) AuthorizeHTTP(ctx context.Context, in *HTTPRequest, out *HTTPDecision) error {
	c, _ := s.http.Get().(*httpCall)
	err := s.open(ctx, &c.judgment)
	if err == nil {
		err = s.runHTTP(ctx, c, in, out)
	}
	if err != nil {
		out.reset()
		out.Agent, out.Action, out.Resource, out.Route = "", "", "", ""
	}
	if !c.spoiled {
		c.release()
		c.mapper.release()
		c.calls[0].Charges = c.calls[0].Charges[:0]
		s.http.Put(c)
	}
	return err
}

func (s *Service) runHTTP(ctx context.Context, c *httpCall, in *HTTPRequest, out *HTTPDecision) error {
	j, req := &c.judgment, &c.mapper.req
	*req = Request{RequestID: requestID(in.Headers), Gateway: in.Gateway}
	s.assign(j, req, &out.Decision)
	s.mapHTTP(ctx, c, in)
	out.Agent, out.Action, out.Resource, out.Route = req.Agent, req.Action, req.Resource, req.Origin.Route
	if j.reached == VerdictNone {
		if bad := s.validateContained(ctx, j); bad != nil {
			s.refuseMalformed(j, bad)
			if bad.Field == parametersField {
				j.dec.Message = "The request is malformed: path, query, headers and body make parameters that cannot be read together: " + bad.Why + "."
			}
		} else if fault := ambiguous(j.call.Parameters.Values, in.Method); fault != nil {
			s.refuse(j, fault)
		} else if err := s.judge(ctx, j, c.calls[:]); err != nil {
			return err
		}
	}
	explainHTTP(j, in)
	s.record(ctx, j)
	return nil
}

// explainHTTP says of a denial what is to be done about an HTTP request.
func explainHTTP(j *judgment, in *HTTPRequest) {
	switch {
	case j.unmapped && j.dec.Reason == ReasonNoMatchingScope:
		j.dec.Message = "No route of the policy is about this method, host and path; check them, or have a route written."
	case j.dec.Reason == ReasonParametersUnavailable && in.BodyState == BodyWhole:
		j.dec.Message = "A rule reads the parameters, and this body is not read as any: " +
			"send one JSON object of at most 64 KiB, with content-type application/json and without content-encoding."
	}
}

// mapHTTP makes a call of the request, or settles why it is none.
func (s *Service) mapHTTP(ctx context.Context, c *httpCall, in *HTTPRequest) {
	j := &c.judgment
	defer s.contain(ctx, j)
	fault, unmapped := c.mapper.run(j.snap.HTTP(), in)
	j.unmapped = unmapped
	if fault != nil {
		s.refuse(j, fault)
	}
}

// refuse settles a request that is not judged as a call.
func (s *Service) refuse(j *judgment, fault *httpFault) {
	j.malformed = true
	s.deny(j, fault.reason, nil)
	j.dec.Message = fault.message
}

// requestID is the proxy's name of the request, where it is one: it is for the
// record, so that a client that sends a bad one is not denied for it.
func requestID(headers map[string]string) string {
	id := headers["x-request-id"]
	if policy.CheckText("request_id", id, maxTextBytes) != nil {
		return ""
	}
	return id
}
