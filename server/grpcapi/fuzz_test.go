package grpcapi_test

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/server/grpcapi"
)

// Whatever bytes come, a request is either refused or judged with all that it
// says: what was asked, put back on the wire, is what came.
func FuzzRequestDecoding(f *testing.F) {
	full := plain()
	full.Tool = &authzv1.Tool{Name: "t", Server: "s"}
	full.ParametersJson, full.Cost, full.DryRun = []byte("{}"), 2, true
	bad := plain()
	bad.ActorChain = []string{"x"}
	for _, m := range []*authzv1.AuthorizeRequest{{}, plain(), full, bad} {
		data, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte{0x0a, 0x01, 0xff})
	f.Add([]byte{0xfa, 0x7f, 0x01, 0x00})
	f.Fuzz(func(t *testing.T, data []byte) {
		in := &authzv1.AuthorizeRequest{}
		if proto.Unmarshal(data, in) != nil {
			return
		}
		seen := &recorder{answer: pdp.Decision{Verdict: pdp.Allow}}
		api, err := grpcapi.New(grpcapi.Config{Decider: seen, Standing: func(context.Context) (string, error) { return "g", nil }})
		if err != nil {
			t.Fatal(err)
		}
		out, err := api.Authorize(t.Context(), in)
		if err != nil {
			if code := status.Code(err); (code != codes.Unimplemented && code != codes.InvalidArgument) || out != nil || len(seen.asked) != 0 {
				t.Fatalf("%v with %v, asked %d", err, out, len(seen.asked))
			}
			return
		}
		q := seen.asked[0]
		back := &authzv1.AuthorizeRequest{
			Agent: q.Agent, Action: q.Action, Resource: q.Resource, SourceIp: q.SourceIP, RequestId: q.RequestID, Subject: q.Subject,
			SessionId: q.SessionID, RunId: q.RunID, ParametersJson: q.ParametersJSON, Cost: q.Cost, DryRun: q.DryRun,
			ParametersState: authzv1.ParametersState(q.ParametersState), Context: in.GetContext(),
		}
		if in.GetTool() != nil {
			back.Tool = &authzv1.Tool{Name: q.Tool.Name, Server: q.Tool.Server}
		}
		if q.ParametersState > pdp.ParametersNotSeen {
			back.ParametersState = in.GetParametersState()
		}
		if len(in.GetContext().GetFields()) != len(q.Context) || !proto.Equal(in, back) {
			t.Fatalf("came %v, was judged as %v", in, back)
		}
	})
}
