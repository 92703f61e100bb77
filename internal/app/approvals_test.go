package app_test

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kelpie-authz/kelpie/audit"
	approvalv1 "github.com/kelpie-authz/kelpie/gen/kelpie/approval/v1"
	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/store/sqlitestore"
)

// desk is the approvals of a running App, for whoever has its token.
func (r *running) desk(t *testing.T) (context.Context, approvalv1.ApprovalServiceClient) {
	t.Helper()
	ctx, _ := r.admin(t)
	return ctx, approvalv1.NewApprovalServiceClient(dial(t, r.Addrs().Admin.String(), nil))
}

func (r *running) holds(t *testing.T, n int) bool {
	t.Helper()
	_, body := r.get(t, "/metrics")
	return strings.Contains(body, fmt.Sprintf("\nkelpie_held %d\n", n))
}

func erase(t *testing.T, r *running, approval string) *authzv1.AuthorizeResponse {
	t.Helper()
	out, err := r.client(t).Authorize(t.Context(), &authzv1.AuthorizeRequest{
		Agent: "writer", Action: "delete", Resource: "docs/1", SourceIp: "10.1.1.1", ApprovalId: approval,
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A human's yes lets exactly that call through, once, whatever is restarted in
// between, and the audit tells the whole story.
func TestApproval(t *testing.T) {
	t.Parallel()
	policy := policyDir(t, auditedPolicy)
	r := start(t, func(c *config.Config) { c.Policy = policy })
	state := r.cfg.State
	again := func() {
		t.Helper()
		if err := r.end(t); err != nil {
			t.Fatal(err)
		}
		r = start(t, func(c *config.Config) { c.Policy, c.State = policy, state })
	}
	first := erase(t, r, "")
	id := first.GetApproval().GetId()
	if first.GetReason() != authzv1.Reason_REASON_APPROVAL_REQUIRED || id == "" {
		t.Fatalf("the first call: %v", first)
	}
	again()
	if out := erase(t, r, ""); out.GetReason() != authzv1.Reason_REASON_APPROVAL_PENDING || out.GetApproval().GetId() != id {
		t.Errorf("while it is pending: %v", out)
	}
	ctx, desk := r.desk(t)
	if _, err := desk.Approve(ctx, &approvalv1.ApproveRequest{Id: id, As: "mallory@example.com"}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a yes of somebody else: %v", err)
	}
	if got, err := desk.Approve(ctx, &approvalv1.ApproveRequest{Id: id, As: "security-oncall@example.com"}); err != nil {
		t.Fatalf("%v, %v", got, err)
	}
	again()
	if out := erase(t, r, "apr_00000000000000000000000000000000"); out.GetReason() != authzv1.Reason_REASON_APPROVAL_BINDING_MISMATCH {
		t.Errorf("with an id that there is not: %v", out)
	}
	var allowed, asked atomic.Int64
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			switch out := erase(t, r, ""); out.GetReason() {
			case authzv1.Reason_REASON_OK_APPROVED:
				allowed.Add(1)
			case authzv1.Reason_REASON_APPROVAL_REQUIRED, authzv1.Reason_REASON_APPROVAL_PENDING, authzv1.Reason_REASON_APPROVAL_CONSUMED:
				asked.Add(1)
			default:
				t.Errorf("one of many: %v", out)
			}
		})
	}
	wg.Wait()
	if allowed.Load() != 1 || asked.Load() != 31 {
		t.Errorf("%d of 32 calls went through with one yes", allowed.Load())
	}
	if out := erase(t, r, id); out.GetReason() != authzv1.Reason_REASON_APPROVAL_CONSUMED {
		t.Errorf("with its id once more: %v", out)
	}
	if err := r.end(t); err != nil {
		t.Fatal(err)
	}
	var kinds []audit.Kind
	for _, l := range readAudit(t, r.cfg, &audit.Query{ApprovalID: id, Kinds: []audit.Kind{"approval"}, Order: audit.OldestFirst}) {
		kinds = append(kinds, l.Kind)
	}
	want := []audit.Kind{audit.KindApprovalOpened, audit.KindApprovalVote, audit.KindApprovalVote, audit.KindApprovalApproved, audit.KindApprovalConsumed}
	if !slices.Equal(kinds, want) {
		t.Errorf("the audit has %v, want %v", kinds, want)
	}
}

// Of a batch, the limits of calls that need nobody are still taken together, and a
// call that comes twice uses a yes once.
func TestApprovalInABatch(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *config.Config) { c.Policy = policyDir(t, auditedPolicy) })
	one := &authzv1.AuthorizeRequest{Agent: "writer", Action: "delete", Resource: "docs/1", SourceIp: "10.1.1.1"}
	read := &authzv1.AuthorizeRequest{Agent: "writer", Action: "read", Resource: "docs/1", SourceIp: "10.1.1.1"}
	batch := func() (reasons []authzv1.Reason, id string) {
		t.Helper()
		out, err := r.client(t).BatchAuthorize(t.Context(), &authzv1.BatchAuthorizeRequest{Requests: []*authzv1.AuthorizeRequest{read, one, one, read}})
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range out.GetResponses() {
			reasons = append(reasons, a.GetReason())
			id = max(id, a.GetApproval().GetId())
		}
		return reasons, id
	}
	ok, required, pending := authzv1.Reason_REASON_OK, authzv1.Reason_REASON_APPROVAL_REQUIRED, authzv1.Reason_REASON_APPROVAL_PENDING
	got, id := batch()
	if !slices.Equal(got, []authzv1.Reason{ok, required, pending, ok}) {
		t.Errorf("before the yes: %v", got)
	}
	ctx, desk := r.desk(t)
	if _, err := desk.Approve(ctx, &approvalv1.ApproveRequest{Id: id, As: "security-oncall@example.com"}); err != nil {
		t.Fatal(err)
	}
	if got, _ := batch(); !slices.Equal(got, []authzv1.Reason{ok, authzv1.Reason_REASON_OK_APPROVED, required, ok}) {
		t.Errorf("after the yes: %v", got)
	}
}

