// Package adminapi is the admin door: it tells administrators how the server
// stands, and lets them set it right. It is served on the admin listener only,
// and never decides.
//
//	adminv1.RegisterAdminServiceServer(srv, adminapi.New(store.Status, decider))
package adminapi

import (
	"context"
	"math"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/kelpie-authz/kelpie/gen/kelpie/admin/v1"
)

// PolicyStatus is how the policy stands.
type PolicyStatus struct {
	// Version is the snapshot in force, since LoadedAt.
	Version  string
	LoadedAt time.Time
	// LastAttempt is when the documents were last read to be compiled.
	LastAttempt time.Time
	// LastErrors are of that attempt; none: it succeeded.
	LastErrors []string
	Agents     int
	Scopes     int
	Deny       int
	Approvals  int
	Limits     int
}

// API implements adminv1.AdminServiceServer. It is safe for concurrent use if
// its source is.
type API struct {
	adminv1.UnimplementedAdminServiceServer

	policy func() PolicyStatus
	limits Limits
}

// New returns an API; policy is asked for each call. Nil limits: those RPCs are
// UNIMPLEMENTED.
func New(policy func() PolicyStatus, limits Limits) *API { return &API{policy: policy, limits: limits} }

// PolicyStatus tells which policy is in force and how the last reload went.
func (a *API) PolicyStatus(context.Context, *adminv1.PolicyStatusRequest) (*adminv1.PolicyStatusResponse, error) {
	s := a.policy()
	return &adminv1.PolicyStatusResponse{
		PolicyVersion: s.Version,
		LoadedAt:      timestamp(s.LoadedAt),
		LastAttemptAt: timestamp(s.LastAttempt),
		LastErrors:    s.LastErrors,
		Counts: &adminv1.PolicyCounts{
			Agents: count(s.Agents), Scopes: count(s.Scopes), Deny: count(s.Deny),
			Approvals: count(s.Approvals), Limits: count(s.Limits),
		},
	}, nil
}

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func count(n int) uint32 { return uint32(min(max(n, 0), math.MaxUint32)) }
