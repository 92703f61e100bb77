package envoytest_test

import "strings"

// h1 is a request over HTTP/1.1 by the router, with more lines of headers or others in the place of its own.
func h1(method, target string, lines ...string) string {
	head := []string{method + " " + target + " HTTP/1.1"}
	has := func(name string) bool {
		for _, l := range lines {
			if got, _, _ := strings.Cut(l, ":"); strings.EqualFold(strings.TrimSpace(got), name) {
				return true
			}
		}
		return false
	}
	for _, l := range []string{"host: crm.example.com", "x-agent-id: lead-router", "connection: close"} {
		if name, _, _ := strings.Cut(l, ":"); !has(name) {
			head = append(head, l)
		}
	}
	return strings.Join(append(head, lines...), "\r\n") + "\r\n\r\n"
}

func get(target string, lines ...string) string { return h1("GET", target, lines...) }

// paths are ways to write a path that somebody may read as another one.
func paths() []trick {
	var (
		invalid = kelpie(400, "parameters_invalid")
		noRoute = kelpie(403, "no_matching_scope")
		closed  = kelpie(403, "action_denied") // it was read as what it is, and that is denied
		reject  = envoy(400)
	)
	return []trick{
		// What is plain, so that a suite that refuses everything shows.
		{name: "plain", h1: get("/leads/42"), want: reaches("read", "crm/leads/42")},
		{name: "plain and denied", h1: get("/leads/secret"), want: closed},
		{name: "an escape that stands for a letter", h1: get("/leads/%73ecret"), want: closed},
		{name: "an escape in the first part", h1: get("/%6ceads/42"), want: reaches("read", "crm/leads/42")},
		{name: "escapes in small and large letters", h1: get("/leads/a%3Ab%3ac"), want: reaches("read", "crm/leads/a:b:c")},
		{name: "a blank that is escaped", h1: get("/leads/a%20b"), want: reaches("read", "crm/leads/a b")},
		{name: "UTF-8 that is escaped", h1: get("/leads/%C3%A4"), want: reaches("read", "crm/leads/ä")},
		{name: "UTF-8 that is not", h1: get("/leads/ä"), want: reject},

		// Slashes.
		{name: "two at the start", h1: get("//leads/secret"), want: closed, bare: new(invalid)},
		{name: "two within", h1: get("/leads//secret"), want: closed, bare: new(invalid)},
		{name: "one at the end", h1: get("/leads/secret/"), want: noRoute},
		{name: "one at the end of what is allowed", h1: get("/leads/42/"), want: noRoute},
		{name: "many", h1: get("/////"), want: invalid},
		{name: "%2f", h1: get("/leads/x%2fsecret"), want: reject, bare: new(invalid)},
		{name: "%2F", h1: get("/leads%2Fsecret"), want: reject, bare: new(invalid)},
		{name: "%5c", h1: get("/leads%5csecret"), want: reject, bare: new(invalid)},
		{name: "a backslash", h1: get(`/leads\secret`), want: closed, bare: new(invalid)},
		{name: "a backslash before dots", h1: get(`/leads/x\..\secret`), want: closed, bare: new(invalid)},
		{name: "a fullwidth slash", h1: get("/leads%EF%BC%8Fsecret"), want: noRoute},

		// Dots.
		{name: "a dot", h1: get("/leads/./secret"), want: closed, bare: new(invalid)},
		{name: "two dots", h1: get("/leads/x/../secret"), want: closed, bare: new(invalid)},
		{name: "two dots into another tree", h1: get("/files/a/../../leads/secret"), want: closed, bare: new(invalid)},
		{name: "two dots at the end", h1: get("/leads/secret/.."), want: noRoute, bare: new(invalid)},
		{name: "two dots above the root", h1: get("/../leads/secret"), want: closed, bare: new(invalid)},
		{name: "%2e", h1: get("/leads/%2e/secret"), want: closed, bare: new(invalid)},
		{name: "%2e%2e", h1: get("/leads/x/%2e%2e/secret"), want: closed, bare: new(invalid)},
		{name: "%2E.", h1: get("/leads/x/%2E./secret"), want: closed, bare: new(invalid)},
		{name: "..%2f", h1: get("/leads/x/..%2fsecret"), want: reject, bare: new(invalid)},
		{name: "..;", h1: get("/leads/x/..;/secret"), want: closed, bare: new(invalid)},
		{name: "three dots", h1: get("/leads/..."), want: reaches("read", "crm/leads/...")},
		{name: "a dot at the end of a name", h1: get("/leads/secret."), want: reaches("read", "crm/leads/secret.")},

		// Twice encoded, badly encoded.
		{name: "%252e%252e", h1: get("/leads/x/%252e%252e/secret"), want: invalid},
		{name: "%252f", h1: get("/leads/x%252fsecret"), want: invalid},
		{name: "%2573ecret", h1: get("/leads/%2573ecret"), want: invalid},
		{name: "%25 at the end", h1: get("/leads/100%25"), want: reaches("read", "crm/leads/100%")},
		{name: "% and no digits", h1: get("/leads/%"), want: invalid},
		{name: "% and one digit", h1: get("/leads/%2"), want: invalid},
		{name: "%zz", h1: get("/leads/%zzecret"), want: invalid},
		{name: "%u0073", h1: get("/leads/%u0073ecret"), want: invalid},
		{name: "overlong UTF-8 of a dot", h1: get("/leads/%c0%ae%c0%ae/secret"), want: invalid},
		{name: "overlong UTF-8 of a slash", h1: get("/leads/x%c0%afsecret"), want: invalid},
		{name: "overlong UTF-8 of three bytes", h1: get("/leads/x%e0%80%afsecret"), want: invalid},
		{name: "half a surrogate", h1: get("/leads/%ed%a0%80"), want: invalid},
		{name: "half of UTF-8", h1: get("/leads/%c3"), want: invalid},

		// What ends a path for some.
		{name: "%00", h1: get("/leads/secret%00"), want: reject, bare: new(invalid)},
		{name: "%00 before something harmless", h1: get("/leads/secret%00.png"), want: reject, bare: new(invalid)},
		{name: "%0d%0a", h1: get("/leads/42%0d%0ax-agent-id:%20data-cleaner"), want: invalid},
		{name: "%09", h1: get("/leads/secret%09"), want: invalid},
		{name: "%7f", h1: get("/leads/secret%7f"), want: invalid},
		{name: "a semicolon", h1: get("/leads/secret;v=1"), want: invalid},
		{name: "a semicolon that is escaped", h1: get("/leads/secret%3bv=1"), want: invalid},
		{name: "a question mark that is escaped", h1: get("/leads/secret%3f"), want: invalid},
		{name: "a hash that is escaped", h1: get("/leads/secret%23"), want: invalid},
		{name: "a fragment", h1: get("/leads/secret#x"), want: reject},
		{name: "a fragment that hides the rest", h1: get("/leads/42#/../secret"), want: reject},
		{name: "a query", h1: get("/leads/secret?x=1"), want: closed},
		{name: "a query that holds a path", h1: get("/leads/42?x=/../secret"), want: reaches("read", "crm/leads/42")},
		{name: "two question marks", h1: get("/leads/42?a=1?b=2"), want: reaches("read", "crm/leads/42")},
		{name: "a query with a name twice", h1: get("/leads/42?a=1&a=2"), want: invalid},
		{name: "a query with a name twice, once escaped", h1: get("/leads/42?a=1&%61=2"), want: invalid},
		{name: "a query with semicolons", h1: get("/leads/42?a=1;a=2"), want: invalid},
		{name: "a query with a broken escape", h1: get("/leads/42?a=%zz"), want: invalid},
		{name: "a blank", h1: get("/leads/secret x"), want: reject},
		{name: "a tab", h1: get("/leads/secret\tx"), want: reject},

		// Case, and other spellings of a name.
		{name: "capitals in the last part", h1: get("/leads/SECRET"), want: reaches("read", "crm/leads/SECRET")},
		{name: "capitals in the first part", h1: get("/LEADS/42"), want: noRoute},
		{name: "fullwidth letters", h1: get("/leads/%EF%BD%93ecret"), want: reaches("read", "crm/leads/ｓecret")},
		{name: "a blank at the end", h1: get("/leads/secret%20"), want: reaches("read", "crm/leads/secret ")},
		{name: "a plus", h1: get("/leads/a+b"), want: reaches("read", "crm/leads/a+b")},
		{name: "a star", h1: get("/leads/*"), want: reaches("read", "crm/leads/*")},
		{name: "braces", h1: get("/leads/%7Bid%7D"), want: reaches("read", "crm/leads/{id}")},
		{name: "the rest of a path", h1: get("/files/a/b/c.txt"), want: reaches("read", "crm/files/a/b/c.txt")},
		{name: "the rest of a path, denied", h1: get("/files/secret/a"), want: closed},
		{name: "the rest of a path, an empty part", h1: get("/files/a//secret"), want: reaches("read", "crm/files/a/secret"), bare: new(invalid)},
		{name: "the rest of a path, nothing", h1: get("/files/"), want: noRoute},
		{name: "nothing", h1: get("/"), want: noRoute},

		// Targets that are no paths.
		{name: "no slash", h1: get("leads/secret"), want: reject},
		{name: "a star alone", h1: get("*"), want: reject},
		{name: "absolute", h1: get("http://crm.example.com/leads/42"), want: reaches("read", "crm/leads/42")},
		{name: "absolute, denied", h1: get("http://crm.example.com/leads/secret"), want: closed},
		{name: "absolute, with dots", h1: get("http://crm.example.com/x/../leads/secret"), want: closed, bare: new(invalid)},
		{name: "absolute without a path", h1: get("http://crm.example.com"), want: noRoute},
		{name: "absolute with a fragment", h1: get("http://crm.example.com/leads/42#x"), want: reject},
		{name: "absolute in a path", h1: get("/http://crm.example.com/leads/secret"), want: noRoute, bare: new(invalid)},
		{name: "a path as long as Kelpie takes", h1: get("/leads/" + strings.Repeat("a", 900)), want: reaches("read", "crm/leads/"+strings.Repeat("a", 900))},
		{name: "a path that is too long", h1: get("/leads/" + strings.Repeat("a", 9000)), want: invalid},
	}
}
