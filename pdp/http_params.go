package pdp

import (
	"bytes"
	"mime"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/kelpie-authz/kelpie/policy"
)

// params writes a call's parameters as one JSON object. Its buffers are
// reused; its zero value is ready for use.
type params struct {
	buf   []byte
	any   bool
	lists []queryList
}

// queryList are the values of one name of the query, in their order.
type queryList struct {
	name   string
	values []string
}

func (p *params) release() {
	p.any = false
	clear(p.lists)
	p.lists = p.lists[:0]
}

// parameters fills in the parameters: parts of the path, the query, mapped
// headers and the members of the body. That names are unique is left to the
// reader of parameters, which looks at all of them together.
func (m *mapper) parameters(h *policy.HTTP, route *policy.HTTPRoute, query string, in *HTTPRequest) *httpFault {
	p := &m.params
	p.buf = append(p.buf[:0], '{')
	for name, value := range route.PathParameters(m.segments) {
		p.member(name, value)
	}
	if fault := p.query(route, query, in.Method); fault != nil {
		return fault
	}
	for _, header := range route.Headers {
		value, found := in.Headers[header.Header]
		if !found {
			continue
		}
		switch {
		case strings.IndexByte(value, ',') >= 0:
			return mismatch("the header " + header.Header + " comes twice, or holds a comma")
		case !utf8.ValidString(value):
			return malformedHTTP("the header " + header.Header + " is not UTF-8")
		}
		p.member(header.Name, value)
	}
	state, fault := bodyState(h, route, in)
	if fault != nil {
		return fault
	}
	switch state {
	case BodyNone:
	case BodyWhole:
		if fault := p.body(in.Body); fault != nil {
			return fault
		}
	case BodyCut:
		m.req.ParametersState = ParametersTruncated
		return nil
	default:
		m.req.ParametersState = ParametersNotSeen
		return nil
	}
	m.finish()
	return nil
}

// finish hands over what was written, if anything.
func (m *mapper) finish() {
	p := &m.params
	if !p.any {
		return
	}
	p.buf = append(p.buf, '}')
	if len(p.buf) > policy.MaxParametersBytes {
		m.req.ParametersState = ParametersTruncated
		return
	}
	m.req.ParametersState = ParametersComplete
	m.req.ParametersJSON = p.buf
}

// bodyState is what is known of the body, by the policy's word where the
// proxy's leaves it open. Only a whole body that says it is JSON stays whole.
func bodyState(h *policy.HTTP, route *policy.HTTPRoute, in *HTTPRequest) (BodyState, *httpFault) {
	state := in.BodyState
	if state == BodyUnknown {
		if !h.BodiesSent || route.BodyUnseen {
			return BodyUnseen, nil
		}
		state = BodyNone
	}
	if state != BodyWhole && state != BodyCut {
		return state, nil
	}
	isJSON, fault := saysJSON(in.Headers)
	switch {
	case fault != nil:
		return state, fault
	case route.BodyUnseen:
		state = BodyUnseen
	case state == BodyCut:
	case !isJSON:
		state = BodyUnseen
	case len(in.Body) > policy.MaxParametersBytes:
		state = BodyCut
	default:
		return BodyWhole, nil
	}
	return state, unreadOverride(in, !route.BodyUnseen)
}

const jsonType = "application/json"

// saysJSON tells whether the headers say that the body is JSON in UTF-8, as it
// stands (RFC 8259; RFC 6839 for +json).
func saysJSON(headers map[string]string) (bool, *httpFault) {
	text := headers["content-type"]
	if strings.IndexByte(text, ',') >= 0 {
		return false, mismatch("the header content-type comes twice, or holds a comma")
	}
	if isPacked(headers) {
		return false, nil
	}
	if text == jsonType {
		return true, nil
	}
	kind, more, err := mime.ParseMediaType(text)
	if err != nil {
		return false, nil
	}
	if charset, given := more["charset"]; given && !strings.EqualFold(charset, "utf-8") {
		return false, nil
	}
	return kind == jsonType || strings.HasPrefix(kind, "application/") && strings.HasSuffix(kind, "+json"), nil
}

// body adds the members of the body. What stands between its braces goes
// behind members that are there already, so that it is one object only if the
// body was one; that is checked with all of them together.
func (p *params) body(body []byte) *httpFault {
	text := bytes.Trim(body, " \t\r\n")
	if len(text) < 2 || text[0] != '{' || text[len(text)-1] != '}' {
		return malformedHTTP("the body says that it is JSON and is not one object; send one, or map the route with body: unseen")
	}
	inner := bytes.Trim(text[1:len(text)-1], " \t\r\n")
	if len(inner) > 0 {
		if p.any {
			p.buf = append(p.buf, ',')
		}
		p.buf = append(p.buf, inner...)
	}
	p.any = true
	return nil
}

// member adds one text under a name. Both are UTF-8 by now.
func (p *params) member(name, value string) {
	p.name(name)
	p.text(value)
}

func (p *params) name(name string) {
	if p.any {
		p.buf = append(p.buf, ',')
	}
	p.any = true
	p.text(name)
	p.buf = append(p.buf, ':')
}

func (p *params) text(s string) {
	// It fails for what is not UTF-8 alone, and then writes a replacement; the
	// callers have refused that.
	p.buf, _ = jsontext.AppendQuote(p.buf, s)
}

// query adds the names of the query (application/x-www-form-urlencoded, as the
// URL standard reads it).
func (p *params) query(route *policy.HTTPRoute, query, method string) *httpFault {
	if strings.Count(query, "&") >= maxQueryNames {
		return malformedHTTP("the query has too many names, and servers leave out what is beyond their own bound")
	}
	for more := query != ""; more; {
		var pair string
		pair, query, more = strings.Cut(query, "&")
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		name, fault := decodeQuery(name)
		if fault != nil {
			return fault
		}
		if value, fault = decodeQuery(value); fault != nil {
			return fault
		}
		if fault := checkPair(name, value, method); fault != nil {
			return fault
		}
		if _, list := slices.BinarySearch(route.QueryLists, name); list {
			p.collect(name, value)
			continue
		}
		p.member(name, value)
	}
	for i := range p.lists {
		p.list(&p.lists[i])
	}
	return nil
}

// decodeQuery decodes a name or a value, once.
func decodeQuery(raw string) (string, *httpFault) {
	text := raw
	for i := range len(raw) {
		switch c := raw[i]; {
		case c == ';' || c == '#' || c < ' ' || c >= 0x7f:
			return "", malformedHTTP("the query holds a character that has to be encoded")
		case (c == '%' || c == '+') && len(text) == len(raw):
			decoded, err := url.QueryUnescape(raw)
			if err != nil {
				return "", malformedHTTP("the query holds a broken escape; write % and two hexadecimal digits")
			}
			text = decoded
		}
	}
	if !utf8.ValidString(text) || strings.IndexByte(text, 0) >= 0 {
		return "", malformedHTTP("the query is not UTF-8 once decoded, or holds a NUL")
	}
	return text, nil
}

// maxQueryNames is below the bounds of all servers that we know.
const maxQueryNames = 256

func (p *params) collect(name, value string) {
	for i := range p.lists {
		if p.lists[i].name == name {
			p.lists[i].values = append(p.lists[i].values, value)
			return
		}
	}
	p.lists = append(p.lists, queryList{name, []string{value}})
}

func (p *params) list(l *queryList) {
	p.name(l.name)
	for i, value := range l.values {
		if i == 0 {
			p.buf = append(p.buf, '[')
		} else {
			p.buf = append(p.buf, ',')
		}
		p.text(value)
	}
	p.buf = append(p.buf, ']')
}