// A call that waits is held until the humans have decided, takes no place from
// others meanwhile, and is let go when the server ends.
func TestApprovalIsWaitedFor(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *config.Config) { c.Policy, c.MaxInFlight = policyDir(t, auditedPolicy), 1 })
	ask := func(resource string) <-chan *authzv1.AuthorizeResponse {
		got := make(chan *authzv1.AuthorizeResponse, 1)
		go func() {
			out, err := r.client(t).Authorize(context.Background(), &authzv1.AuthorizeRequest{
				Agent: "writer", Action: "delete", Resource: resource, SourceIp: "10.1.1.1", Wait: durationpb.New(30 * time.Second),
			})
			if err != nil {
				t.Error(err)
			}
			got <- out
		}()
		return got
	}
	first := ask("docs/1")
	ctx, desk := r.desk(t)
	var id string
	testkit.Eventually(t, "the call that is held", func() bool {
		list, err := desk.List(ctx, &approvalv1.ListRequest{})
		if err != nil || len(list.GetApprovals()) != 1 {
			return false
		}
		id = list.GetApprovals()[0].GetId()
		return r.holds(t, 1)
	})
	if out, err := r.client(t).Authorize(t.Context(), &authzv1.AuthorizeRequest{Agent: "writer", Action: "read", Resource: "docs/1", SourceIp: "10.1.1.1"}); err != nil || out.GetDecision() != authzv1.Decision_DECISION_ALLOW {
		t.Errorf("another call meanwhile, where one place is: %v, %v", out, err)
	}
	if _, err := desk.Approve(ctx, &approvalv1.ApproveRequest{Id: id, As: "security-oncall@example.com"}); err != nil {
		t.Fatal(err)
	}
	if out := <-first; out.GetReason() != authzv1.Reason_REASON_OK_APPROVED {
		t.Errorf("after the yes: %v", out)
	}
	second := ask("docs/2")
	testkit.Eventually(t, "the second call that is held", func() bool { return r.holds(t, 1) })
	if err := r.end(t); err != nil {
		t.Error(err)
	}
	if out := <-second; out.GetReason() != authzv1.Reason_REASON_APPROVAL_REQUIRED || out.GetApproval().GetId() == "" {
		t.Errorf("at the end of the server: %v", out)
	}
}

// While another program holds the database, calls that need a yes are denied, all
// others go on, the server says so, and it ends by itself.
func TestApprovalsWhoseDatabaseIsLocked(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *config.Config) { c.Policy = policyDir(t, auditedPolicy) })
	if out := erase(t, r, ""); out.GetReason() != authzv1.Reason_REASON_APPROVAL_REQUIRED {
		t.Fatal(out)
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(r.cfg.State, sqlitestore.File)+"?_txlock=exclusive&_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	out, err := r.client(t).Authorize(t.Context(), &authzv1.AuthorizeRequest{Agent: "writer", Action: "delete", Resource: "docs/other", SourceIp: "10.1.1.1"})
	if err != nil || out.GetReason() != authzv1.Reason_REASON_DEPENDENCY_UNAVAILABLE {
		t.Errorf("a call that needs a yes: %v, %v", out, err)
	}
	out, err = r.client(t).Authorize(t.Context(), &authzv1.AuthorizeRequest{Agent: "writer", Action: "update", Resource: "docs/1", SourceIp: "10.1.1.1"})
	if err != nil || out.GetDecision() != authzv1.Decision_DECISION_ALLOW {
		t.Errorf("a call that needs none: %v, %v", out, err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if out := erase(t, r, ""); out.GetReason() != authzv1.Reason_REASON_APPROVAL_PENDING {
		t.Errorf("afterwards: %v", out)
	}
}

// A look that fails stands in /readyz and in the metrics until one does not.
func TestApprovalsThatCannotBeLookedAt(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *config.Config) { c.Policy = policyDir(t, auditedPolicy) })
	erase(t, r, "")
	path := filepath.Join(r.cfg.State, sqlitestore.File)
	for _, name := range []string{path, path + "-wal"} { // as a disk that lost its blocks
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, bytes.Repeat([]byte{0xA5}, int(info.Size())), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, "the fault in /readyz", func() bool {
		code, body := r.get(t, "/readyz")
		return code == 200 && strings.Contains(body, "approvals cannot be looked at")
	})
	if _, body := r.get(t, "/metrics"); !strings.Contains(body, "\nkelpie_approvals_failing 1\n") {
		t.Error("the metric does not tell")
	}
	out, err := r.client(t).Authorize(t.Context(), &authzv1.AuthorizeRequest{Agent: "writer", Action: "delete", Resource: "docs/other", SourceIp: "10.1.1.1"})
	if err != nil || out.GetDecision() != authzv1.Decision_DECISION_DENY {
		t.Errorf("a call that needs a yes: %v, %v", out, err)
	}
	out, err = r.client(t).Authorize(t.Context(), &authzv1.AuthorizeRequest{Agent: "writer", Action: "update", Resource: "docs/1", SourceIp: "10.1.1.1"})
	if err != nil || out.GetDecision() != authzv1.Decision_DECISION_ALLOW {
		t.Errorf("a call that needs none: %v, %v", out, err)
	}
	if n := strings.Count(r.stderr.String(), "approvals cannot be looked at"); n != 1 {
		t.Errorf("it was told %d times", n)
	}
	_ = r.end(t) // A database that is damaged may not be closed in order.
}
