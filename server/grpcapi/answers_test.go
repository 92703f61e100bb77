package grpcapi_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/server/grpcapi"
)

func TestAnswerHoldsTheWholeDecision(t *testing.T) {
	t.Parallel()
	expires := time.Date(2026, 11, 22, 12, 0, 0, 5, time.UTC)
	dec := pdp.Decision{
		Verdict: pdp.RequireApproval, Reason: pdp.ReasonApprovalRequired, Message: "m", ID: "id", RequestID: "r", PolicyVersion: "v",
		Matched: []string{"a", "b", "c"}, Next: pdp.NextWait, RetryAfter: 1500 * time.Millisecond,
		Approval: &pdp.Approval{
			ID: "ap", State: pdp.ApprovalPending, Digest: "d", ExpiresAt: expires,
			Rules: []pdp.ApprovalRequirement{{Rule: "approvals/x", Groups: []string{"g"}, Quorum: 2}},
		},
		RequiredScopes: []string{"s1", "s2"}, Warnings: []string{"w"},
		Shadow:  []pdp.ShadowOutcome{{Rule: "deny/x", Verdict: pdp.Deny, Reason: pdp.ReasonActionDenied}},
		WouldBe: pdp.Allow,
	}
	want := &authzv1.AuthorizeResponse{
		Decision: authzv1.Decision_DECISION_REQUIRE_APPROVAL, Reason: authzv1.Reason_REASON_APPROVAL_REQUIRED,
		Message: "m", DecisionId: "id", RequestId: "r", PolicyVersion: "v", Matched: []string{"a", "b", "c"},
		NextAction: authzv1.NextAction_NEXT_ACTION_WAIT, RetryAfter: durationpb.New(1500 * time.Millisecond),
		Approval: &authzv1.Approval{
			Id: "ap", State: authzv1.ApprovalState_APPROVAL_STATE_PENDING, Digest: "d", ExpiresAt: timestamppb.New(expires),
			Requirements: []*authzv1.ApprovalRequirement{{Rule: "approvals/x", Groups: []string{"g"}, Quorum: 2}},
		},
		RequiredScopes: []string{"s1", "s2"}, Warnings: []string{"w"},
		Shadow: []*authzv1.ShadowOutcome{{
			Rule: "deny/x", Decision: authzv1.Decision_DECISION_DENY, Reason: authzv1.Reason_REASON_ACTION_DENIED,
		}},
		WouldBe: authzv1.Decision_DECISION_ALLOW,
	}
	for n := range 6 {
		name := fmt.Sprint("l", n)
		dec.Limits = append(dec.Limits, pdp.LimitStatus{Name: name, Limit: 9, Remaining: int64(n), Reset: time.Duration(n) * time.Second})
		want.Limits = append(want.Limits, &authzv1.LimitStatus{
			Name: name, Limit: 9, Remaining: int64(n), Reset_: durationpb.New(time.Duration(n) * time.Second),
		})
		got, err := newAPI(t, &recorder{answer: dec}).Authorize(t.Context(), plain())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%d limits (-want +got):\n%s", n+1, diff)
		}
	}
}

// An answer stays what it is after the buffers of its decision were reused.
func TestAnswerSharesNoMemory(t *testing.T) {
	t.Parallel()
	matched, scopes, warnings := []string{"m"}, []string{"s"}, []string{"w"}
	r := &recorder{answer: pdp.Decision{Matched: matched, RequiredScopes: scopes, Warnings: warnings, Limits: []pdp.LimitStatus{{Name: "l"}}}}
	got, err := newAPI(t, r).Authorize(t.Context(), plain())
	if err != nil {
		t.Fatal(err)
	}
	matched[0], scopes[0], warnings[0], r.answer.Limits[0].Name = "x", "x", "x", "x"
	if got.GetMatched()[0] != "m" || got.GetRequiredScopes()[0] != "s" || got.GetWarnings()[0] != "w" || got.GetLimits()[0].GetName() != "l" {
		t.Errorf("the answer changed: %v", got)
	}
}

