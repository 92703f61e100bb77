package envoytest_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"strings"
)

// refund is a request with a body and its length, as JSON unless the lines say otherwise.
func refund(body string, lines ...string) string {
	return framed(fmt.Sprintf("content-length: %d", len(body)), body, lines...)
}

// framed is refund with a framing of the caller's.
func framed(framing, body string, lines ...string) string {
	lines = append(lines, "x-agent-id: refund-bot", framing)
	for _, l := range lines {
		if strings.HasPrefix(l, "content-type:") {
			return h1("POST", "/refunds", lines...) + body
		}
	}
	return h1("POST", "/refunds", append(lines, "content-type: application/json")...) + body
}

func chunks(parts ...string) string {
	var out strings.Builder
	for _, p := range parts {
		fmt.Fprintf(&out, "%x\r\n%s\r\n", len(p), p)
	}
	return out.String() + "0\r\n\r\n"
}

func zipped(text string) string {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write([]byte(text)) // A bytes.Buffer takes everything.
	w.Close()
	return out.String()
}

// bodies are refunds: at most 100 are granted, and the body says how much.
func bodies() []trick {
	const small, large = `{"amount": 50}`, `{"amount": 5000}`
	var (
		fine     = reaches("create", "crm/refunds")
		tooMuch  = kelpie(403, "condition_failed")
		invalid  = kelpie(400, "parameters_invalid")
		unseen   = kelpie(403, "parameters_unavailable")
		mismatch = kelpie(400, "header_mismatch")
		reject   = envoy(400)
	)
	return append([]trick{
		{name: "small", h1: refund(small), want: fine},
		{name: "large", h1: refund(large), want: tooMuch},
		{name: "none", h1: refund(""), want: unseen},
		{name: "no framing", h1: h1("POST", "/refunds", "x-agent-id: refund-bot", "content-type: application/json"), want: unseen},

		// JSON that is read in two ways.
		{name: "a key twice", h1: refund(`{"amount": 50, "amount": 5000}`), want: invalid},
		{name: "a key twice, the other way", h1: refund(`{"amount": 5000, "amount": 50}`), want: invalid},
		{name: "a key twice, once escaped", h1: refund(`{"amount": 50, "\u0061mount": 5000}`), want: invalid},
		{name: "a key twice, below", h1: refund(`{"amount": 50, "to": {"a": 1, "a": 2}}`), want: invalid},
		{name: "two documents", h1: refund(small + large), want: invalid},
		{name: "something behind the document", h1: refund(small + "x"), want: invalid},
		{name: "a comment", h1: refund(`{"amount": 50 /*, "amount": 5000 */}`), want: invalid},
		{name: "a comma at the end", h1: refund(`{"amount": 50,}`), want: invalid},
		{name: "single quotes", h1: refund(`{'amount': 50}`), want: invalid},
		{name: "a mark of byte order", h1: refund("\ufeff" + small), want: invalid},
		{name: "UTF-16", h1: refund("{\x00}\x00"), want: invalid},
		{name: "bytes that are not UTF-8", h1: refund("{\"amount\": 50, \"note\": \"\xff\"}"), want: invalid},
		{name: "half a surrogate", h1: refund(`{"amount": 50, "note": "\ud800"}`), want: invalid},
		{name: "a NUL", h1: refund("{\"amount\": 50}\x00"), want: invalid},
		{name: "half a document", h1: refund(`{"amount": 50`), want: invalid},
		{name: "a list", h1: refund(`[{"amount": 50}]`), want: invalid},
		{name: "a number", h1: refund("50"), want: invalid},
		{name: "null", h1: refund("null"), want: invalid},
		{name: "an empty object", h1: refund("{}"), want: tooMuch},
		{name: "a text for a number", h1: refund(`{"amount": "50"}`), want: tooMuch},
		{name: "a number too large for anybody", h1: refund(`{"amount": 1e400}`), want: invalid},
		{name: "a number with too many digits", h1: refund(`{"amount": 50.00000000000000000001}`), want: invalid},
		{name: "a name in capitals alone", h1: refund(`{"AMOUNT": 50}`), want: tooMuch},
		{name: "a name twice but for capitals", h1: refund(`{"amount": 50, "AMOUNT": 5000}`), want: kelpie(400, "parameters_invalid")},
		{name: "deep", h1: refund(`{"amount": 50, "x": ` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + "}"), want: invalid},

		// What the body is said to be.
		{name: "as text", h1: refund(large, "content-type: text/plain"), want: unseen},
		{name: "as a form", h1: refund("amount=5000", "content-type: application/x-www-form-urlencoded"), want: unseen},
		{name: "as gRPC", h1: refund(large, "content-type: application/grpc"), want: kelpie(200, "parameters_unavailable")},
		{name: "as nothing", h1: refund(large, "content-type:"), want: unseen},
		{name: "as JSON in capitals", h1: refund(large, "content-type: APPLICATION/JSON"), want: tooMuch},
		{name: "as JSON of some kind", h1: refund(large, "content-type: application/vnd.crm+json"), want: tooMuch},
		{name: "as JSON in UTF-8", h1: refund(small, "content-type: application/json; charset=utf-8"), want: fine},
		{name: "as JSON in UTF-16", h1: refund(small, "content-type: application/json; charset=utf-16"), want: kelpie(400, "parameters_invalid")},
		{name: "as two things", h1: refund(small, "content-type: application/json", "content-type: text/plain"), want: mismatch},
		{name: "as two things in one line", h1: refund(small, "content-type: application/json, text/plain"), want: mismatch},
		{name: "as multipart", h1: refund("--x\r\n\r\n"+small+"\r\n--x--", "content-type: multipart/form-data; boundary=x"), want: unseen},
		{name: "packed", h1: refund(zipped(large), "content-encoding: gzip"), want: kelpie(400, "parameters_invalid")},
		{name: "packed, it says", h1: refund(small, "content-encoding: gzip"), want: kelpie(400, "parameters_invalid")},

		// Parameters from elsewhere.
		{name: "an amount in the query", h1: strings.Replace(refund(large), "/refunds", "/refunds?amount=50", 1), want: invalid},
		{name: "an amount in the query alone", h1: strings.Replace(refund("{}"), "/refunds", "/refunds?amount=50", 1), want: tooMuch},
		{name: "another name in the query", h1: strings.Replace(refund(small), "/refunds", "/refunds?note=1", 1), want: fine},

		// Framing.
		{name: "chunked", h1: framed("transfer-encoding: chunked", chunks(`{"amount"`, `: 50}`)), want: fine},
		{name: "chunked, large", h1: framed("transfer-encoding: chunked", chunks(`{"amount": 50`, `00}`)), want: tooMuch},
		{name: "chunked with an extension", h1: framed("transfer-encoding: chunked", "e;x=y\r\n"+small+"\r\n0\r\n\r\n"), want: fine},
		{name: "chunked with a trailer", h1: framed("transfer-encoding: chunked", "e\r\n"+small+"\r\n0\r\nx-agent-id: data-cleaner\r\n\r\n"), want: fine},
		{name: "chunked in capitals", h1: framed("transfer-encoding: CHUNKED", chunks(small)), want: fine},
		{name: "chunked, not last", h1: framed("transfer-encoding: chunked, gzip", chunks(small)), want: envoy(501)},
		{name: "chunked twice", h1: framed("transfer-encoding: chunked, chunked", chunks(small)), want: envoy(501)},
		{name: "chunked with a blank before the colon", h1: framed("transfer-encoding : chunked", chunks(small)), want: reject},
		{name: "chunked with a vertical tab", h1: framed("transfer-encoding: \x0bchunked", chunks(small)), want: reject},
		{name: "chunked and a length", h1: framed("transfer-encoding: chunked\r\ncontent-length: 4", chunks(small)), want: reject},
		{name: "a length and chunked", h1: framed("content-length: 4\r\ntransfer-encoding: chunked", chunks(small)), want: reject},
		{name: "two lengths", h1: framed("content-length: 14\r\ncontent-length: 0", small), want: reject},
		{name: "two lengths in one line", h1: framed("content-length: 14, 14", small), want: reject},
		{name: "a length with a sign", h1: framed("content-length: +14", small), want: reject},
		{name: "a negative length", h1: framed("content-length: -1", small), want: reject},
		{name: "a length of hexadecimal digits", h1: framed("content-length: 0xe", small), want: reject},
		{name: "a size of a chunk that is negative", h1: framed("transfer-encoding: chunked", "-1\r\n"), want: reject},
		{name: "a size of a chunk that is too large", h1: framed("transfer-encoding: chunked", "fffffffffffffffff\r\n"), want: reject},
		{name: "a second request behind the length", h1: refund(small) + get("/leads/secret"), want: fine},
		{name: "a request in the body of a GET", h1: get("/leads/42", fmt.Sprintf("content-length: %d", len(get("/leads/secret")))) + get("/leads/secret"), want: reaches("read", "crm/leads/42")},
		{name: "a length of zero before a request", h1: get("/leads/42", "content-length: 0") + get("/leads/secret"), want: reaches("read", "crm/leads/42")},

		// What was seen of it.
		{name: "x-envoy-auth-partial-body: true", h1: refund(small, "x-envoy-auth-partial-body: true"), want: fine},
		{name: "x-envoy-auth-partial-body: false", h1: refund(large, "x-envoy-auth-partial-body: false"), want: tooMuch},
		{name: "as large as Envoy sends", h1: refund(padded(65536)), want: fine},
		{name: "larger than Envoy sends", h1: refund(padded(65537)), want: envoy(413)},
		{name: "larger than Envoy sends, chunked", h1: framed("transfer-encoding: chunked", chunks(padded(40000), strings.Repeat(" ", 40000))), want: envoy(413)},
		{name: "expects 100-continue", h1: refund(small, "expect: 100-continue"), want: fine},
	}, overrides()...)
}

