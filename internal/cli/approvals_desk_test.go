package cli_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	approvalv1 "github.com/kelpie-authz/kelpie/gen/kelpie/approval/v1"
	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/server"
	"github.com/kelpie-authz/kelpie/server/adminapi"
)

// paperDesk is a desk of records that a test wrote: whoever is named among the
// approvers of a requirement may decide, and each yes counts.
type paperDesk struct {
	mu      sync.Mutex
	records []pdp.ApprovalRecord
	pages   []int

	changes  chan pdp.ApprovalRecord
	watching chan struct{}
}

func (d *paperDesk) List(_ context.Context, f pdp.ApprovalFilter) ([]pdp.ApprovalRecord, string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pages = append(d.pages, f.Limit)
	from := 0
	if f.After != "" {
		var err error
		if from, err = strconv.Atoi(f.After); err != nil {
			return nil, "", &pdp.InvalidError{Field: "after", Why: "after is no page"}
		}
	}
	var out []pdp.ApprovalRecord
	for i := from; i < len(d.records); i++ {
		r := d.records[i]
		if !f.All && r.State != pdp.ApprovalPending && r.State != pdp.ApprovalApproved || f.Agent != "" && f.Agent != r.Agent {
			continue
		}
		if len(out) == f.Limit {
			return out, strconv.Itoa(i), nil
		}
		out = append(out, r)
	}
	return out, "", nil
}

func (d *paperDesk) find(id string) (*pdp.ApprovalRecord, error) {
	at := slices.IndexFunc(d.records, func(r pdp.ApprovalRecord) bool { return r.ID == id })
	if at < 0 {
		return nil, pdp.ErrNoSuchApproval
	}
	return &d.records[at], nil
}

func (d *paperDesk) Get(_ context.Context, id string) (*pdp.ApprovalRecord, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, err := d.find(id)
	if err != nil {
		return nil, err
	}
	out := *r
	return &out, nil
}

func (d *paperDesk) change(b *pdp.Ballot, f func(r *pdp.ApprovalRecord)) (*pdp.ApprovalRecord, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, err := d.find(b.ApprovalID)
	if err != nil {
		return nil, err
	}
	if r.State != pdp.ApprovalPending && (r.State != pdp.ApprovalApproved || r.Grant == nil) {
		return nil, fmt.Errorf("%w: it is %s", pdp.ErrApprovalDecided, r.State)
	}
	if !slices.ContainsFunc(r.Requirements, func(n pdp.ApprovalRequirementState) bool {
		return slices.Contains(n.Approvers, b.Person.Name)
	}) {
		return nil, fmt.Errorf("%w: %s is in none of the groups that may decide it", pdp.ErrNotEligible, b.Person.Name)
	}
	f(r)
	out := *r
	return &out, nil
}

func (d *paperDesk) Approve(_ context.Context, b *pdp.Ballot) (*pdp.ApprovalRecord, error) {
	return d.change(b, func(r *pdp.ApprovalRecord) {
		r.Requirements = slices.Clone(r.Requirements)
		r.Votes = append(slices.Clone(r.Votes), pdp.ApprovalVote{
			Voter: b.Person.String(), Yes: true, Rule: r.Requirements[0].Rule, Reason: b.Reason, At: noon(),
		})
		if r.Requirements[0].Yes++; r.Requirements[0].Yes == r.Requirements[0].Quorum {
			r.State, r.ExpiresAt = pdp.ApprovalApproved, noon().Add(5*time.Minute)
		}
	})
}

func (d *paperDesk) Deny(_ context.Context, b *pdp.Ballot) (*pdp.ApprovalRecord, error) {
	return d.change(b, func(r *pdp.ApprovalRecord) {
		r.State, r.EndedAt, r.EndedBy, r.Why = pdp.ApprovalDenied, noon(), b.Person.String(), b.Reason
	})
}

func (d *paperDesk) Cancel(_ context.Context, b *pdp.Ballot) (*pdp.ApprovalRecord, error) {
	return d.change(b, func(r *pdp.ApprovalRecord) {
		to := pdp.ApprovalCancelled
		if r.State == pdp.ApprovalApproved {
			to = pdp.ApprovalRevoked
		}
		r.State, r.EndedAt, r.EndedBy, r.Why = to, noon(), b.Person.String(), b.Reason
	})
}