func TestEnumsAgreeWithTheCore(t *testing.T) {
	t.Parallel()
	ask := func(dec pdp.Decision) *authzv1.AuthorizeResponse {
		t.Helper()
		out, err := newAPI(t, &recorder{answer: dec}).Authorize(t.Context(), plain())
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	all := pdp.AllReasons()
	if len(all) != len(authzv1.Reason_name)-1 {
		t.Errorf("the core has %d reasons, the wire %d", len(all), len(authzv1.Reason_name)-1)
	}
	for _, reason := range all {
		want := "REASON_" + strings.ToUpper(string(reason))
		if got := ask(pdp.Decision{Reason: reason}).GetReason().String(); got != want {
			t.Errorf("%s became %s", reason, got)
		}
	}
	for v := range authzv1.Decision_name {
		got := ask(pdp.Decision{Verdict: pdp.Verdict(v), WouldBe: pdp.Verdict(v)})
		want := "DECISION_" + pdp.Verdict(v).String()
		if got.GetDecision().String() != want || got.GetWouldBe().String() != want {
			t.Errorf("verdict %d became %v and %v", v, got.GetDecision(), got.GetWouldBe())
		}
	}
	odd := ask(pdp.Decision{Verdict: 9, WouldBe: 9, Next: 9, Reason: "new", Approval: &pdp.Approval{State: 9}})
	if odd.GetDecision() != 0 || odd.GetWouldBe() != 0 || odd.GetNextAction() != 0 || odd.GetReason() != 0 || odd.GetApproval().GetState() != 0 {
		t.Errorf("unknown values are not UNSPECIFIED: %v", odd)
	}
}

func TestUnknownParametersStateIsNotMistakenForAKnownOne(t *testing.T) {
	t.Parallel()
	for _, s := range []authzv1.ParametersState{-1, 4, 99, 256, 257, math.MaxInt32, math.MinInt32} {
		seen := &recorder{}
		req := plain()
		req.ParametersState = s
		if _, err := newAPI(t, seen).Authorize(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		if got := seen.asked[0].ParametersState; got <= pdp.ParametersNotSeen {
			t.Errorf("state %d became %d", s, got)
		}
	}
}

func TestContextIsPassedOnWhole(t *testing.T) {
	t.Parallel()
	values := map[string]any{
		"null": nil, "bool": true, "number": 1.5, "text": "x",
		"list": []any{1.0, "y", nil, []any{}}, "map": map[string]any{"deep": map[string]any{}},
	}
	s, err := structpb.NewStruct(values)
	if err != nil {
		t.Fatal(err)
	}
	req := plain()
	req.Context = s
	seen := &recorder{}
	if _, err := newAPI(t, seen).Authorize(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(values, seen.asked[0].Context); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err  error
		want codes.Code
		text string
	}{
		"invalid":  {&pdp.InvalidError{Field: "source_ip", Why: "has a port"}, codes.InvalidArgument, "source_ip is malformed: has a port"},
		"canceled": {fmt.Errorf("x: %w", context.Canceled), codes.Canceled, ""},
		"deadline": {context.DeadlineExceeded, codes.DeadlineExceeded, ""},
		"none":     {pdp.ErrNoPolicy, codes.Unavailable, "no policy"},
		"other":    {errors.New("secret detail"), codes.Unavailable, "no decision was made"},
	} {
		_, err := newAPI(t, &recorder{err: tc.err}).Authorize(t.Context(), plain())
		st := status.Convert(err)
		if st.Code() != tc.want || !strings.Contains(st.Message(), tc.text) || strings.Contains(st.Message(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := newAPI(t, &recorder{err: &pdp.InvalidError{Field: "action", Why: "is empty"}}).Explain(t.Context(), &authzv1.ExplainRequest{Request: plain()})
	var field string
	for _, d := range status.Convert(err).Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			field = bad.GetFieldViolations()[0].GetField()
		}
	}
	if field != "request.action" {
		t.Errorf("the details name %q: %v", field, err)
	}
	if _, err := newAPI(t, &recorder{}).Explain(t.Context(), &authzv1.ExplainRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("explain nothing: %v", err)
	}
}

func TestExplainHoldsEveryCheck(t *testing.T) {
	t.Parallel()
	r := &recorder{explain: pdp.Explanation{
		Decision: pdp.Decision{WouldBe: pdp.Deny, Reason: pdp.ReasonIPNotAllowed}, Risk: "write",
		Checks: []pdp.Check{
			{Name: "network", Outcome: pdp.CheckDeny, Reason: pdp.ReasonIPNotAllowed, Rules: []string{"x"}, Detail: "d"},
			{Name: "audit", Outcome: pdp.CheckSkipped},
		},
	}}
	got, err := newAPI(t, r).Explain(t.Context(), &authzv1.ExplainRequest{Request: plain()})
	if err != nil {
		t.Fatal(err)
	}
	want := &authzv1.ExplainResponse{
		Response: &authzv1.AuthorizeResponse{WouldBe: authzv1.Decision_DECISION_DENY, Reason: authzv1.Reason_REASON_IP_NOT_ALLOWED},
		Risk:     "write",
		Checks: []*authzv1.Check{
			{Name: "network", Outcome: authzv1.CheckOutcome_CHECK_OUTCOME_DENY, Reason: authzv1.Reason_REASON_IP_NOT_ALLOWED, Rules: []string{"x"}, Detail: "d"},
			{Name: "audit", Outcome: authzv1.CheckOutcome_CHECK_OUTCOME_SKIPPED},
		},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestGatewayWithoutStandingIsNotJudged(t *testing.T) {
	t.Parallel()
	seen := &recorder{}
	refusal := status.Error(codes.PermissionDenied, "no")
	api, err := grpcapi.New(grpcapi.Config{Decider: seen, Standing: func(context.Context) (string, error) { return "", refusal }})
	if err != nil {
		t.Fatal(err)
	}
	_, err1 := api.Authorize(t.Context(), plain())
	_, err2 := api.BatchAuthorize(t.Context(), &authzv1.BatchAuthorizeRequest{Requests: []*authzv1.AuthorizeRequest{plain()}})
	_, err3 := api.Explain(t.Context(), &authzv1.ExplainRequest{Request: plain()})
	for _, err := range []error{err1, err2, err3} {
		if status.Code(err) != codes.PermissionDenied {
			t.Error(err)
		}
	}
	if len(seen.asked) != 0 {
		t.Error("was judged all the same")
	}
}

func TestNewWantsItsParts(t *testing.T) {
	t.Parallel()
	if _, err := grpcapi.New(grpcapi.Config{Standing: func(context.Context) (string, error) { return "", nil }}); err == nil {
		t.Error("made without a decider")
	}
	if _, err := grpcapi.New(grpcapi.Config{Decider: &recorder{}}); err == nil {
		t.Error("made without a standing")
	}
}
