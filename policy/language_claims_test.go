package policy_test

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"strconv"
	"strings"
	"testing"
)

// languageClaim is one sentence of docs/language.md. Its id is the section
// and the number of the sentence in it; sum begins the SHA-256 of its text,
// so that a sentence that was changed has its cases looked at again.
type languageClaim struct {
	id, sum string
	// elsewhere names the layer that tests what this package cannot, and why.
	elsewhere string
}

var languageClaims = []languageClaim{
	{id: "Documents/1", sum: "f89615c4", elsewhere: "cli: which files of a directory are documents and that subfolders are not read is the loader of internal/app; policy gets documents"},
	{id: "Documents/2", sum: "1ea6d177"},
	{id: "Documents/3", sum: "6aebefcd"},
	{id: "Documents/4", sum: "ab11d1b0"},
	{id: "Documents/5", sum: "82f61a53", elsewhere: "pdp: decision and semantic are enums of requests and test files, not of policies"},
	{id: "Documents/6", sum: "7e6094ac"},
	{id: "Documents/7", sum: "2a7b0d78"},
	{id: "Documents/8", sum: "1861b939"},
	{id: "Documents/9", sum: "1bcf36bc"},
	{id: "Documents/10", sum: "ad30ef7a"},
	{id: "Documents/11", sum: "74cd7713", elsewhere: "later issue: identity and gateways; the listeners' part is tested by server"},
	{id: "Names and patterns/1", sum: "4633e825"},
	{id: "Names and patterns/2", sum: "4ccd5b05"},
	{id: "Names and patterns/3", sum: "9e31a934"},
	{id: "Names and patterns/4", sum: "863235a7"},
	{id: "Names and patterns/5", sum: "9841c16f"},
	{id: "Names and patterns/6", sum: "2c676b99"},
	{id: "Names and patterns/7", sum: "c2a7ca3c", elsewhere: "server: that a door decodes exactly once is tested at each door"},
	{id: "Names and patterns/8", sum: "63b60428"},
	{id: "Names and patterns/9", sum: "17c97fe3", elsewhere: "pdp: COMPLETE without parameters_json is a fault of the request, not of the parameters"},
	{id: "Names and patterns/10", sum: "ee281166", elsewhere: "server: the status of a malformed single call; pdp and policytest: parameters_invalid in batches and tests"},
	{id: "Names and patterns/11", sum: "31535a94"},
	{id: "Names and patterns/12", sum: "aa7222dd"},
	{id: "Names and patterns/13", sum: "38e6e79e"},
	{id: "Names and patterns/14", sum: "ff9b2ee1"},
	{id: "Names and patterns/15", sum: "ad93ee03"},
	{id: "Grants and risk/1", sum: "7d9d8b44"},
	{id: "Grants and risk/2", sum: "2720f763"},
	{id: "Grants and risk/3", sum: "3e9f3500"},
	{id: "Grants and risk/4", sum: "54cfee75", elsewhere: "later issue: the token's ceiling comes with identity"},
	{id: "Grants and risk/5", sum: "f9114b42", elsewhere: "later issue: the token's ceiling comes with identity"},
	{id: "Grants and risk/6", sum: "523ee3b8"},
	{id: "Grants and risk/7", sum: "3d0ee168"},
	{id: "Grants and risk/8", sum: "29ad8fea"},
	{id: "Grants and risk/9", sum: "2c5df55a", elsewhere: "policy: verb.go is the one file with the lists; the verbs of the case of Grants and risk/8 are its test, word by word"},
	{id: "Grants and risk/10", sum: "cd2195a5"},
	{id: "Grants and risk/11", sum: "2deeb9f1"},
	{id: "Grants and risk/12", sum: "e4e4bde7"},
	{id: "Grants and risk/13", sum: "5a071efd", elsewhere: "later issue: a tool's pinned risk comes with the MCP door"},
	{id: "Grants and risk/14", sum: "b4fa3533"},
	{id: "Grants and risk/15", sum: "316f93e5"},
	{id: "Grants and risk/16", sum: "aeae2fa8", elsewhere: "cli: the lint warning of a guardrail without approvers"},
	{id: "Grants and risk/17", sum: "76b9d4ff"},
	{id: "Grants and risk/18", sum: "296af127", elsewhere: "pdp: breaking the glass; cli: that lint asks for no rule that names the group"},
	{id: "Match and when/1", sum: "4b0bac17"},
	{id: "Match and when/2", sum: "b60bd852", elsewhere: "later issue: the id from a credential comes with identity; approvals: with their store"},
	{id: "Match and when/3", sum: "5c4c982e"},
	{id: "Match and when/4", sum: "90368df1"},
	{id: "Match and when/5", sum: "eae6a251"},
	{id: "Match and when/6", sum: "902940a4", elsewhere: "later issue: the AuthZEN door"},
	{id: "Match and when/7", sum: "c71a2f1f"},
	{id: "Match and when/8", sum: "7ed1d750"},
	{id: "Match and when/9", sum: "099c8cb6"},
	{id: "Match and when/10", sum: "841204a4"},
	{id: "Order and reasons/1", sum: "7747e674", elsewhere: "pdp: gateway, limits, approval consumed and audit are composed there; later issues: revocation and credential"},
	{id: "Order and reasons/2", sum: "eb2dfdf2"},
	{id: "Order and reasons/3", sum: "932cdfef", elsewhere: "later issue: that one human fills one factor is judged by the approvals store"},
	{id: "Order and reasons/4", sum: "5f842ccd", elsewhere: "later issue: the shortest counts where an approval is opened, in the approvals store"},
	{id: "Order and reasons/5", sum: "1dcc1636", elsewhere: "pdp: approval_pending, and that no limit is looked at while an approval is outstanding"},
	{id: "Order and reasons/6", sum: "3200759d", elsewhere: "later issue: approvals store"},
	{id: "Order and reasons/7", sum: "c074435e", elsewhere: "later issue: approvals store; pdp: approval_id is answered UNIMPLEMENTED until then"},
	{id: "Order and reasons/8", sum: "5111f635", elsewhere: "later issue: ok_grant comes with standing grants"},
	{id: "Order and reasons/9", sum: "89e983af"},
	{id: "Order and reasons/10", sum: "9a6f9345", elsewhere: "pdp: the limits that lacked, and met approval rules beside the grants of an ALLOW"},
	{id: "Order and reasons/11", sum: "879a052c"},
	{id: "Order and reasons/12", sum: "f9cf556c", elsewhere: "pdp: a shadow limit is charged only when the real decision is ALLOW"},
	{id: "Order and reasons/13", sum: "fcda2347", elsewhere: "pdp: the outcome of a limit in shadow"},
	{id: "Limits/1", sum: "fe27216f", elsewhere: "limiter: limitertest holds windows, calendars and concurrency to their definition"},
	{id: "Limits/2", sum: "60d3176c"},
	{id: "Limits/3", sum: "5b30ff5d", elsewhere: "limiter: all or nothing is a case of limitertest"},
	{id: "Limits/4", sum: "5ac3d933", elsewhere: "limiter: cost, cost_exceeds_limit and the wait of concurrency are cases of limitertest; pdp: absent or 0 cost is 1"},
	{id: "Limits/5", sum: "2fcff176"},
	{id: "Limits/6", sum: "9aa0e1f0"},
	{id: "Limits/7", sum: "43dc9ebe"},
	{id: "Limits/8", sum: "4526023e"},
	{id: "Limits/9", sum: "84b8450b"},
	{id: "Limits/10", sum: "3b5c5621"},
	{id: "Limits/11", sum: "7ac638b0"},
	{id: "Limits/12", sum: "2d37dd16", elsewhere: "cli: that lint shows it too; here it stops the load"},
	{id: "Limits/13", sum: "ba927f29", elsewhere: "limiter: the longest wait; pdp: its reason"},
	{id: "Limits/14", sum: "b14ff734", elsewhere: "pdp: dependency_unavailable when a limiter cannot be asked"},
	{id: "Limits/15", sum: "daf444aa"},
	{id: "Limits/16", sum: "80c82472"},
	{id: "Limits/17", sum: "362a6159"},
	{id: "Limits/18", sum: "039c8bdf"},
	{id: "HTTP requests/1", sum: "03f13a7a", elsewhere: "pdp: AuthorizeHTTP maps and decides by one snapshot"},
	{id: "HTTP requests/2", sum: "b240b6f8", elsewhere: "pdp: that a policy without http denies every HTTP request"},
	{id: "HTTP requests/3", sum: "268b09ce", elsewhere: "pdp: the order in which a request is looked at"},
	{id: "HTTP requests/4", sum: "10ea4fef", elsewhere: "pdp: what each kind of source gives"},
	{id: "HTTP requests/5", sum: "bbc4dd44", elsewhere: "pdp: the first source that the request has"},
	{id: "HTTP requests/6", sum: "6cd01346", elsewhere: "pdp: a source that is there and gives no id"},
	{id: "HTTP requests/7", sum: "7d20c226", elsewhere: "pdp: subject_from"},
	{id: "HTTP requests/8", sum: "1757c2c9"},
	{id: "HTTP requests/9", sum: "4b5d8218", elsewhere: "pdp: the context of a call that was made of an HTTP request"},
	{id: "HTTP requests/10", sum: "61f5a854", elsewhere: "pdp: the source address"},
	{id: "HTTP requests/11", sum: "e4ae0283", elsewhere: "pdp: the source address behind trusted proxies"},
	{id: "HTTP requests/12", sum: "593f693c", elsewhere: "pdp: peer_appended: false"},
	{id: "HTTP requests/13", sum: "39800612", elsewhere: "pdp: an x-forwarded-for that is too short"},
	{id: "HTTP requests/14", sum: "246840d9"},
	{id: "HTTP requests/15", sum: "b76a23b0"},
	{id: "HTTP requests/16", sum: "0c077e97", elsewhere: "pdp: that a path is decoded once"},
	{id: "HTTP requests/17", sum: "e42e20fb"},
	{id: "HTTP requests/18", sum: "670d1e46"},
	{id: "HTTP requests/19", sum: "be7501c2"},
	{id: "HTTP requests/20", sum: "18a562d5"},
	{id: "HTTP requests/21", sum: "f70f07dc"},
	{id: "HTTP requests/22", sum: "748edfa1", elsewhere: "pdp: a path that is another route's but for capitals or a format; TestRouteShadows of this package"},
	{id: "HTTP requests/23", sum: "2876c10f"},
	{id: "HTTP requests/24", sum: "99d02798", elsewhere: "pdp: a call that comes out malformed"},
	{id: "HTTP requests/25", sum: "bd811225", elsewhere: "pdp: paths that are refused"},
	{id: "HTTP requests/26", sum: "7dd49723", elsewhere: "pdp: that a segment is decoded before it is looked at"},
	{id: "HTTP requests/27", sum: "a11c3959", elsewhere: "pdp: hosts that are refused"},
	{id: "HTTP requests/28", sum: "b9418b6e", elsewhere: "pdp: headers that contradict the request"},
	{id: "HTTP requests/29", sum: "0fbb4180", elsewhere: "pdp: headers in disguise"},
	{id: "HTTP requests/30", sum: "6809eadf", elsewhere: "pdp: _method in query, form and body"},
	{id: "HTTP requests/31", sum: "b10e05cc", elsewhere: "pdp: the parameters of query, headers and body"},
	{id: "HTTP requests/32", sum: "a79d1455", elsewhere: "pdp: names that come twice, and query_lists"},
	{id: "HTTP requests/33", sum: "33bf159a", elsewhere: "pdp: the query"},
	{id: "HTTP requests/34", sum: "1de6ff86", elsewhere: "pdp: headers that are parameters"},
	{id: "HTTP requests/35", sum: "4ae613ca", elsewhere: "pdp: bodies that are read"},
	{id: "HTTP requests/36", sum: "0f605461", elsewhere: "pdp: bodies that cannot be searched"},
	{id: "HTTP requests/37", sum: "7f22fc32", elsewhere: "pdp: bodies that are not"},
	{id: "HTTP requests/38", sum: "79232a86", elsewhere: "pdp: bodies that may be there; server: what Envoy tells of them"},
	{id: "HTTP requests/39", sum: "bdc1f983", elsewhere: "pdp: no parameters at all"},
	{id: "HTTP requests/40", sum: "3015a2a2", elsewhere: "pdp: AuthorizeHTTP without a route; TestDecideUnmapped of this package is about its part of it"},
	{id: "Batch/1", sum: "1c73dd67", elsewhere: "pdp: a batch against the same requests one by one; later issue: Sentinel and Cluster"},
	{id: "Batch/2", sum: "41c1f7f9", elsewhere: "pdp: the three semantics"},
	{id: "Batch/3", sum: "39024da8", elsewhere: "server: the proto messages themselves"},
	{id: "Test files/1", sum: "62117884", elsewhere: "policytest: the decoder of test files"},
	{id: "Test files/2", sum: "6cdde63b", elsewhere: "policytest: the decoder of test files"},
	{id: "Test files/3", sum: "1fbcf9c3", elsewhere: "policytest: the runner of internal/app"},
	{id: "Test files/4", sum: "16be3f38", elsewhere: "policytest: the runner of internal/app"},
	{id: "Test files/5", sum: "42eee64d", elsewhere: "policytest: the runner of internal/app"},
	{id: "Test files/6", sum: "48edbc51", elsewhere: "policytest: the runner of internal/app"},
	{id: "Test files/7", sum: "4236ebc5", elsewhere: "policytest: the runner of internal/app"},
	{id: "Test files/8", sum: "dc361c5d", elsewhere: "policytest: the runner's HTTP requests; policy: their parser"},
	{id: "Lint/1", sum: "aa3af049", elsewhere: "cli: the lint suite"},
	{id: "Lint/2", sum: "7a9214ed", elsewhere: "cli: the lint suite"},
	{id: "Lint/3", sum: "54792afe", elsewhere: "cli: the lint command's flags"},
	{id: "Lint/4", sum: "f8ef69d1", elsewhere: "cli: docs/lint.md is checked against the code by the lint suite"},
}

