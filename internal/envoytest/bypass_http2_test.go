package envoytest_test

// overH2 is a request by the router over HTTP/2: its pseudo headers in order, then others.
func overH2(method, path, authority string, more ...field) *h2 {
	return &h2{fields: append([]field{
		{":method", method}, {":scheme", "http"}, {":path", path}, {":authority", authority}, {"x-agent-id", "lead-router"},
	}, more...)}
}

// h2Refund is a refund over HTTP/2.
func h2Refund(data []string, more ...field) *h2 {
	return &h2{fields: append([]field{
		{":method", "POST"},
		{":scheme", "http"},
		{":path", "/refunds"},
		{":authority", "crm.example.com"},
		{"x-agent-id", "refund-bot"},
		{"content-type", "application/json"},
	}, more...), data: data}
}

// overHTTP2Tricks are games with pseudo headers and frames.
func overHTTP2Tricks() []trick {
	const crm, reports = "crm.example.com", "reports.example.com"
	lead := func(more ...field) *h2 { return overH2("GET", "/leads/42", crm, more...) }
	report := func(authority string, more ...field) *h2 {
		return &h2{fields: append([]field{
			{":method", "GET"}, {":scheme", "http"}, {":path", "/reports/weekly"}, {":authority", authority}, {"x-agent-id", "report-bot"},
		}, more...)}
	}
	var (
		fine     = reaches("read", "crm/leads/42")
		refunded = reaches("create", "crm/refunds")
		closed   = kelpie(403, "action_denied")
		tooMuch  = kelpie(403, "condition_failed")
		invalid  = kelpie(400, "parameters_invalid")
		mismatch = kelpie(400, "header_mismatch")
		nobody   = kelpie(401, "unauthenticated_identity")
		unseen   = kelpie(403, "parameters_unavailable")
		noRoute  = kelpie(403, "no_matching_scope")
		reject   = envoy(400)
		reset    = envoy(0)
	)
	return []trick{
		{name: "plain", h2: lead(), want: fine},
		{name: "plain and denied", h2: overH2("GET", "/leads/secret", crm), want: closed},

		// :path.
		{name: "no slash", h2: overH2("GET", "leads/secret", crm), want: reset},
		{name: "an empty path", h2: overH2("GET", "", crm), want: reset},
		{name: "a star", h2: overH2("GET", "*", crm), want: reset},
		{name: "OPTIONS *", h2: overH2("OPTIONS", "*", crm), want: envoy(404)},
		{name: "an absolute path", h2: overH2("GET", "http://crm.example.com/leads/secret", crm), want: reset},
		{name: "two slashes", h2: overH2("GET", "//leads/secret", crm), want: closed, bare: new(invalid)},
		{name: "dots", h2: overH2("GET", "/leads/x/../secret", crm), want: closed, bare: new(invalid)},
		{name: "%2e%2e", h2: overH2("GET", "/leads/x/%2e%2e/secret", crm), want: closed, bare: new(invalid)},
		{name: "%2f", h2: overH2("GET", "/leads/x%2fsecret", crm), want: reject, bare: new(invalid)},
		{name: "a backslash", h2: overH2("GET", `/leads\secret`, crm), want: closed, bare: new(invalid)},
		{name: "a fragment", h2: overH2("GET", "/leads/42#/../secret", crm), want: reject},
		{name: "a blank and a version", h2: overH2("GET", "/leads/42 HTTP/1.1", crm), want: reset},
		{name: "a line break and a header", h2: overH2("GET", "/leads/42 HTTP/1.1\r\nx-agent-id: data-cleaner", crm), want: reset},
		{name: "UTF-8 that is not escaped", h2: overH2("GET", "/leads/ä", crm), want: reaches("read", "crm/leads/ä"), bare: new(invalid)},
		{name: "a NUL", h2: overH2("GET", "/leads/secret\x00", crm), want: reset},
		{name: "two paths", h2: &h2{fields: []field{
			{":method", "GET"}, {":scheme", "http"}, {":path", "/leads/42"}, {":path", "/leads/secret"}, {":authority", crm}, {"x-agent-id", "lead-router"},
		}}, want: reset},
		{name: "no path", h2: &h2{fields: []field{{":method", "GET"}, {":scheme", "http"}, {":authority", crm}, {"x-agent-id", "lead-router"}}}, want: reset},
		{name: "a path behind the headers", h2: &h2{fields: []field{
			{":method", "GET"}, {":scheme", "http"}, {":authority", crm}, {"x-agent-id", "lead-router"}, {":path", "/leads/42"},
		}}, want: reset},
		{name: "a path in the trailers", h2: &h2{fields: lead().fields, data: []string{""}, trailers: []field{{":path", "/leads/secret"}}}, want: reset},

		// :method.
		{name: "two methods", h2: &h2{fields: append([]field{{":method", "DELETE"}}, lead().fields...)}, want: reset},
		{name: "no method", h2: &h2{fields: lead().fields[1:]}, want: reset},
		{name: "a method in small letters", h2: overH2("get", "/leads/42", crm), want: noRoute},
		{name: "a method with a request in it", h2: overH2("GET /leads/secret HTTP/1.1\r\nx: y\r\n\r\nGET", "/leads/42", crm), want: reset},
		{name: "x-http-method-override", h2: lead(field{"x-http-method-override", "DELETE"}), want: mismatch},
		{name: "CONNECT", h2: &h2{fields: []field{{":method", "CONNECT"}, {":authority", "crm.example.com:443"}, {"x-agent-id", "lead-router"}}}, want: envoy(404)},
		{name: "CONNECT with a path", h2: overH2("CONNECT", "/leads/secret", crm), want: reset},
		{name: "an extended CONNECT", h2: &h2{fields: []field{
			{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "http"}, {":path", "/leads/secret"}, {":authority", crm}, {"x-agent-id", "lead-router"},
		}}, want: reset},

		// :authority, host and :scheme.
		{name: "authority", h2: report(reports), want: reaches("read", "reports/weekly")},
		{name: "authority in capitals with a port", h2: report("Reports.Example.com:80"), want: reaches("read", "reports/weekly")},
		{name: "authority of another host", h2: report(crm), want: noRoute},
		{name: "host against authority", h2: report(crm, field{"host", reports}), want: noRoute},
		{name: "authority against host", h2: report(reports, field{"host", crm}), want: reaches("read", "reports/weekly")},
		{name: "host alone", h2: &h2{fields: []field{{":method", "GET"}, {":scheme", "http"}, {":path", "/leads/42"}, {"host", crm}, {"x-agent-id", "lead-router"}}}, want: fine},
		{name: "two hosts", h2: &h2{fields: []field{
			{":method", "GET"}, {":scheme", "http"}, {":path", "/reports/weekly"}, {"host", reports}, {"host", crm}, {"x-agent-id", "report-bot"},
		}}, want: reset},
		{name: "no host at all", h2: &h2{fields: []field{{":method", "GET"}, {":scheme", "http"}, {":path", "/leads/42"}, {"x-agent-id", "lead-router"}}}, want: reset},
		{name: "two authorities", h2: &h2{fields: append([]field{{":authority", reports}}, lead().fields...)}, want: reset},
		{name: "an authority with a user", h2: report("x@" + reports), want: reset},
		{name: "a scheme of one's own", h2: &h2{fields: []field{{":method", "GET"}, {":scheme", "file"}, {":path", "/leads/42"}, {":authority", crm}, {"x-agent-id", "lead-router"}}}, want: fine},
		{name: "a pseudo header of one's own", h2: &h2{fields: append([]field{{":agent", "data-cleaner"}}, lead().fields...)}, want: reset},

		// Headers that HTTP/2 forbids.
		{name: "a name in capitals", h2: lead(field{"X-Agent-Id", "data-cleaner"}), want: reset},
		{name: "an agent twice", h2: lead(field{"x-agent-id", "data-cleaner"}), want: nobody},
		{name: "connection", h2: lead(field{"connection", "x-agent-id"}), want: reset},
		{name: "transfer-encoding", h2: h2Refund([]string{`{"amount": 50}`}, field{"transfer-encoding", "chunked"}), want: reset},
		{name: "te", h2: lead(field{"te", "trailers"}), want: fine},
		{name: "te with more", h2: lead(field{"te", "trailers, chunked"}), want: reset},
		{name: "upgrade", h2: lead(field{"upgrade", "websocket"}), want: reset},
		{name: "a line break in a value", h2: lead(field{"x-note", "a\r\nx-agent-id: data-cleaner"}), want: reset},
		{name: "a NUL in a value", h2: lead(field{"x-note", "a\x00b"}), want: reset},
		{name: "a colon in a name", h2: lead(field{"x-note: a", "b"}), want: reset},
		{name: "a blank in a name", h2: lead(field{"x note", "b"}), want: reset},
		{name: "an empty name", h2: lead(field{"", "b"}), want: reset},
		{name: "an underscore in a name", h2: lead(field{"x_agent_id", "data-cleaner"}), want: reset, bare: new(mismatch)},
		{name: "x-kelpie-decision-id", h2: lead(field{"x-kelpie-decision-id", "made-up"}, field{"x-kelpie-approved", "yes"}), want: fine},

		// Bodies and trailers.
		{name: "a body", h2: h2Refund([]string{`{"amount": 50}`}), want: refunded},
		{name: "a body in parts", h2: h2Refund([]string{`{"amou`, ``, `nt": 50}`, ``}), want: refunded},
		{name: "a body that is too much", h2: h2Refund([]string{`{"amount": 50`, `00}`}), want: tooMuch},
		{name: "a key twice", h2: h2Refund([]string{`{"amount": 50, `, `"amount": 5000}`}), want: invalid},
		{name: "no body", h2: h2Refund(nil), want: unseen},
		{name: "a length that is too short", h2: h2Refund([]string{`{"amount": 50}`}, field{"content-length", "5"}), want: reset},
		{name: "a length that is too long", h2: h2Refund([]string{`{"amount": 50}`}, field{"content-length", "50"}), want: reset},
		{name: "a length of zero and a body", h2: h2Refund([]string{`{"amount": 5000}`}, field{"content-length", "0"}), want: reset},
		{name: "two lengths", h2: h2Refund([]string{`{"amount": 50}`}, field{"content-length", "14"}, field{"content-length", "0"}), want: reset},
		{name: "a length and no body", h2: h2Refund(nil, field{"content-length", "14"}), want: reset},
		{name: "trailers that name another agent", h2: &h2{
			fields: h2Refund(nil).fields, data: []string{`{"amount": 50}`}, trailers: []field{{"x-agent-id", "data-cleaner"}},
		}, want: refunded},
		{name: "as gRPC", h2: &h2{fields: []field{
			{":method", "POST"},
			{":scheme", "http"},
			{":path", "/refunds"},
			{":authority", crm},
			{"x-agent-id", "refund-bot"},
			{"content-type", "application/grpc"},
			{"te", "trailers"},
		}, data: []string{`{"amount": 5000}`}}, want: kelpie(200, "parameters_unavailable")},
		// What Envoy cannot hold is refused where it notices before the end, and is sent cut, and marked so, where the
		// last frame is the one too many. Neither may be judged by its first part.
		{name: "as large as Envoy sends", h2: h2Refund(inFrames(padded(65536))), want: refunded},
		{name: "as large as Envoy sends, and an empty frame", h2: h2Refund(append(inFrames(padded(65536)), ``)), want: refunded},
		{name: "as large as Envoy sends, and a blank", h2: h2Refund(append(inFrames(padded(65536)), ` `)), want: unseen},
		{name: "as large as Envoy sends, and another document", h2: h2Refund(append(inFrames(padded(65536)), `{"amount": 5000}`)), want: unseen},
		{name: "as large as Envoy sends, and more", h2: h2Refund(append(inFrames(padded(65536)), ` `, `{"amount": 5000}`)), want: envoy(413)},
		{name: "larger than Envoy sends", h2: h2Refund(append(inFrames(padded(80000)), ` `)), want: envoy(413)},
	}
}

// inFrames cuts a body into frames that every HTTP/2 server takes.
func inFrames(body string) []string {
	var frames []string
	for body != "" {
		n := min(len(body), 16000)
		frames, body = append(frames, body[:n]), body[n:]
	}
	return frames
}
