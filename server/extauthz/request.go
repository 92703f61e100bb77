package extauthz

import (
	"bytes"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/kelpie-authz/kelpie/pdp"
)

// request is a CheckRequest in the words of pdp.
type request struct {
	request pdp.HTTPRequest
	claims  claims
	// joined are the headers of a header_map.
	joined map[string]string
}

// fill translates in, all of it. A CheckRequest of a TCP connection has no
// HTTP request, and becomes one that pdp refuses.
func (r *request) fill(in *authv3.CheckRequest, gateway string) {
	attributes := in.GetAttributes()
	http := attributes.GetRequest().GetHttp()
	r.request = pdp.HTTPRequest{
		Method:     http.GetMethod(),
		Host:       http.GetHost(),
		Target:     http.GetPath(),
		Headers:    r.headers(http),
		Peer:       attributes.GetSource().GetAddress().GetSocketAddress().GetAddress(),
		Principal:  attributes.GetSource().GetPrincipal(),
		Extensions: attributes.GetContextExtensions(),
		Gateway:    gateway,
	}
	r.request.Body, r.request.BodyState = body(http, r.request.Headers)
	if tokens := attributes.GetMetadataContext().GetFilterMetadata()[jwtFilter]; tokens != nil {
		r.claims.payloads = tokens
		r.request.Claims = &r.claims
	}
}

func (r *request) release() {
	r.request = pdp.HTTPRequest{}
	r.claims.payloads = nil
	clear(r.joined)
}

// headers are those of the request, by names in small letters, as Envoy sends
// them; others may not. With encode_raw_headers Envoy lists each field by itself;
// they are joined as Envoy joins them without it.
func (r *request) headers(http *authv3.AttributeContext_HttpRequest) map[string]string {
	if http.GetHeaderMap() == nil && !anyCapital(http.GetHeaders()) {
		return http.GetHeaders()
	}
	if r.joined == nil {
		r.joined = make(map[string]string, len(http.GetHeaderMap().GetHeaders()))
	}
	for name, value := range http.GetHeaders() {
		r.join(name, value)
	}
	for _, h := range http.GetHeaderMap().GetHeaders() {
		r.join(h.GetKey(), headerValue(h))
	}
	return r.joined
}

func anyCapital(headers map[string]string) bool {
	for name := range headers {
		for i := range len(name) {
			if 'A' <= name[i] && name[i] <= 'Z' {
				return true
			}
		}
	}
	return false
}

func (r *request) join(name, value string) {
	name = strings.ToLower(name)
	if before, twice := r.joined[name]; twice {
		value = before + "," + value
	}
	r.joined[name] = value
}

func headerValue(h *corev3.HeaderValue) string {
	if raw := h.GetRawValue(); len(raw) > 0 {
		return string(raw)
	}
	return h.GetValue()
}

// partialBody is what Envoy says beside a body that it buffered, over whatever
// the client said.
const partialBody = "x-envoy-auth-partial-body"

// body is the body with what is known of it. Only what the client cannot say
// makes it whole: a client can send the header of Envoy's, but not beside a
// body of Envoy's, and a cut body is no JSON object.
func body(http *authv3.AttributeContext_HttpRequest, headers map[string]string) ([]byte, pdp.BodyState) {
	raw, text := http.GetRawBody(), false
	if len(raw) == 0 && http.GetBody() != "" {
		raw, text = []byte(http.GetBody()), true
	}
	lengthText, hasLength := headers["content-length"]
	length, err := strconv.ParseUint(lengthText, 10, 63)
	partial := headers[partialBody]
	switch {
	case len(raw) == 0 && streams(headers):
		return nil, pdp.BodyUnseen
	case len(raw) == 0 && hasLength:
		if err == nil && length == 0 {
			return nil, pdp.BodyNone
		}
		return nil, pdp.BodyUnseen
	case len(raw) == 0 && http.GetSize() > 0:
		return nil, pdp.BodyUnseen
	case len(raw) == 0:
		return nil, pdp.BodyUnknown
	case strings.Contains(partial, "true"), http.GetSize() > int64(len(raw)):
		return raw, pdp.BodyCut
	case hasLength && (err != nil || length != uint64(len(raw))), !hasLength && partial != "false":
		return raw, pdp.BodyCut
	case text && bytes.IndexByte(raw, '!') >= 0:
		// What Envoy writes in a text for bytes that are not UTF-8: the server
		// will see others.
		return raw, pdp.BodyCut
	default:
		return raw, pdp.BodyWhole
	}
}

// streams tells of requests whose body Envoy lets pass as it comes, whatever it
// does with others: those that ask for an upgrade, and gRPC.
func streams(headers map[string]string) bool {
	if _, upgrade := headers["upgrade"]; upgrade {
		return true
	}
	return strings.HasPrefix(headers["content-type"], "application/grpc")
}

// jwtFilter is the namespace in which Envoy's jwt_authn keeps payloads.
const jwtFilter = "envoy.filters.http.jwt_authn"

// claims are the payloads of tokens that jwt_authn verified.
type claims struct{ payloads *structpb.Struct }

// Claim implements pdp.Claims.
func (c *claims) Claim(name string, path []string) (claim any, found bool) {
	at, found := c.payloads.GetFields()[name]
	for _, step := range path {
		at = at.GetStructValue().GetFields()[step]
	}
	if at == nil {
		return nil, found
	}
	if text, ok := at.GetKind().(*structpb.Value_StringValue); ok {
		return text.StringValue, found
	}
	return at, found
}
