package adminapi_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/kelpie-authz/kelpie/gen/kelpie/admin/v1"
	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/policy"
	"github.com/kelpie-authz/kelpie/server/adminapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// keeper keeps what it was asked and answers as it is told.
type keeper struct {
	asked  []string
	limits []pdp.AgentLimit
	err    error
}

func (k *keeper) ShowLimits(_ context.Context, agent string) ([]pdp.AgentLimit, int, error) {
	k.asked = append(k.asked, "show "+agent)
	return k.limits, 7, k.err
}

func (k *keeper) ResetLimits(_ context.Context, agent, limit, as string) (int, error) {
	k.asked = append(k.asked, fmt.Sprintf("reset %s %q as %q", agent, limit, as))
	return 3, k.err
}

func newAPI(k adminapi.Limits) *adminapi.API {
	return adminapi.New(func() adminapi.PolicyStatus { return adminapi.PolicyStatus{} }, k)
}

func TestLimits(t *testing.T) {
	t.Parallel()
	k := &keeper{limits: []pdp.AgentLimit{
		{Name: "calls", Limit: 9, Remaining: 2, Reset: 3 * time.Second},
		{Name: "each", Limit: 9, Shadow: true, Dimensions: []policy.LimitDimension{{Name: "resource", Value: "a\xff"}, {Name: "call", Value: "ab12"}}},
	}}
	api := newAPI(k)
	shown, err := api.ShowLimits(t.Context(), &adminv1.ShowLimitsRequest{Agent: "a"})
	if err != nil {
		t.Fatal(err)
	}
	want := &adminv1.ShowLimitsResponse{More: 7, Limits: []*adminv1.AgentLimit{
		{Name: "calls", Limit: 9, Remaining: 2, Reset_: durationpb.New(3 * time.Second)},
		{Name: "each", Limit: 9, Reset_: durationpb.New(0), Shadow: true, Dimensions: []*adminv1.LimitDimension{
			{Name: "resource", Value: "a\uFFFD"}, {Name: "call", Value: "ab12"},
		}},
	}}
	if diff := cmp.Diff(want, shown, protocmp.Transform()); diff != "" {
		t.Errorf("show (-want +got):\n%s", diff)
	}
	for _, in := range []*adminv1.ResetLimitsRequest{{Agent: "a"}, {Agent: "b", Limit: "calls", As: "ann"}} {
		reset, err := api.ResetLimits(t.Context(), in)
		if err != nil || reset.GetBuckets() != 3 {
			t.Errorf("reset %v: %v, %v", in, reset, err)
		}
	}
	if diff := cmp.Diff([]string{"show a", `reset a "" as ""`, `reset b "calls" as "ann"`}, k.asked); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
}

func TestLimitsErrors(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err  error
		want codes.Code
		text string
	}{
		"invalid":   {&pdp.InvalidError{Field: "agent", Why: "is empty"}, codes.InvalidArgument, "agent is malformed: is empty"},
		"no agent":  {pdp.ErrNoSuchAgent, codes.NotFound, "agent is not known"},
		"no limit":  {pdp.ErrNoSuchLimit, codes.NotFound, "limit is none"},
		"blind":     {pdp.ErrCannotInspect, codes.Unimplemented, "cannot tell"},
		"no policy": {pdp.ErrNoPolicy, codes.Unavailable, "no policy"},
		"deadline":  {fmt.Errorf("x: %w", context.DeadlineExceeded), codes.DeadlineExceeded, ""},
		"other":     {errors.New("connection refused"), codes.Unavailable, "connection refused"},
	} {
		api := newAPI(&keeper{err: tc.err})
		_, show := api.ShowLimits(t.Context(), &adminv1.ShowLimitsRequest{Agent: "a"})
		_, reset := api.ResetLimits(t.Context(), &adminv1.ResetLimitsRequest{Agent: "a"})
		for _, err := range []error{show, reset} {
			if st := status.Convert(err); st.Code() != tc.want || !strings.Contains(st.Message(), tc.text) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// What a newer client says besides could mean less to be reset.
func TestUnknownFieldsAreRefused(t *testing.T) {
	t.Parallel()
	unknown := protowire.AppendVarint(protowire.AppendTag(nil, 4711, protowire.VarintType), 1)
	show, reset := &adminv1.ShowLimitsRequest{Agent: "a"}, &adminv1.ResetLimitsRequest{Agent: "a"}
	show.ProtoReflect().SetUnknown(unknown)
	reset.ProtoReflect().SetUnknown(unknown)
	k := &keeper{}
	_, err1 := newAPI(k).ShowLimits(t.Context(), show)
	_, err2 := newAPI(k).ResetLimits(t.Context(), reset)
	for _, err := range []error{err1, err2} {
		if status.Code(err) != codes.Unimplemented || !strings.Contains(status.Convert(err).Message(), "field 4711") {
			t.Error(err)
		}
	}
	_, err := newAPI(nil).ShowLimits(t.Context(), &adminv1.ShowLimitsRequest{Agent: "a"})
	if status.Code(err) != codes.Unimplemented || len(k.asked) != 0 {
		t.Errorf("without limits: %v; asked %v", err, k.asked)
	}
}