// update is a change of a lead by POST, with a form that says what it wants.
func update(contentType, body string, lines ...string) string {
	return h1("POST", "/leads/42", append(lines, "content-type: "+contentType, fmt.Sprintf("content-length: %d", len(body)))...) + body
}

// overrides are methods in bodies, which many frameworks obey.
func overrides() []trick {
	const form = "application/x-www-form-urlencoded"
	mismatch := kelpie(400, "header_mismatch")
	return []trick{
		{name: "a form", h1: update(form, "a=1"), want: reaches("update", "crm/leads/42")},
		{name: "_method in a form", h1: update(form, "a=1&_method=DELETE"), want: mismatch},
		{name: "_method in a form, escaped", h1: update(form, "%5fmethod=DELETE"), want: mismatch},
		{name: "_method in a form, twice", h1: update(form, "_method=POST&_method=DELETE"), want: mismatch},
		{name: "_method in a form in capitals", h1: update("Application/X-WWW-Form-Urlencoded ;charset=utf-8", "_method=DELETE"), want: mismatch},
		{name: "_method in a form of another charset", h1: update(form+"; charset=ISO-8859-1", "_method=DELETE"), want: mismatch},
		{name: "_method in a form with a broken parameter", h1: update(form+"; charset", "_method=DELETE"), want: mismatch},
		{name: "_method in a form that says it is packed", h1: update(form, "_method=DELETE", "content-encoding: gzip"), want: mismatch},
		{name: "_method in JSON", h1: update("application/json", `{"_method": "DELETE"}`), want: mismatch},
		{name: "_method in JSON of another charset", h1: update("application/json; charset=ISO-8859-1", `{"_method": "DELETE"}`), want: mismatch},
		{name: "_method in JSON that says it is packed", h1: update("application/json", `{"_method": "DELETE"}`, "content-encoding: gzip"), want: mismatch},
		{name: "_method in a form that is packed", h1: update(form, zipped("_method=DELETE"), "content-encoding: gzip"), want: kelpie(400, "parameters_invalid")},
		{name: ".method in a form", h1: update(form, ".method=DELETE"), want: mismatch},
		{name: "_method in a form, cut by NUL", h1: update(form, "_method%00x=DELETE"), want: mismatch},
		{name: "_method in a form, behind a semicolon", h1: update(form, "a=1;_method=DELETE"), want: mismatch},
		{name: "_method in a form, in brackets", h1: update(form, "_method[]=DELETE"), want: mismatch},
		{name: "a header's name in a form", h1: update(form, "X-HTTP-Method-Override=DELETE"), want: mismatch},
		{name: "_method in a part by its content-id", h1: update("multipart/form-data; boundary=x", "--x\r\nContent-ID: _method\r\n\r\nDELETE\r\n--x--\r\n"), want: mismatch},
		{
			name: "_method in a part in an encoded word",
			h1:   update("multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"=?UTF-8?B?X21ldGhvZA==?=\"\r\n\r\nDELETE\r\n--x--\r\n"),
			want: mismatch,
		},
		{
			name: "_method in a multipart form",
			h1:   update("multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"_method\"\r\n\r\nDELETE\r\n--x--\r\n"),
			want: mismatch,
		},
	}
}

// padded is a small refund of a size.
func padded(size int) string {
	const frame = `{"amount": 50, "note": ""}`
	return strings.Replace(frame, `""`, `"`+strings.Repeat("x", size-len(frame))+`"`, 1)
}
