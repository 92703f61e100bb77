package pdp

import (
	"net/netip"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/kelpie-authz/kelpie/policy"
)

// mapper makes a call of an HTTP request. Its buffers are reused; its zero
// value is ready for use.
type mapper struct {
	req      Request
	segments []string
	params   params
	context  map[string]any
	local    func(netip.Addr) bool
}

// httpFault is why a request is not judged as a call.
type httpFault struct {
	reason  Reason
	message string
}

func malformedHTTP(why string) *httpFault {
	return &httpFault{ReasonParametersInvalid, "The request is malformed: " + why + "."}
}

func mismatch(why string) *httpFault {
	return &httpFault{ReasonHeaderMismatch, "Headers contradict each other or the request: " + why + "."}
}

// release drops what belongs to the caller.
func (m *mapper) release() {
	m.req = Request{}
	clear(m.segments)
	m.segments = m.segments[:0]
	m.params.release()
	clear(m.context)
}

// run fills m.req. unmapped says that no route is about the request; agent and
// address are there all the same.
func (m *mapper) run(h *policy.HTTP, in *HTTPRequest) (fault *httpFault, unmapped bool) {
	path, query, _ := strings.Cut(in.Target, "?")
	m.req.Origin = Origin{Method: in.Method, Host: in.Host, Path: path}
	if h == nil {
		return &httpFault{ReasonNoMatchingScope, "The policy says nothing of HTTP requests; write an http section."}, false
	}
	if fault := contradiction(h, in); fault != nil {
		return fault, false
	}
	if fault := m.split(path); fault != nil {
		return fault, false
	}
	host, err := policy.NormalHost(in.Host)
	if err != nil {
		return malformedHTTP(err.Error()), false
	}
	if fault := m.caller(h, in); fault != nil {
		return fault, false
	}
	route := h.Route(in.Method, host, m.segments)
	if route == nil {
		return nil, true
	}
	if h.Shadows(route, in.Method, host, m.segments) != nil {
		return malformedHTTP("the path differs from another route's in capitals or behind a dot only, and servers may take it for that"), false
	}
	m.req.Origin.Route = route.ID
	m.req.Action, m.req.Resource = route.Call(m.segments)
	return m.parameters(h, route, query, in), false
}

// split decodes the path, once.
func (m *mapper) split(path string) *httpFault {
	rest, rooted := strings.CutPrefix(path, "/")
	if !rooted {
		return malformedHTTP("the path does not start with a slash")
	}
	for more := true; more; {
		var segment string
		segment, rest, more = strings.Cut(rest, "/")
		if len(m.segments) == policy.MaxPathSegments {
			return malformedHTTP("the path has too many segments")
		}
		if segment == "" && more {
			return malformedHTTP("the path has an empty segment; write one slash between segments")
		}
		if fault := m.segment(segment); fault != nil {
			return fault
		}
	}
	return nil
}

func (m *mapper) segment(raw string) *httpFault {
	segment := raw
	for i := range len(raw) {
		if raw[i] >= utf8.RuneSelf {
			return malformedHTTP("the path holds bytes that are not ASCII; encode them")
		}
	}
	if strings.IndexByte(raw, '%') >= 0 {
		decoded, err := url.PathUnescape(raw)
		if err != nil {
			return malformedHTTP("the path holds a broken escape; write % and two hexadecimal digits")
		}
		segment = decoded
	}
	if err := policy.CheckPathSegment(segment); err != nil {
		return malformedHTTP("a segment of the path " + err.Error())
	}
	m.segments = append(m.segments, segment)
	return nil
}

// caller fills in who makes the call, and from where.
func (m *mapper) caller(h *policy.HTTP, in *HTTPRequest) *httpFault {
	var fault *httpFault
	if m.req.Agent, fault = identityFrom(h.AgentFrom, in, false); fault != nil {
		return fault
	}
	if m.req.Agent == "" {
		return unidentified("none of the policy's agent_from sources is in the request")
	}
	if err := policy.CheckAgent(m.req.Agent); err != nil {
		m.req.Agent = ""
		return unidentified("the id that the request gives is none: " + err.Error())
	}
	if m.req.Subject, fault = identityFrom(h.SubjectFrom, in, true); fault != nil {
		return fault
	}
	if m.req.SourceIP, fault = sourceAddress(h, in, m.local); fault != nil {
		return fault
	}
	if len(in.Extensions) > 0 && m.context == nil {
		m.context = make(map[string]any, len(in.Extensions))
	}
	for name, value := range in.Extensions {
		m.context[name] = value
	}
	if len(m.context) > 0 {
		m.req.Context = m.context
	}
	return nil
}
