package envoytest_test

import "strings"

// headers are lies in headers: who asks, from where, by which method, for which host, and what Kelpie said.
func headers() []trick {
	var (
		fine     = reaches("read", "crm/leads/42")
		mismatch = kelpie(400, "header_mismatch")
		nobody   = kelpie(401, "unauthenticated_identity")
		reject   = envoy(400)
	)
	return append([]trick{
		// Who asks.
		{name: "no agent", h1: without("x-agent-id", get("/leads/42")), want: nobody},
		{name: "an empty agent", h1: get("/leads/42", "x-agent-id:"), want: nobody},
		{name: "two agents", h1: get("/leads/42", "x-agent-id: lead-router", "x-agent-id: data-cleaner"), want: nobody},
		{name: "the same agent twice", h1: get("/leads/42", "x-agent-id: lead-router", "x-agent-id: lead-router"), want: nobody},
		{name: "two agents in one header", h1: get("/leads/42", "x-agent-id: lead-router,data-cleaner"), want: nobody},
		{name: "another spelling of the name", h1: get("/leads/42", "X-AGENT-ID: lead-router"), want: fine},
		{name: "a second agent with underscores", h1: get("/leads/42", "x-agent-id: lead-router", "x_agent_id: data-cleaner"), want: reject, bare: new(mismatch)},
		{name: "an agent with underscores alone", h1: without("x-agent-id", get("/leads/42", "x_agent_id: lead-router")), want: reject, bare: new(mismatch)},
		{name: "blanks around the agent", h1: get("/leads/42", "x-agent-id: \t lead-router \t"), want: fine},
		{name: "a blank before the colon", h1: get("/leads/42", "x-agent-id : lead-router"), want: reject},
		{name: "a folded line", h1: get("/leads/42", "x-agent-id: lead-\r\n router"), want: nobody},
		{name: "a NUL in the agent", h1: get("/leads/42", "x-agent-id: lead-router\x00"), want: reject},
		{name: "a bare CR in the agent", h1: get("/leads/42", "x-agent-id: lead-router\rx: y"), want: nobody},
		{name: "an agent that the connection drops", h1: get("/leads/42", "x-agent-id: lead-router", "connection: close, x-agent-id"), want: nobody},
		{name: "an agent by context", h1: get("/leads/42", "x-agent-id: lead-router", "agent: data-cleaner"), want: fine},
		{name: "the certificate of another", h1: get("/leads/42", "x-forwarded-client-cert: URI=spiffe://prod.example/admin"), want: fine},

		// From where. Kelpie's record must name 127.0.0.1 in each.
		{name: "x-forwarded-for", h1: get("/leads/42", "x-forwarded-for: 203.0.113.9"), want: fine},
		{name: "x-forwarded-for, many", h1: get("/leads/42", "x-forwarded-for: 203.0.113.9, 10.0.0.1", "x-forwarded-for: 192.0.2.77"), want: fine},
		{name: "x-forwarded-for, no address", h1: get("/leads/42", "x-forwarded-for: unknown"), want: fine},
		{name: "x-real-ip and its like", h1: get("/leads/42", "x-real-ip: 203.0.113.9", "true-client-ip: 203.0.113.9", "forwarded: for=203.0.113.9"), want: fine},
		{name: "x-envoy-external-address", h1: get("/leads/42", "x-envoy-external-address: 203.0.113.9"), want: fine},

		// By which method.
		{name: "x-http-method-override", h1: get("/leads/42", "x-http-method-override: DELETE"), want: mismatch},
		{name: "x-http-method", h1: get("/leads/42", "x-http-method: DELETE"), want: mismatch},
		{name: "x-method-override", h1: get("/leads/42", "x-method-override: DELETE"), want: mismatch},
		{name: "x-http-method-override with underscores", h1: get("/leads/42", "x_http_method_override: DELETE"), want: reject, bare: new(mismatch)},
		{name: "x-http-method-override that says the same", h1: get("/leads/42", "x-http-method-override: GET"), want: fine},
		{name: "_method in the query", h1: get("/leads/42?_method=DELETE"), want: mismatch},
		{name: "a method in small letters", h1: h1("get", "/leads/42"), want: reject},
		{name: "a method of one's own", h1: h1("FETCH", "/leads/42"), want: reject},
		{name: "DELETE by the router", h1: h1("DELETE", "/leads/42"), want: kelpie(403, "insufficient_scope")},
		{name: "HEAD is a read too", h1: h1("HEAD", "/leads/42"), want: fine},
		{name: "TRACE", h1: h1("TRACE", "/leads/42"), want: kelpie(403, "no_matching_scope")},
		{name: "CONNECT", h1: h1("CONNECT", "crm.example.com:443"), want: envoy(404)},
		{name: "OPTIONS *", h1: h1("OPTIONS", "*"), want: envoy(404)},

		// What Kelpie and Envoy tell each other and the upstream.
		{name: "x-kelpie-decision-id", h1: get("/leads/42", "x-kelpie-decision-id: made-up"), want: fine},
		{name: "x-kelpie-decision-id twice", h1: get("/leads/42", "x-kelpie-decision-id: made-up", "x-kelpie-decision-id: twice"), want: fine},
		{name: "x-kelpie-decision-id dropped by the connection", h1: get("/leads/42", "connection: close, x-kelpie-decision-id"), want: fine},
		{name: "x-kelpie-approved", h1: get("/leads/42", "x-kelpie-approved: yes", "X-Kelpie-Agent: data-cleaner"), want: fine},
		{name: "x_kelpie_decision_id", h1: get("/leads/42", "x_kelpie_decision_id: made-up"), want: reject, bare: new(fine)},
		{name: "x-kelpie_approved", h1: get("/leads/42", "x-kelpie_approved: yes"), want: reject, bare: new(fine)},
		{name: "x-envoy-auth-partial-body", h1: get("/leads/42", "x-envoy-auth-partial-body: true"), want: fine},
		{name: "x-envoy-original-path", h1: get("/leads/42", "x-envoy-original-path: /leads/1"), want: fine},
		{name: "x-envoy-original-method", h1: get("/leads/42", "x-envoy-original-method: DELETE"), want: fine},
		{name: "x-envoy-decorator-operation", h1: get("/leads/42", "x-envoy-decorator-operation: x", "x-envoy-internal: true"), want: fine},
		{name: "x-original-url", h1: get("/leads/42", "x-original-url: /leads/secret"), want: mismatch},
		{name: "x-rewrite-url", h1: get("/leads/42", "x-rewrite-url: /leads/secret"), want: mismatch},
		{name: "x-forwarded-uri", h1: get("/leads/42", "x-forwarded-uri: /leads/secret"), want: fine},
		{name: "x-forwarded-prefix", h1: get("/leads/42", "x-forwarded-prefix: /leads/secret"), want: fine},
		{name: ":path as a header", h1: get("/leads/42", ":path: /leads/secret"), want: reject},
		{name: "grpc-timeout", h1: get("/leads/42", "grpc-timeout: 1n", "te: trailers"), want: fine},
		{name: "many headers", h1: get("/leads/42", strings.Split(strings.TrimSuffix(strings.Repeat("x-filler: 1\n", 90), "\n"), "\n")...), want: fine},
		{name: "too many headers", h1: get("/leads/42", strings.Split(strings.TrimSuffix(strings.Repeat("x-filler: 1\n", 200), "\n"), "\n")...), want: envoy(431)},
		{name: "an upgrade to HTTP/2", h1: get("/leads/42", "connection: upgrade, http2-settings", "upgrade: h2c", "http2-settings: AAMAAABkAAQAAP__"), want: fine},
		{name: "an upgrade to a websocket", h1: get("/leads/42", "connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13", "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA=="), want: envoy(403)},
		{name: "HTTP/1.0", h1: "GET /leads/42 HTTP/1.0\r\nhost: crm.example.com\r\nx-agent-id: lead-router\r\n\r\n", want: envoy(426)},
		{name: "HTTP/0.9", h1: "GET /leads/42\r\n\r\n", want: envoy(426)},
		{name: "no CR", h1: strings.ReplaceAll(get("/leads/42"), "\r\n", "\n"), want: fine},
	}, hosts()...)
}