// languageSentences splits the page: a sentence ends at a full stop, outside
// of code, that a space and a capital or code follow.
func languageSentences(text string) []string {
	var out []string
	start, code := 0, false
	for i := range len(text) {
		if text[i] == '`' {
			code = !code
		}
		if code || text[i] != '.' || i+2 >= len(text) || text[i+1] != ' ' {
			continue
		}
		if next := text[i+2]; next == '`' || (next >= 'A' && next <= 'Z') {
			out = append(out, text[start:i+1])
			start = i + 2
		}
	}
	return append(out, text[start:])
}

// languagePage reads the page into its sentences, by section, in order.
func languagePage(t *testing.T) (sections []string, sentences map[string][]string) {
	t.Helper()
	page, err := os.ReadFile("../docs/language.md")
	if err != nil {
		t.Fatalf("read the page: %v", err)
	}
	sentences = map[string][]string{}
	section, paragraph := "", ""
	flush := func() {
		if section != "" && paragraph != "" {
			sentences[section] = append(sentences[section], languageSentences(paragraph)...)
		}
		paragraph = ""
	}
	for line := range strings.Lines(string(page)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "## "):
			flush()
			section, _, _ = strings.Cut(strings.TrimPrefix(line, "## "), " (")
			sections = append(sections, section)
		case strings.HasPrefix(line, "* "):
			flush()
			paragraph = strings.TrimPrefix(line, "* ")
		case line == "" || strings.HasPrefix(line, "#"):
			flush()
		default:
			paragraph = strings.TrimSpace(paragraph + " " + line)
		}
	}
	flush()
	return sections, sentences
}

