package policytest

import (
	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/policy"
)

// httpRequest is the request as a door would hand it on.
func httpRequest(q *policy.TestHTTP) *pdp.HTTPRequest {
	in := &pdp.HTTPRequest{
		Method: q.Method, Host: q.Host, Target: q.Target, Headers: q.Headers, Body: q.Body, Peer: q.Peer,
		Principal: q.Principal, Extensions: q.Extensions, Gateway: "kelpie test",
	}
	switch {
	case q.BodyState == "cut":
		in.BodyState = pdp.BodyCut
	case q.BodyState == "unseen":
		in.Body, in.BodyState = nil, pdp.BodyUnseen
	case q.BodyState == "none":
		in.BodyState = pdp.BodyNone
	case len(q.Body) > 0:
		in.BodyState = pdp.BodyWhole
	}
	if q.JWT != nil {
		in.Claims = payloads(q.JWT)
	}
	return in
}

// payloads are those of tokens, by name.
type payloads map[string]any

// Claim implements pdp.Claims.
func (p payloads) Claim(name string, path []string) (claim any, found bool) {
	at, found := p[name]
	for _, step := range path {
		inner, _ := at.(map[string]any)
		at = inner[step]
	}
	return at, found
}
