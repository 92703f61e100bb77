package policy

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
)

// Test asks one request at one instant and says what must come.
type Test struct {
	Name string
	// Line of the test in its file.
	Line int
	// Now is the instant of all its requests; zero: the time of the run.
	Now time.Time
	// Before is asked first, in order; its answers are not looked at.
	Before []TestBefore
	// Repeat is how many times Request is asked, at least 1; the last answer is looked at.
	Repeat   int
	Approval TestApproval
	Request  TestRequest
	Expect   TestExpect
}

// TestBefore is a request that is asked ahead of the one that is looked at.
type TestBefore struct {
	Request  TestRequest
	Repeat   int // at least 1
	Approval TestApproval
}

// TestApproval is what becomes of the approval that a call needs; it is
// ignored where none is needed. The zero value is: nobody was asked.
type TestApproval string

// The fates of an approval.
const (
	TestApprovalNone     TestApproval = ""
	TestApprovalApproved TestApproval = "approved"
	TestApprovalPending  TestApproval = "pending"
	TestApprovalDenied   TestApproval = "denied"
	TestApprovalExpired  TestApproval = "expired"
)

// TestRequest is a request as the test's author wrote it. Nothing of it was
// checked: a malformed one is a test of its own.
type TestRequest struct {
	Agent, Action, Resource string
	SourceIP                string
	Subject                 string
	ActorChain              []string
	SessionID, RunID        string
	Tool                    Tool
	ToolDefinitionDigest    string
	// ParametersJSON is what `parameters` or `parameters_json` said; nil: neither was written.
	ParametersJSON []byte
	// ParametersState is as written; ParametersAbsent: not written, so
	// complete if ParametersJSON is given.
	ParametersState ParametersState
	// Context holds what google.protobuf.Struct can; nil: not written.
	Context map[string]any
	Cost    float64
	// HTTP is the HTTP request that is asked about instead; nil: none.
	HTTP *TestHTTP
}

// TestHTTP is an HTTP request as its test's author wrote it, unchecked.
type TestHTTP struct {
	// Method is GET where none was written.
	Method string
	// Host and Target are the url's.
	Host, Target string
	Headers      map[string]string
	Body         []byte
	// BodyState is cut, unseen, none, or "": whole if Body is given, else unknown.
	BodyState       string
	Peer, Principal string
	Extensions      map[string]string
	// JWT are payloads of tokens; nil: none.
	JWT map[string]any
}

// TestExpect is what an answer must hold.
type TestExpect struct {
	// Decision is allow, deny or require_approval.
	Decision string
	// Reason, if not "".
	Reason Reason
	// Matched are rules that must be among the answer's.
	Matched []string
	// RequiredScopes are all that the answer must name, in any order, if not
	// nil; empty and not nil: it must name none.
	RequiredScopes []string
	// Route, Action and Resource are what an HTTP request became, if not "".
	Route, Action, Resource string
}

