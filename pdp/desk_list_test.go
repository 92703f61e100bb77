package pdp_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/store"
)

func TestWhatAnApproverSees(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1, func(c *pdp.DeskConfig) { c.Recent = func(agent string) string { return "what " + agent + " did" } })
	req := with(payRent, func(r *pdp.Request) {
		r.Resource, r.Subject, r.Gateway, r.Cost = "bank/large/rent", "ann@example.com", "edge", 2.5
		r.Tool, r.SessionID, r.RunID = pdp.Tool{Server: "bank", Name: "transfer"}, "s-1", "u-1"
	})
	dec := o.want(t, req, pdp.RequireApproval, pdp.ReasonApprovalRequired)
	id := dec.Approval.ID
	o.clock.advance(time.Minute)
	o.yes(t, id, controller)
	got, err := o.desk.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	want := &pdp.ApprovalRecord{
		ID: id, Digest: dec.Approval.Digest, State: pdp.ApprovalPending, Version: 2,
		Agent: "cleaner", Owner: "team@example.com", Subject: "ann@example.com", Action: "pay", Resource: "bank/large/rent",
		Risk: "write", Gateway: "edge", DecisionID: dec.ID, PolicyVersion: dec.PolicyVersion, Recent: "what cleaner did",
		Details: []pdp.ApprovalDetail{
			{Name: "source_ip", Value: "10.1.2.3"},
			{Name: "tool", Value: "transfer"},
			{Name: "tool_server", Value: "bank"},
			{Name: "session_id", Value: "s-1", Unverified: true},
			{Name: "run_id", Value: "u-1", Unverified: true},
			{Name: "cost", Value: "2.5"},
			{Name: "parameters.amount", Value: "82000", Unverified: true},
			{Name: "parameters.to.name", Value: `"landlord"`, Unverified: true},
			{Name: "parameters.to.tags[0]", Value: `"a"`, Unverified: true},
			{Name: "parameters.to.tags[1]", Value: `"b"`, Unverified: true},
			{Name: "context.channel", Value: `"email"`, Unverified: true},
		},
		Requirements: []pdp.ApprovalRequirementState{
			{Rule: "approvals/large", Groups: []string{"security"}, Quorum: 1, Approvers: []string{"lead@example.com", "oncall@example.com"}},
			{Rule: "approvals/pays", Groups: []string{"finance"}, Quorum: 1, Yes: 1, Approvers: []string{"controller@example.com", "lead@example.com"}},
		},
		Votes:    []pdp.ApprovalVote{{Voter: "controller@example.com", Yes: true, Rule: "approvals/pays", At: testStart.Add(time.Minute)}},
		OpenedAt: testStart, ExpiresAt: testStart.Add(15 * time.Minute),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestGetWhatIsNotThere(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	var bad *pdp.InvalidError
	if _, err := o.desk.Get(t.Context(), "apr_1"); !errors.As(err, &bad) || bad.Field != "id" {
		t.Errorf("malformed: %v", err)
	}
	const unknown = "apr_00000000000000000000000000000000"
	_, got := o.desk.Get(t.Context(), unknown)
	_, yes := o.desk.Approve(t.Context(), &pdp.Ballot{ApprovalID: unknown, Person: lead})
	_, no := o.desk.Deny(t.Context(), &pdp.Ballot{ApprovalID: unknown, Person: lead, Reason: "x"})
	_, back := o.desk.Cancel(t.Context(), &pdp.Ballot{ApprovalID: unknown, Person: lead})
	for name, err := range map[string]error{"get": got, "approve": yes, "deny": no, "cancel": back} {
		if !errors.Is(err, pdp.ErrNoSuchApproval) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBallotsThatAreMalformed(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	id := o.opened(t, removeNote)
	long := string(make([]byte, 4000))
	for field, ballot := range map[string]pdp.Ballot{
		"id":      {ApprovalID: "apr_x", Person: lead, Reason: "x"},
		"person":  {ApprovalID: id, Reason: "x"},
		"reason":  {ApprovalID: id, Person: lead, Reason: "a\x1b[31mb"},
		"vote_id": {ApprovalID: id, Person: lead, Reason: "x", VoteID: long},
	} {
		for name, do := range map[string]func(context.Context, *pdp.Ballot) (*pdp.ApprovalRecord, error){
			"approve": o.desk.Approve, "deny": o.desk.Deny, "cancel": o.desk.Cancel,
		} {
			var bad *pdp.InvalidError
			if _, err := do(t.Context(), &ballot); !errors.As(err, &bad) || bad.Field != field {
				t.Errorf("%s with a bad %s: %v", name, field, err)
			}
		}
	}
	if row := o.store.row(id); row.Version != 1 {
		t.Errorf("stored %+v, want it untouched", row)
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	lapsed := o.opened(t, call("cleaner", "delete", "notes/1"))
	o.clock.advance(10 * time.Minute)
	pending := o.opened(t, call("cleaner", "delete", "notes/2"))
	approved := o.approved(t, call("sweeper", "delete", "notes/3"), lead)
	denied := o.opened(t, call("sweeper", "delete", "notes/4"))
	o.no(t, denied, lead)
	ids := func(f pdp.ApprovalFilter) []string {
		t.Helper()
		var ids []string
		for {
			list, next, err := o.desk.List(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			for i := range list {
				ids = append(ids, list[i].ID)
			}
			if next == "" {
				return ids
			}
			f.After = next
		}
	}
	ids(pdp.ApprovalFilter{}) // What is looked at is brought to where it stands, and is found by it then.
	for name, tc := range map[string]struct {
		filter pdp.ApprovalFilter
		want   []string
	}{
		"open":     {pdp.ApprovalFilter{}, []string{approved, pending}},
		"by pages": {pdp.ApprovalFilter{Limit: 1}, []string{approved, pending}},
		"all":      {pdp.ApprovalFilter{All: true}, []string{denied, approved, pending, lapsed}},
		"expired":  {pdp.ApprovalFilter{State: pdp.ApprovalExpired}, []string{lapsed}},
		"denied":   {pdp.ApprovalFilter{State: pdp.ApprovalDenied, Agent: "sweeper"}, []string{denied}},
		"an agent": {pdp.ApprovalFilter{Agent: "cleaner"}, []string{pending}},
	} {
		if got := ids(tc.filter); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
	var bad *pdp.InvalidError
	for _, f := range []pdp.ApprovalFilter{{Limit: -1}, {Limit: 1001}, {State: 77}} {
		if _, _, err := o.desk.List(t.Context(), f); !errors.As(err, &bad) {
			t.Errorf("%+v: %v", f, err)
		}
	}
}

func TestSupersededWhenSomebodyLooks(t *testing.T) {
	t.Parallel()
	for name, look := range map[string]func(*office, string) error{
		"vote": func(o *office, id string) error {
			_, err := o.desk.Approve(context.Background(), &pdp.Ballot{ApprovalID: id, Person: lead})
			if errors.Is(err, pdp.ErrApprovalDecided) {
				err = nil
			}
			return err
		},
		"get": func(o *office, id string) error { _, err := o.desk.Get(context.Background(), id); return err },
		"list": func(o *office, _ string) error {
			_, _, err := o.desk.List(context.Background(), pdp.ApprovalFilter{})
			return err
		},
		"sweep": func(o *office, _ string) error { return o.desk.Sweep(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, 1)
			id := o.opened(t, removeNote)
			o.edit(t, "oncall@example.com, cleaner", "cleaner")
			if err := look(o, id); err != nil {
				t.Fatal(err)
			}
			if row := o.store.row(id); row.State != store.Superseded || row.Why == "" {
				t.Errorf("stored %+v, want it superseded, and why", row)
			}
			want := []string{"opened", "superseded"}
			if name == "vote" {
				want = append(want, "vote!")
			}
			o.wantEvents(t, want...)
		})
	}
}

func TestSweep(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 2)
	var ids []string
	for i := range 8 {
		ids = append(ids, o.opened(t, call("cleaner", "delete", fmt.Sprint("notes/", i))))
	}
	o.clock.advance(10 * time.Minute)
	done := make(chan error, 2)
	for _, desk := range o.desks {
		go func() { done <- desk.Sweep(context.Background()) }()
	}
	if err := errors.Join(<-done, <-done); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if row := o.store.row(id); row.State != store.Expired {
			t.Errorf("%s is %s", id, row.State)
		}
	}
	// Each expiry was seen by one of them.
	if got := o.events(); len(got) != 16 {
		t.Errorf("%d records, want 8 of the opening and 8 of the expiry", len(got))
	}
	o.clock.advance(30 * 24 * time.Hour)
	if err := o.desk.Sweep(t.Context()); err != nil || len(o.store.rows) != 8 {
		t.Errorf("%d left after 30 days: %v", len(o.store.rows), err)
	}
	o.clock.advance(1)
	if err := o.desk.Sweep(t.Context()); err != nil || len(o.store.rows) != 0 {
		t.Errorf("%d left after more than 30 days: %v", len(o.store.rows), err)
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	req := with(removeNote, func(r *pdp.Request) { r.Subject = "user@example.com" })
	id := o.opened(t, req)
	cancel := func(p pdp.Person) (*pdp.ApprovalRecord, error) {
		return o.desk.Cancel(t.Context(), &pdp.Ballot{ApprovalID: id, Person: p, Reason: "not needed"})
	}
	for _, p := range []pdp.Person{oidc("mallory@example.com"), controller, local("user@example.com"), oidc("cleaner")} {
		if _, err := cancel(p); !errors.Is(err, pdp.ErrNotEligible) {
			t.Errorf("%s: %v", p, err)
		}
	}
	user := oidc("user@example.com")
	if r, err := cancel(user); err != nil || r.State != pdp.ApprovalCancelled || r.EndedBy != "user@example.com" || r.Why != "not needed" {
		t.Errorf("%+v %v", r, err)
	}
	if _, err := cancel(user); err != nil {
		t.Errorf("again: %v", err)
	}
	if _, err := cancel(lead); !errors.Is(err, pdp.ErrApprovalDecided) {
		t.Errorf("by another: %v", err)
	}
	o.refused(t, id, lead, pdp.ErrApprovalDecided)
	o.wantEvents(t, "opened", "cancelled!", "cancelled!", "cancelled!", "cancelled!", "cancelled", "cancelled!", "vote!")
	// What was taken back may be asked for again at once.
	o.want(t, req, pdp.RequireApproval, pdp.ReasonApprovalRequired)
}

func TestWatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, 2, func(c *pdp.DeskConfig) { c.Timer = realTimer })
		old := o.opened(t, call("cleaner", "delete", "notes/old"))
		ctx, cancel := context.WithCancel(t.Context())
		seen := make(chan string, 100)
		ended := make(chan error, 1)
		go func() {
			ended <- o.desk.Watch(ctx, func(r *pdp.ApprovalRecord) bool {
				seen <- r.Resource + " " + r.State.String()
				return r.Resource != "notes/last"
			})
		}()
		synctest.Wait()
		expect := func(want ...string) {
			t.Helper()
			synctest.Wait()
			var got []string
			for len(seen) > 0 {
				got = append(got, <-seen)
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("told %q, want %q", got, want)
			}
		}
		expect()
		id := o.opened(t, removeNote)
		expect("notes/1 pending")
		if _, err := o.desks[1].Approve(ctx, &pdp.Ballot{ApprovalID: id, Person: lead}); err != nil {
			t.Fatal(err)
		}
		expect("notes/1 approved")
		// Nobody is told that time passes: it is looked for.
		o.clock.advance(10 * time.Minute)
		time.Sleep(6 * time.Second) //nolint:forbidigo // Time stands still in this bubble.
		expect("notes/1 expired", "notes/old expired")
		// Nor of what the store lost track of.
		o.store.change(o.openedQuietly(t, "notes/quiet"), func(*store.Approval) {})
		time.Sleep(6 * time.Second) //nolint:forbidigo // Time stands still in this bubble.
		expect("notes/quiet pending")
		o.opened(t, call("cleaner", "delete", "notes/last"))
		synctest.Wait()
		if err := <-ended; err != nil {
			t.Errorf("ended with %v after f said no", err)
		}
		cancel()
		if got, err := o.desk.Get(t.Context(), old); err != nil || got.State != pdp.ApprovalExpired {
			t.Errorf("%+v %v", got, err)
		}
	})
}

// openedQuietly opens one without those who watch being told.
func (o *office) openedQuietly(tb testing.TB, resource string) string {
	tb.Helper()
	var watchers map[chan string]bool
	o.store.set(func() { watchers, o.store.watchers = o.store.watchers, map[chan string]bool{} })
	id := o.opened(tb, call("cleaner", "delete", resource))
	o.store.set(func() { o.store.watchers = watchers })
	return id
}

func TestWatchEndsWithItsContext(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := o.desk.Watch(ctx, func(*pdp.ApprovalRecord) bool { return true }); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	o.store.err = store.ErrUnavailable
	if err := o.desk.Watch(t.Context(), func(*pdp.ApprovalRecord) bool { return true }); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}
