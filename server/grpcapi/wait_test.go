package grpcapi_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/server/grpcapi"
)

// holder keeps what it was asked.
type holder struct {
	waits []time.Duration
	asked []pdp.Request
	err   error
}

func (h *holder) Authorize(_ context.Context, req *pdp.Request, wait time.Duration, dec *pdp.Decision) error {
	h.waits = append(h.waits, wait)
	h.asked = append(h.asked, *req)
	*dec = pdp.Decision{Verdict: pdp.Allow, Reason: pdp.ReasonOKApproved, ID: "held"}
	return h.err
}

func newHolding(t *testing.T, h *holder, d grpcapi.Decider, standing func() (string, error)) *grpcapi.API {
	t.Helper()
	api, err := grpcapi.New(grpcapi.Config{
		Decider: d, Holder: h, Standing: func(context.Context) (string, error) { return standing() },
	})
	if err != nil {
		t.Fatal(err)
	}
	return api
}

func always() (string, error) { return "test", nil }

func waiting(d *durationpb.Duration) *authzv1.AuthorizeRequest {
	req := plain()
	req.Wait = d
	return req
}

func TestWaitGoesToWhatHolds(t *testing.T) {
	t.Parallel()
	h, d := &holder{}, &recorder{}
	api := newHolding(t, h, d, always)
	out, err := api.Authorize(t.Context(), waiting(durationpb.New(7*time.Second)))
	if err != nil || out.GetDecisionId() != "held" || out.GetDecision() != authzv1.Decision_DECISION_ALLOW {
		t.Errorf("%v, %v", out, err)
	}
	if len(h.waits) != 1 || h.waits[0] != 7*time.Second || h.asked[0].Agent != "a" || h.asked[0].Gateway != "test" || len(d.asked) != 0 {
		t.Errorf("held %v %+v, decided %+v", h.waits, h.asked, d.asked)
	}
	if _, err := api.Authorize(t.Context(), plain()); err != nil || len(h.waits) != 1 || len(d.asked) != 1 {
		t.Errorf("without a wait: %v, held %v", err, h.waits)
	}
	h.err = &pdp.InvalidError{Field: "wait", Why: "wait is out of range; write at most 30s"}
	if _, err := api.Authorize(t.Context(), waiting(durationpb.New(time.Hour))); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a wait out of range: %v", err)
	}
}

func TestWaitThatIsNoneIsRefused(t *testing.T) {
	t.Parallel()
	for _, bad := range []*durationpb.Duration{
		{Seconds: math.MaxInt64}, {Seconds: 1, Nanos: -1}, {Nanos: 1_000_000_000}, {Seconds: math.MinInt64},
	} {
		h, d := &holder{}, &recorder{}
		_, err := newHolding(t, h, d, always).Authorize(t.Context(), waiting(bad))
		if status.Code(err) != codes.InvalidArgument || !strings.HasPrefix(status.Convert(err).Message(), "wait ") || len(h.asked)+len(d.asked) != 0 {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

// Who holds a batch or a stream would hold what others wait for in it.
func TestWaitIsForAuthorizeAlone(t *testing.T) {
	t.Parallel()
	h, d := &holder{}, &recorder{}
	api := newHolding(t, h, d, always)
	bad := waiting(durationpb.New(0))
	for door, ask := range map[string]func() error{
		"requests[0].": func() error {
			_, err := api.BatchAuthorize(t.Context(), &authzv1.BatchAuthorizeRequest{Requests: []*authzv1.AuthorizeRequest{bad}})
			return err
		},
		"request.": func() error {
			_, err := api.Explain(t.Context(), &authzv1.ExplainRequest{Request: bad})
			return err
		},
	} {
		if err := ask(); status.Code(err) != codes.InvalidArgument || !strings.HasPrefix(status.Convert(err).Message(), door+"wait is for Authorize alone") {
			t.Errorf("%s: %v", door, err)
		}
	}
	if len(h.asked)+len(d.asked) != 0 {
		t.Errorf("judged: %+v %+v", h.asked, d.asked)
	}
}

// A gateway whose standing ended while its call was held gets no answer.
func TestStandingAfterTheWait(t *testing.T) {
	t.Parallel()
	for name, then := range map[string]func() (string, error){
		"refused": func() (string, error) { return "", status.Error(codes.PermissionDenied, "no more") },
		"another": func() (string, error) { return "other", nil },
		"unknown": func() (string, error) { return "test", errors.New("cannot be asked") },
	} {
		h, asked := &holder{}, 0
		api := newHolding(t, h, &recorder{}, func() (string, error) {
			if asked++; asked == 1 {
				return "test", nil
			}
			return then()
		})
		out, err := api.Authorize(t.Context(), waiting(durationpb.New(time.Second)))
		if err == nil || out != nil || len(h.asked) != 1 {
			t.Errorf("%s: %v, %v", name, out, err)
		}
	}
}