func (*paperDesk) BreakGlass(context.Context, *pdp.BreakGlassOrder) (*pdp.ApprovalRecord, error) {
	return nil, pdp.ErrNotEligible
}

func (*paperDesk) ReviewBreakGlass(context.Context, *pdp.Ballot) (*pdp.ApprovalRecord, error) {
	return nil, pdp.ErrNotEligible
}

func (d *paperDesk) Watch(ctx context.Context, f func(*pdp.ApprovalRecord) bool) error {
	close(d.watching)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case r := <-d.changes:
			if !f(&r) {
				return nil
			}
		}
	}
}

// records are what a test's desk begins with.
func records() []pdp.ApprovalRecord {
	security := func(quorum, yes int) []pdp.ApprovalRequirementState {
		return []pdp.ApprovalRequirementState{{
			Rule: "approvals/destructive", Groups: []string{"security"}, Quorum: quorum, Yes: yes,
			Approvers: []string{"security-lead@example.com", "security-oncall@example.com"},
		}}
	}
	base := pdp.ApprovalRecord{
		Digest: strings.Repeat("ab", 32), Version: 1, Agent: "data-cleaner", Owner: "data@example.com", Action: "delete",
		Resource: "salesforce/leads/42", Risk: "delete", Gateway: "loopback", DecisionID: "01f0b7b8-1111-7222-8333-444455556666",
		PolicyVersion: strings.Repeat("cd", 32), Recent: "12 allowed, 1 denied, 3 that needed a yes in the last hour, as far as this server knows",
		OpenedAt: noon().Add(-time.Minute), ExpiresAt: noon().Add(14 * time.Minute),
	}
	with := func(n int, change func(r *pdp.ApprovalRecord)) pdp.ApprovalRecord {
		r := base
		r.ID, r.State, r.Requirements = fmt.Sprintf("apr_%032x", n), pdp.ApprovalPending, security(1, 0)
		change(&r)
		return r
	}
	return []pdp.ApprovalRecord{
		with(1, func(r *pdp.ApprovalRecord) {
			r.Subject = "ann@example.com"
			r.Details = []pdp.ApprovalDetail{
				{Name: "source_ip", Value: "10.8.0.5"},
				{Name: "session_id", Value: "s-1", Unverified: true},
				{Name: "parameters.why", Value: `"a duplicate of 41"`, Unverified: true},
			}
		}),
		with(2, func(r *pdp.ApprovalRecord) {
			r.Requirements = security(3, 1)
			r.Requirements[0].Groups = []string{"security", "finance"}
			r.Votes = []pdp.ApprovalVote{{
				Voter: "security-lead@example.com", Yes: true, Rule: "approvals/destructive", Reason: "seen the ticket", At: noon().Add(-30 * time.Second),
			}}
		}),
		with(3, func(r *pdp.ApprovalRecord) { r.State, r.ExpiresAt = pdp.ApprovalApproved, noon().Add(90*time.Second) }),
		with(4, nasty),
		with(5, func(r *pdp.ApprovalRecord) {
			r.State, r.EndedAt, r.EndedBy, r.Why = pdp.ApprovalDenied, noon(), "security-lead@example.com", "not a duplicate"
			r.Requirements[0].Approvers = nil
		}),
		with(6, func(r *pdp.ApprovalRecord) {
			r.State, r.EndedAt, r.UsedBy, r.Agent = pdp.ApprovalConsumed, noon(), "d-77", "org-admin"
			r.Risk, r.Requirements[0].Groups = "admin", nil
		}),
	}
}