// hosts are spellings of the host of the report, which only the report's agent may read.
func hosts() []trick {
	report := func(lines ...string) string {
		return get("/reports/weekly", append(lines, "x-agent-id: report-bot")...)
	}
	var (
		fine    = reaches("read", "reports/weekly")
		noRoute = kelpie(403, "no_matching_scope")
		reject  = envoy(400)
		invalid = kelpie(400, "parameters_invalid")
	)
	return []trick{
		{name: "host", h1: report("host: reports.example.com"), want: fine},
		{name: "host, by another agent", h1: get("/reports/weekly", "host: reports.example.com"), want: kelpie(403, "insufficient_scope")},
		{name: "host, another one", h1: report("host: crm.example.com"), want: noRoute},
		{name: "host with a port", h1: report("host: reports.example.com:8080"), want: fine},
		{name: "host in capitals", h1: report("host: Reports.EXAMPLE.com"), want: fine},
		{name: "host with a dot at its end", h1: report("host: reports.example.com."), want: invalid},
		{name: "host with a dot and a port", h1: report("host: REPORTS.example.com.:443"), want: invalid},
		{name: "host with two dots", h1: report("host: reports.example.com.."), want: invalid},
		{name: "host with an empty port", h1: report("host: reports.example.com:"), want: invalid},
		{name: "host with letters for a port", h1: report("host: reports.example.com:http"), want: invalid},
		{name: "host with a user", h1: report("host: crm.example.com@reports.example.com"), want: invalid},
		{name: "host with a path", h1: report("host: reports.example.com/x"), want: reject},
		{name: "two hosts in one line", h1: report("host: crm.example.com, reports.example.com"), want: reject},
		{name: "two lines of host", h1: report("host: reports.example.com", "host: crm.example.com"), want: invalid},
		{name: "no host", h1: without("host", report()), want: reject},
		{name: "an empty host", h1: report("host:"), want: invalid},
		{name: "host below it", h1: report("host: x.reports.example.com"), want: noRoute},
		{name: "host that ends like it", h1: report("host: xreports.example.com"), want: noRoute},
		{name: "x-forwarded-host", h1: report("host: crm.example.com", "x-forwarded-host: reports.example.com"), want: kelpie(400, "header_mismatch")},
		{name: "x-forwarded-host the other way", h1: get("/leads/42", "x-forwarded-host: reports.example.com"), want: kelpie(400, "header_mismatch")},
		{name: "forwarded with a host", h1: get("/leads/42", "forwarded: for=10.0.0.1;host=reports.example.com"), want: kelpie(400, "header_mismatch")},
		{name: "x-http-method-override with dots", h1: get("/leads/42", "x.http.method.override: DELETE"), want: kelpie(400, "header_mismatch")},
		{name: "an agent with dots", h1: get("/leads/42", "x.agent.id: data-cleaner"), want: kelpie(400, "header_mismatch")},
		{name: "script_name", h1: get("/leads/42", "script_name: /leads"), want: reject, bare: new(kelpie(400, "header_mismatch"))},
		{name: "absolute target against the host", h1: get("http://reports.example.com/reports/weekly", "host: crm.example.com", "x-agent-id: report-bot"), want: fine},
		{name: "absolute target of another host", h1: get("http://crm.example.com/reports/weekly", "host: reports.example.com", "x-agent-id: report-bot"), want: noRoute},
		{name: "absolute target with a user", h1: get("http://x@reports.example.com/reports/weekly", "x-agent-id: report-bot"), want: fine},
		{name: "absolute target by https", h1: get("https://reports.example.com/reports/weekly", "x-agent-id: report-bot"), want: envoy(403)},
	}
}

// without takes the lines of a header out.
func without(name, request string) string {
	var kept []string
	for l := range strings.SplitSeq(request, "\r\n") {
		if got, _, _ := strings.Cut(l, ":"); got != name {
			kept = append(kept, l)
		}
	}
	return strings.Join(kept, "\r\n")
}