// ParseTests reads a file of policy tests as strictly as a policy. The error
// is an Errors with every fault; its rules are tests/N, counted from 0.
func ParseTests(doc Document) ([]Test, error) {
	r := &report{}
	file := &policyv1.TestFile{}
	root := readMessage(doc, file, r)
	if err := r.err(); err != nil {
		return nil, err
	}
	_, nodes := lookup(root, "tests")
	parser := testParser{r: r, file: doc.Name}
	tests := make([]Test, len(file.GetTests()))
	for i, t := range file.GetTests() {
		parser.rule = "tests/" + strconv.Itoa(i)
		tests[i] = parser.test(t, nodes.Content[i])
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	return tests, nil
}

type testParser struct {
	r    *report
	file string
	rule string
}

func (p *testParser) test(t *policyv1.Test, n *yaml.Node) Test {
	_, request := lookup(n, "request")
	_, before := lookup(n, "before")
	_, expect := lookup(n, "expect")
	test := Test{
		Name: t.GetName(), Line: n.Line,
		Repeat: timesOf(t.Repeat), Approval: TestApproval(t.GetApproval()),
		Request: p.request(t.GetRequest(), request),
		Expect: TestExpect{
			Decision: t.GetExpect().GetDecision(), Reason: Reason(t.GetExpect().GetReason()),
			Matched: t.GetExpect().GetMatched(), RequiredScopes: t.GetExpect().GetRequiredScopes(),
			Route: t.GetExpect().GetRoute(), Action: t.GetExpect().GetAction(), Resource: t.GetExpect().GetResource(),
		},
	}
	if t.GetNow() != nil {
		test.Now = t.GetNow().AsTime()
	}
	if key, _ := lookup(expect, "required_scopes"); key != nil && test.Expect.RequiredScopes == nil {
		test.Expect.RequiredScopes = []string{}
	}
	for i, b := range t.GetBefore() {
		_, request := lookup(before.Content[i], "request")
		test.Before = append(test.Before, TestBefore{
			Request: p.request(b.GetRequest(), request), Repeat: timesOf(b.Repeat), Approval: TestApproval(b.GetApproval()),
		})
	}
	return test
}

func timesOf(repeat *uint32) int {
	if repeat == nil {
		return 1
	}
	return int(*repeat)
}

func (p *testParser) request(q *policyv1.TestRequest, n *yaml.Node) TestRequest {
	request := TestRequest{
		Agent: q.GetAgent(), Action: q.GetAction(), Resource: q.GetResource(), SourceIP: q.GetSourceIp(),
		Subject: q.GetSubject(), ActorChain: q.GetActorChain(), SessionID: q.GetSessionId(), RunID: q.GetRunId(),
		Tool:                 Tool{Server: q.GetTool().GetServer(), Name: q.GetTool().GetName()},
		ToolDefinitionDigest: q.GetTool().GetDefinitionDigest(),
		Cost:                 q.GetCost(),
	}
	switch q.GetParametersState() {
	case "complete":
		request.ParametersState = ParametersComplete
	case "truncated":
		request.ParametersState = ParametersTruncated
	case "not_seen":
		request.ParametersState = ParametersNotSeen
	}
	request.HTTP = p.http(q, n)
	p.parameters(&request, q, n)
	if key, value := lookup(n, "context"); key != nil {
		text, err := appendJSON(nil, value)
		if err == nil {
			err = json.Unmarshal(text, &request.Context)
		}
		if err != nil {
			p.fault(value, "context cannot be sent: "+err.Error(), "write what JSON can hold")
		}
	}
	return request
}

// http reads an HTTP request, which says all of the call by itself.
func (p *testParser) http(q *policyv1.TestRequest, n *yaml.Node) *TestHTTP {
	h := q.GetHttp()
	if h == nil {
		return nil
	}
	for key := range pairs(n) {
		if key.Value != httpSection {
			p.fault(key, fmt.Sprintf("%s stands beside http, which makes the whole call", key.Value), "keep one of them")
		}
	}
	_, node := lookup(n, httpSection)
	_, url := lookup(node, "url")
	out := &TestHTTP{
		Method: cmp.Or(h.GetMethod(), "GET"), Headers: h.GetHeaders(), Body: []byte(h.GetBody()), BodyState: h.GetBodyState(),
		Peer: h.GetPeer(), Principal: h.GetPrincipal(), Extensions: h.GetContextExtensions(), JWT: h.GetJwt().AsMap(),
	}
	_, rest, absolute := strings.Cut(h.GetUrl(), "://")
	if !absolute {
		p.fault(url, "the url has no scheme and host", "write them, such as https://crm.example.com/leads/42")
	}
	out.Host, out.Target = rest, "/"
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		out.Host, out.Target = rest[:i], rest[i:]
	}
	if out.Method != strings.ToUpper(out.Method) {
		p.fault(node, fmt.Sprintf("the method %s is no method", quote(out.Method)), "write it in capitals, such as GET")
	}
	for name := range h.GetHeaders() {
		if name != strings.ToLower(name) {
			p.fault(node, fmt.Sprintf("the header %s has capitals, which a proxy makes small", quote(name)), "write it in small letters")
		}
	}
	return out
}

func (p *testParser) parameters(request *TestRequest, q *policyv1.TestRequest, n *yaml.Node) {
	if q.GetParametersJson() != "" {
		request.ParametersJSON = []byte(q.GetParametersJson())
	}
	key, value := lookup(n, "parameters")
	if key == nil {
		return
	}
	if request.ParametersJSON != nil {
		p.fault(key, "parameters are given twice, as parameters and as parameters_json", "keep one of them")
		return
	}
	if request.ParametersState > ParametersComplete {
		p.fault(key, "parameters that are written as a map are complete", "leave out parameters_state, or write parameters_json")
		return
	}
	text, err := appendJSON(nil, value)
	if err != nil {
		p.fault(value, "parameters cannot be sent: "+err.Error(), "write what JSON can hold")
		return
	}
	request.ParametersJSON = text
}

func (p *testParser) fault(n *yaml.Node, message, fix string) {
	p.r.add(position{p.file, n.Line, n.Column}, p.rule, message, fix)
}
