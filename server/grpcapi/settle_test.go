package grpcapi_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/testing/protocmp"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/server/grpcapi"
)

func TestSettleAndRelease(t *testing.T) {
	t.Parallel()
	r := &recorder{settlement: pdp.Settlement{
		Estimated: 10, Actual: 2.5, Already: true,
		Limits: []pdp.LimitChange{{Name: "money", GivenBack: 7.5}, {Name: "tokens", Charged: 3}},
	}}
	api := newAPI(t, r)
	limits := []*authzv1.LimitChange{{Name: "money", GivenBack: 7.5}, {Name: "tokens", Charged: 3}}
	settled, err := api.Settle(t.Context(), &authzv1.SettleRequest{DecisionId: "d", Actual: new(2.5)})
	if err != nil {
		t.Fatal(err)
	}
	want := &authzv1.SettleResponse{Estimated: 10, Actual: 2.5, Already: true, Limits: limits}
	if diff := cmp.Diff(want, settled, protocmp.Transform()); diff != "" {
		t.Errorf("settle (-want +got):\n%s", diff)
	}
	released, err := api.Release(t.Context(), &authzv1.ReleaseRequest{DecisionId: "e"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&authzv1.ReleaseResponse{Already: true, Limits: limits}, released, protocmp.Transform()); diff != "" {
		t.Errorf("release (-want +got):\n%s", diff)
	}
	if _, err := api.Settle(t.Context(), &authzv1.SettleRequest{DecisionId: "f", Actual: new(0.0)}); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"settle d of test to 2.5", "release e of test", "settle f of test to 0"}, r.settled); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
}

// A cost that was forgotten is none of 0, and what this build does not know is
// not done without.
func TestSettleRefuses(t *testing.T) {
	t.Parallel()
	unknown := protowire.AppendVarint(protowire.AppendTag(nil, 4711, protowire.VarintType), 1)
	odd := &authzv1.SettleRequest{DecisionId: "d", Actual: new(1.0)}
	odd.ProtoReflect().SetUnknown(unknown)
	oddRelease := &authzv1.ReleaseRequest{DecisionId: "d"}
	oddRelease.ProtoReflect().SetUnknown(unknown)
	r := &recorder{}
	api := newAPI(t, r)
	check := func(err error, code codes.Code, text string) {
		t.Helper()
		if status.Code(err) != code || !strings.HasPrefix(status.Convert(err).Message(), text) {
			t.Errorf("%v, want %v %q", err, code, text)
		}
	}
	_, err := api.Settle(t.Context(), &authzv1.SettleRequest{DecisionId: "d"})
	check(err, codes.InvalidArgument, "actual is missing")
	_, err = api.Settle(t.Context(), odd)
	check(err, codes.Unimplemented, "field 4711 ")
	_, err = api.Release(t.Context(), oddRelease)
	check(err, codes.Unimplemented, "field 4711 ")
	if len(r.settled) != 0 {
		t.Errorf("asked %v", r.settled)
	}
}

func TestSettleErrors(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err  error
		want codes.Code
		text string
	}{
		"not kept": {fmt.Errorf("x: %w", pdp.ErrNotKept), codes.NotFound, "nothing to settle or release"},
		"settled":  {&pdp.SettledError{Actual: 2.5}, codes.FailedPrecondition, "settled to 2.5 before"},
		"invalid":  {&pdp.InvalidError{Field: "actual", Why: "is no cost"}, codes.InvalidArgument, "actual is malformed: is no cost"},
		"canceled": {fmt.Errorf("x: %w", context.Canceled), codes.Canceled, ""},
		"other":    {errors.New("secret detail"), codes.Unavailable, "not known what was done"},
	} {
		api := newAPI(t, &recorder{err: tc.err})
		_, settle := api.Settle(t.Context(), &authzv1.SettleRequest{DecisionId: "d", Actual: new(1.0)})
		_, release := api.Release(t.Context(), &authzv1.ReleaseRequest{DecisionId: "d"})
		for _, err := range []error{settle, release} {
			st := status.Convert(err)
			if st.Code() != tc.want || !strings.Contains(st.Message(), tc.text) || strings.Contains(st.Message(), "secret") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	refusal := status.Error(codes.PermissionDenied, "no")
	seen := &recorder{}
	api, err := grpcapi.New(grpcapi.Config{Decider: seen, Standing: func(context.Context) (string, error) { return "", refusal }})
	if err != nil {
		t.Fatal(err)
	}
	_, settle := api.Settle(t.Context(), &authzv1.SettleRequest{DecisionId: "d", Actual: new(1.0)})
	_, release := api.Release(t.Context(), &authzv1.ReleaseRequest{DecisionId: "d"})
	if status.Code(settle) != codes.PermissionDenied || status.Code(release) != codes.PermissionDenied || len(seen.settled) != 0 {
		t.Errorf("without standing: %v, %v, asked %v", settle, release, seen.settled)
	}
}
