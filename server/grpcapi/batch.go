package grpcapi

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/pdp"
)

// batch is what one batch needs and gives back.
type batch struct {
	reqs []pdp.Request
	decs []pdp.Decision
}

// BatchAuthorize decides up to [MaxBatch] calls in order. A field that is not
// enforced refuses the whole batch; a malformed request is only that
// request's DENY.
func (a *API) BatchAuthorize(ctx context.Context, in *authzv1.BatchAuthorizeRequest) (*authzv1.BatchAuthorizeResponse, error) {
	gateway, err := a.cfg.Standing(ctx)
	if err != nil {
		return nil, err
	}
	semantic, fault := checkBatch(in)
	if fault != nil {
		return nil, a.refuse(fault)
	}
	b, _ := a.batches.Get().(*batch)
	defer a.giveBatchBack(b)
	if n := len(in.GetRequests()); cap(b.reqs) < n {
		b.reqs = make([]pdp.Request, n)
	} else {
		b.reqs = b.reqs[:n]
	}
	for i, one := range in.GetRequests() {
		if fault := translate(one, gateway, &b.reqs[i]); fault != nil {
			return nil, a.refuse(fault.under(item(i)))
		}
	}
	decs, err := a.cfg.Decider.Batch(ctx, b.reqs, semantic, b.decs)
	if err != nil {
		return nil, a.mapError(err, "")
	}
	b.decs = decs
	out := &authzv1.BatchAuthorizeResponse{Responses: make([]*authzv1.AuthorizeResponse, len(decs))}
	for i := range decs {
		one := newAnswer()
		one.fill(&decs[i])
		out.Responses[i] = &one.response
	}
	return out, nil
}

func checkBatch(in *authzv1.BatchAuthorizeRequest) (pdp.Semantic, *fault) {
	if f := unknownField(in, ""); f != nil {
		return 0, f
	}
	switch n := len(in.GetRequests()); {
	case n == 0:
		return 0, malformed("requests", "is empty; write at least one request")
	case n > MaxBatch:
		return 0, malformed("requests", fmt.Sprintf("holds %d requests; send at most %d at once", n, MaxBatch))
	}
	if n := proto.Size(in); n > MaxBatchBytes {
		return 0, malformed("requests", fmt.Sprintf("holds %d bytes; send at most %d at once", n, MaxBatchBytes))
	}
	switch in.GetSemantic() {
	case authzv1.BatchSemantic_BATCH_SEMANTIC_UNSPECIFIED, authzv1.BatchSemantic_BATCH_SEMANTIC_EXECUTE_ALL:
		return pdp.ExecuteAll, nil
	case authzv1.BatchSemantic_BATCH_SEMANTIC_DENY_ON_FIRST_DENY:
		return pdp.DenyOnFirstDeny, nil
	case authzv1.BatchSemantic_BATCH_SEMANTIC_PERMIT_ON_FIRST_PERMIT:
		return pdp.PermitOnFirstPermit, nil
	default:
		return 0, malformed("semantic", "is unknown; write EXECUTE_ALL, DENY_ON_FIRST_DENY or PERMIT_ON_FIRST_PERMIT")
	}
}

func (a *API) giveBatchBack(b *batch) {
	clear(b.reqs)
	a.batches.Put(b)
}