// TestLanguageClaims compares the sentences of the page with the list above,
// and the list with the cases: each sentence has a case here, or a layer that tests it.
func TestLanguageClaims(t *testing.T) {
	t.Parallel()
	var want []languageClaim
	sections, sentences := languagePage(t)
	for _, section := range sections {
		for i, sentence := range sentences[section] {
			sum := sha256.Sum256([]byte(sentence))
			want = append(want, languageClaim{id: section + "/" + strconv.Itoa(i+1), sum: hex.EncodeToString(sum[:4])})
		}
	}
	cases := map[string]int{}
	for _, c := range languageCases(t) {
		id, _, _ := strings.Cut(c.Case, ": ")
		cases[id]++
	}
	for i, w := range want {
		if i >= len(languageClaims) || languageClaims[i].id != w.id || languageClaims[i].sum != w.sum {
			t.Fatalf("sentence %s (sum %s) of docs/language.md is new or changed: give it a case and correct languageClaims", w.id, w.sum)
		}
	}
	if len(languageClaims) != len(want) {
		t.Errorf("%d claims for %d sentences", len(languageClaims), len(want))
	}
	elsewhere := 0
	for _, claim := range languageClaims {
		if cases[claim.id] == 0 && claim.elsewhere == "" {
			t.Errorf("%s has neither a case nor a layer that tests it", claim.id)
		}
		if cases[claim.id] == 0 {
			elsewhere++
		}
		delete(cases, claim.id)
	}
	for id := range cases {
		t.Errorf("a case names %q, which is no sentence", id)
	}
	t.Logf("%d sentences, %d of them tested in another layer only", len(want), elsewhere)
}