// grants are what a desk has of standing grants and broken glasses: each in force
// and ended in each way that there is.
func grants() []pdp.ApprovalRecord {
	base := pdp.ApprovalRecord{
		Version: 2, Agent: "lead-router", Action: "update", Resource: "salesforce/leads/*", Risk: "write",
		OpenedAt: noon().Add(-time.Hour), ExpiresAt: noon().Add(30 * time.Minute),
		Requirements: []pdp.ApprovalRequirementState{{Rule: "approvals/writes", Quorum: 1, Approvers: []string{"security-oncall@example.com"}}},
	}
	with := func(n int, state pdp.ApprovalState, change func(r *pdp.ApprovalRecord)) pdp.ApprovalRecord {
		r := base
		r.ID, r.State = fmt.Sprintf("apr_%032x", n), state
		if state != pdp.ApprovalApproved && state != pdp.ApprovalPending {
			r.EndedAt = noon().Add(-time.Minute)
		}
		change(&r)
		return r
	}
	standing := func(uses, most int) func(r *pdp.ApprovalRecord) {
		return func(r *pdp.ApprovalRecord) {
			r.Grant = &pdp.GrantState{From: first, Resource: r.Resource, MaxUses: most, Uses: uses}
		}
	}
	glass := func(uses int, reviewer string) func(r *pdp.ApprovalRecord) {
		return func(r *pdp.ApprovalRecord) {
			r.Agent, r.Action, r.Resource, r.Risk = "data-cleaner", "", "**", ""
			r.Grant = &pdp.GrantState{Resource: "**", Uses: uses, BreakGlass: &pdp.BreakGlassState{
				Reason: "the queue is full", Ticket: "INC-7", ReviewBy: noon().Add(24 * time.Hour), ReviewedBy: reviewer,
			}}
		}
	}
	return []pdp.ApprovalRecord{
		with(0x11, pdp.ApprovalApproved, standing(0, 2)),
		with(0x12, pdp.ApprovalApproved, standing(0, 1)),
		with(0x13, pdp.ApprovalRevoked, standing(1, 2)),
		with(0x14, pdp.ApprovalConsumed, standing(1000, 1000)),
		with(0x15, pdp.ApprovalPending, standing(0, 2)),
		with(0x21, pdp.ApprovalApproved, glass(1, "")),
		with(0x22, pdp.ApprovalExpired, glass(0, "")),
		with(0x23, pdp.ApprovalRevoked, glass(3, "security-lead@example.com")),
		with(0x24, pdp.ApprovalPending, glass(0, "")),
	}
}

// nasty is what an agent would write that wants to be waved through.
func nasty(r *pdp.ApprovalRecord) {
	r.Agent = "d\u0430ta-cleaner" // The second letter is Cyrillic.
	r.Action = "delete"
	r.Resource = "salesforce/leads/42\u202e\u2066 risk  read   in 5m\x1b[2J\x1b[1;1H\nSaid so far\r" + strings.Repeat("x", 2000)
	r.Subject = "ann\u200b@example.com\ufe0f\u3164\u2800"
	for i := range 30 {
		r.Requirements[0].Approvers = append(r.Requirements[0].Approvers, fmt.Sprintf("human-%d@example.com", i))
	}
	r.Votes = []pdp.ApprovalVote{{Voter: "a\u202eb", Reason: "\x07no\nyes", At: noon()}}
	r.Details = []pdp.ApprovalDetail{
		{Name: "tool", Value: "erase\u00a0\U000e0041"},
		{Name: "parameters.note\n  agent  lead-router", Value: "\"ok\nNeeded\n  rule  none\u2028\u061c\"", Unverified: true},
		{Name: "parameters.blob", Value: strings.Repeat("A", 50_000), Unverified: true},
		{Name: "parameters.wide", Value: strings.Repeat("\u72ac", 60), Unverified: true},
		{Name: "parameters.path", Value: `"\\u202e"`, Unverified: true},
	}
	r.Recent = ""
}

// openDesk serves a desk on an admin listener until the test ends.
func openDesk(t *testing.T, records []pdp.ApprovalRecord) (d *paperDesk, srv *server.GRPC, flags []string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "kelpie") // t.TempDir is too long for a socket's path.
	if err != nil {
		t.Fatal(err)
	}
	token, err := server.LoadAdminToken(filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := server.NewGRPCMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	srv = server.NewGRPC(server.GRPCConfig{
		Logger: slog.New(slog.DiscardHandler), Metrics: metrics, Credentials: server.Credentials(nil),
		Unary: []grpc.UnaryServerInterceptor{token.Unary}, Stream: []grpc.StreamServerInterceptor{token.Stream},
	})
	d = &paperDesk{records: records, changes: make(chan pdp.ApprovalRecord), watching: make(chan struct{})}
	api := adminapi.NewApprovals(d, adminapi.LocalAdmin)
	api.Draining = srv.Draining()
	approvalv1.RegisterApprovalServiceServer(srv, api)
	addr := "unix://" + dir + "/a"
	lis, err := server.Listen(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(lis) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-ended; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return d, srv, []string{"--server", addr, "--admin-token-file", filepath.Join(dir, "state", server.AdminTokenFile)}
}
