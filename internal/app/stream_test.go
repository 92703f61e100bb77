package app_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

// testDelay is longer than any test waits; the test cuts it short.
const testDelay = 5 * time.Minute

// Every message gets its answer, also one that cannot be decided, and the stream goes on.
func TestStreamAnswersEachMessage(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	stream, err := r.client(t).AuthorizeStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const n = 500
	want := map[string]string{}
	send := func(id, answer string, req *authzv1.AuthorizeRequest) {
		t.Helper()
		want[id] = answer
		if req != nil {
			req.RequestId = id
		}
		if err := stream.Send(&authzv1.AuthorizeStreamRequest{Request: req}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		send(fmt.Sprint("good", i), "ALLOW", request())
	}
	bad := request()
	bad.Action = ""
	send("malformed", "3 action is malformed", bad)
	wait := request()
	wait.ActorChain = []string{"x"}
	send("unenforced", "12 actor_chain is not enforced", wait)
	send("", "3 request", nil)
	send("after", "ALLOW", request())
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for {
		out, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got := strings.TrimPrefix(out.GetResponse().GetDecision().String(), "DECISION_")
		if e := out.GetError(); e != nil {
			got = fmt.Sprint(e.GetCode(), " ", e.GetMessage())
		}
		if w, ok := want[out.GetRequestId()]; !ok || !strings.HasPrefix(got, w) {
			t.Errorf("%q: %s, want %s", out.GetRequestId(), got, w)
		}
		delete(want, out.GetRequestId())
	}
	if len(want) != 0 {
		t.Errorf("without answer: %v", want)
	}
	if codes.Unimplemented != 12 || codes.InvalidArgument != 3 {
		t.Error("the codes of gRPC are not what this test says")
	}
}

func TestStreamWantsRequestIDs(t *testing.T) {
	t.Parallel()
	stream, err := start(t, nil).client(t).AuthorizeStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	req := request()
	req.RequestId = ""
	if err := stream.Send(&authzv1.AuthorizeStreamRequest{Request: req}); err != nil {
		t.Fatal(err)
	}
	out, err := stream.Recv()
	if err != nil || out.GetError().GetCode() != uint32(codes.InvalidArgument) || !strings.Contains(out.GetError().GetMessage(), "request_id") {
		t.Errorf("%v, %v", out, err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}
