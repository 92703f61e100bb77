package policytest

import (
	"context"

	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/policy"
)

// approvals says what the test says of every approval, and keeps none: one
// opened by a request is not seen by the next.
type approvals struct{ fate policy.TestApproval }

var _ pdp.Approvals = (*approvals)(nil)

// Find implements pdp.Approvals.
func (a *approvals) Find(_ context.Context, ask *pdp.ApprovalAsk) (pdp.ApprovalStatus, error) {
	found := pdp.FoundNone
	switch a.fate {
	case policy.TestApprovalApproved:
		found = pdp.FoundApproved
	case policy.TestApprovalPending:
		found = pdp.FoundPending
	case policy.TestApprovalDenied:
		found = pdp.FoundDenied
	case policy.TestApprovalExpired:
		found = pdp.FoundExpired
	case policy.TestApprovalNone:
		return pdp.ApprovalStatus{}, nil
	}
	return status(found, ask), nil
}

// Open implements pdp.Approvals.
func (*approvals) Open(_ context.Context, ask *pdp.ApprovalAsk) (pdp.ApprovalStatus, error) {
	return status(pdp.FoundOpened, ask), nil
}

// Consume implements pdp.Approvals.
func (*approvals) Consume(
	_ context.Context, _ *pdp.ApprovalAsk, found pdp.ApprovalStatus,
) (pdp.ApprovalStatus, error) {
	return found, nil
}

func status(found pdp.ApprovalFound, ask *pdp.ApprovalAsk) pdp.ApprovalStatus {
	return pdp.ApprovalStatus{Found: found, ID: "approval of " + ask.DecisionID, ExpiresAt: ask.Now.Add(ask.Expires)}
}
