package pdp_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/store"
)

// deskPolicy asks for a yes in every way that there is.
const deskPolicy = `
scopes:
  notes.delete: {actions: [delete], resources: ["notes/**"]}
  pay: {actions: [pay], resources: ["bank/**"]}
  wipe: {actions: [wipe], resources: ["disks/*"], risk: delete}
networks:
  office: {cidrs: [10.0.0.0/8]}
agents:
  cleaner: {owner: team@example.com, scopes: [notes.delete, pay, wipe], networks: [office]}
  sweeper: {owner: team@example.com, scopes: [notes.delete, pay, wipe], networks: [office]}
approvers:
  security: {members: [lead@example.com, oncall@example.com, cleaner]}
  finance: {members: [controller@example.com, lead@example.com]}
  board: {members: [ann@example.com, ANN@example.com, bob@example.com]}
approvals:
  deletes: {match: {actions: [delete]}, approvers: [security], expires: 10m, use_within: 3m}
  pays: {match: {actions: [pay], when: 'context.channel == context.channel'}, approvers: [finance]}
  large: {match: {actions: [pay], resources: ["bank/large/**"]}, approvers: [security]}
  board: {match: {actions: [pay], resources: ["bank/board/**"]}, approvers: [board], quorum: 2}
limits:
  calls: {rate: 600/minute, burst: 600, per: [agent]}
`

var (
	lead       = oidc("lead@example.com")
	oncall     = oidc("oncall@example.com")
	controller = oidc("controller@example.com")

	removeNote = call("cleaner", "delete", "notes/1")
	payRent    = with(call("cleaner", "pay", "bank/rent"), func(r *pdp.Request) {
		r.Context = map[string]any{"channel": "email", "note": "not read"}
		r.ParametersJSON = []byte(`{"amount":82000,"to":{"name":"landlord","tags":["a","b"]}}`)
	})
)

func oidc(name string) pdp.Person { return pdp.Person{Name: name, How: pdp.KnownByOIDC} }
func local(name string) pdp.Person {
	return pdp.Person{Name: name, How: pdp.LocalAdmin}
}

// office is several replicas over one store: a desk and a service each.
type office struct {
	*fixture
	store *memoryApprovals
	desks []*pdp.Desk
	svcs  []*pdp.Service
	desk  *pdp.Desk
}

func newOffice(tb testing.TB, replicas int, change ...func(*pdp.DeskConfig)) *office {
	tb.Helper()
	return newOfficeOf(tb, deskPolicy, replicas, change...)
}

func newOfficeOf(tb testing.TB, policy string, replicas int, change ...func(*pdp.DeskConfig)) *office {
	tb.Helper()
	o := &office{store: newMemoryApprovals()}
	o.fixture = newFixture(tb, policy)
	for range replicas {
		cfg := pdp.DeskConfig{Store: o.store, Policy: o.source, Recorder: o.rec, Now: o.clock.now}
		for _, c := range change {
			c(&cfg)
		}
		desk, err := pdp.NewDesk(cfg)
		if err != nil {
			tb.Fatal(err)
		}
		f := newFixtureOver(tb, o.fixture, func(c *pdp.Config) { c.Approvals = desk })
		o.desks, o.svcs = append(o.desks, desk), append(o.svcs, f)
	}
	o.desk, o.svc = o.desks[0], o.svcs[0]
	return o
}

// newFixtureOver is another service with the policy, limits, clock and records of f.
func newFixtureOver(tb testing.TB, f *fixture, change func(*pdp.Config)) *pdp.Service {
	tb.Helper()
	cfg := pdp.Config{Policy: f.source, Limiter: f.lim, Recorder: f.rec, Now: f.clock.now, Elapsed: f.clock.elapsed, Jitter: noJitter}
	change(&cfg)
	svc, err := pdp.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return svc
}

// opened asks for a call and returns the id of its approval.
func (o *office) opened(tb testing.TB, req *pdp.Request) string {
	tb.Helper()
	dec := o.want(tb, req, pdp.RequireApproval, pdp.ReasonApprovalRequired)
	if dec.Approval == nil || !strings.HasPrefix(dec.Approval.ID, "apr_") || dec.Approval.State != pdp.ApprovalPending {
		tb.Fatalf("approval %+v, want a pending one with an id", dec.Approval)
	}
	return dec.Approval.ID
}

// approved asks for a call and has it approved.
func (o *office) approved(tb testing.TB, req *pdp.Request, by ...pdp.Person) string {
	tb.Helper()
	id := o.opened(tb, req)
	for _, p := range by {
		o.yes(tb, id, p)
	}
	if got := o.store.row(id).State; got != store.Approved {
		tb.Fatalf("the approval is %s, want approved", got)
	}
	return id
}

func (o *office) yes(tb testing.TB, id string, p pdp.Person) *pdp.ApprovalRecord {
	tb.Helper()
	r, err := o.desk.Approve(context.Background(), &pdp.Ballot{ApprovalID: id, Person: p})
	if err != nil {
		tb.Fatalf("yes of %s: %v", p, err)
	}
	return r
}

func (o *office) no(tb testing.TB, id string, p pdp.Person) *pdp.ApprovalRecord {
	tb.Helper()
	r, err := o.desk.Deny(context.Background(), &pdp.Ballot{ApprovalID: id, Person: p, Reason: "not today"})
	if err != nil {
		tb.Fatalf("no of %s: %v", p, err)
	}
	return r
}

// refused wants a yes of somebody to be refused, for this reason.
func (o *office) refused(tb testing.TB, id string, p pdp.Person, want error) {
	tb.Helper()
	r, err := o.desk.Approve(context.Background(), &pdp.Ballot{ApprovalID: id, Person: p})
	if !errors.Is(err, want) {
		tb.Errorf("yes of %s: %+v, %v; want %v", p, r, err, want)
	}
}

func byID(req *pdp.Request, id string) *pdp.Request {
	return with(req, func(r *pdp.Request) { r.ApprovalID = id })
}

// events are the kinds that were recorded of approvals, in order; a failed one ends in !.
func (o *office) events() []string {
	var out []string
	for _, r := range o.rec.taken() {
		if r.Event == nil {
			continue
		}
		name := r.Event.Kind.String()
		if r.Event.Failed {
			name += "!"
		}
		out = append(out, name)
	}
	return out
}

func (o *office) wantEvents(tb testing.TB, want ...string) {
	tb.Helper()
	if got := o.events(); !slices.Equal(got, want) {
		tb.Errorf("recorded %v, want %v", got, want)
	}
}

// edit puts another policy in force.
func (o *office) edit(tb testing.TB, was, is string) {
	tb.Helper()
	if !strings.Contains(deskPolicy, was) {
		tb.Fatalf("the policy has no %q", was)
	}
	o.source.p.Store(compile(tb, strings.Replace(deskPolicy, was, is, 1)))
}
