package grpcapi_test

import (
	"context"
	"fmt"
	"testing"

	"go.uber.org/goleak"

	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/server/grpcapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is a decider that keeps what it was asked and answers as it is told.
type recorder struct {
	asked    []pdp.Request
	semantic pdp.Semantic
	answer   pdp.Decision
	explain  pdp.Explanation
	err      error
	// settled is what Settle and Release were asked, as they write it.
	settled    []string
	settlement pdp.Settlement
}

func (r *recorder) Authorize(_ context.Context, req *pdp.Request, dec *pdp.Decision) error {
	r.asked = append(r.asked, *req)
	*dec = r.answer
	return r.err
}

func (r *recorder) Batch(_ context.Context, reqs []pdp.Request, semantic pdp.Semantic, decs []pdp.Decision) ([]pdp.Decision, error) {
	r.asked = append(r.asked, reqs...)
	r.semantic = semantic
	decs = decs[:0]
	for range reqs {
		decs = append(decs, r.answer)
	}
	return decs, r.err
}

func (r *recorder) Explain(_ context.Context, req *pdp.Request, ex *pdp.Explanation) error {
	r.asked = append(r.asked, *req)
	*ex = r.explain
	return r.err
}

func (r *recorder) Settle(_ context.Context, gateway, decisionID string, actual float64) (pdp.Settlement, error) {
	r.settled = append(r.settled, fmt.Sprintf("settle %s of %s to %v", decisionID, gateway, actual))
	return r.settlement, r.err
}

func (r *recorder) Release(_ context.Context, gateway, decisionID string) (pdp.Settlement, error) {
	r.settled = append(r.settled, fmt.Sprintf("release %s of %s", decisionID, gateway))
	return r.settlement, r.err
}

func newAPI(t *testing.T, d grpcapi.Decider) *grpcapi.API {
	t.Helper()
	api, err := grpcapi.New(grpcapi.Config{
		Decider:  d,
		Standing: func(context.Context) (string, error) { return "test", nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return api
}
