package adminapi_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	approvalv1 "github.com/kelpie-authz/kelpie/gen/kelpie/approval/v1"
	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/server/adminapi"
)

// desk keeps what it was asked and answers as it is told.
type desk struct {
	mu      sync.Mutex
	filters []pdp.ApprovalFilter
	ballots []string

	list     []pdp.ApprovalRecord
	err      error
	changes  chan pdp.ApprovalRecord
	watching chan struct{}
}

func (d *desk) List(_ context.Context, f pdp.ApprovalFilter) ([]pdp.ApprovalRecord, string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.filters = append(d.filters, f)
	return d.list, "there", d.err
}

func (d *desk) Get(_ context.Context, id string) (*pdp.ApprovalRecord, error) {
	return d.said("get "+id, nil)
}

func (d *desk) Approve(_ context.Context, b *pdp.Ballot) (*pdp.ApprovalRecord, error) {
	return d.said("approve", b)
}

func (d *desk) Deny(_ context.Context, b *pdp.Ballot) (*pdp.ApprovalRecord, error) {
	return d.said("deny", b)
}

func (d *desk) BreakGlass(_ context.Context, o *pdp.BreakGlassOrder) (*pdp.ApprovalRecord, error) {
	return d.said(fmt.Sprintf("break glass for %s, %q on %q within %v, ticket %s", o.Agent, o.Action, o.Resource, o.Within, o.Ticket),
		&pdp.Ballot{Person: o.Person, Reason: o.Reason})
}

func (d *desk) ReviewBreakGlass(_ context.Context, b *pdp.Ballot) (*pdp.ApprovalRecord, error) {
	return d.said("review", b)
}

func (d *desk) Cancel(_ context.Context, b *pdp.Ballot) (*pdp.ApprovalRecord, error) {
	return d.said("cancel", b)
}

func (d *desk) said(word string, b *pdp.Ballot) (*pdp.ApprovalRecord, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if b != nil {
		word = fmt.Sprintf("%s %s as %s, known by %s, %q, vote %q", word, b.ApprovalID, b.Person.Name, b.Person.How, b.Reason, b.VoteID)
	}
	d.ballots = append(d.ballots, word)
	if d.err != nil {
		return nil, d.err
	}
	return &d.list[0], nil
}

func (d *desk) Watch(ctx context.Context, f func(*pdp.ApprovalRecord) bool) error {
	if d.watching != nil {
		close(d.watching)
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case r, more := <-d.changes:
			if !more {
				return d.err
			}
			if !f(&r) {
				return nil
			}
		}
	}
}

const approvalID = "apr_00112233445566778899aabbccddeeff"

func at(minute int) time.Time { return time.Date(2026, 5, 4, 12, minute, 0, 0, time.UTC) }

// fullRecord has something in every field, and bytes that are no text.
func fullRecord() pdp.ApprovalRecord {
	return pdp.ApprovalRecord{
		ID: approvalID, Digest: "d1", State: pdp.ApprovalRevoked, Version: 7,
		Agent: "data-cleaner", Owner: "data@example.com", Subject: "ann@example.com", Action: "delete", Resource: "leads/\xff42",
		Risk: "delete", Gateway: "loopback", DecisionID: "d-1", PolicyVersion: "v1", Recent: "3 allowed",
		Details: []pdp.ApprovalDetail{{Name: "source_ip", Value: "10.8.0.5"}, {Name: "parameters.note", Value: "\"\xfe\"", Unverified: true}},
		Partial: true, Masked: true,
		Requirements: []pdp.ApprovalRequirementState{
			{Rule: "approvals/destructive", Groups: []string{"security"}, Quorum: 2, Yes: 1, Approvers: []string{"lead@example.com"}},
		},
		Votes:    []pdp.ApprovalVote{{Voter: "lead@example.com", Yes: true, Rule: "approvals/destructive", Reason: "fine", At: at(1)}},
		OpenedAt: at(0), ExpiresAt: at(15), EndedAt: at(2), EndedBy: "oncall@example.com", Why: "wrong lead", UsedBy: "d-2",
		Grant: &pdp.GrantState{From: "apr_1", Resource: "leads/*", MaxCost: 2, MaxUses: 10, Uses: 3, BreakGlass: &pdp.BreakGlassState{Action: "a", Reason: "r", Ticket: "t", ReviewedBy: "bob", Review: "fine", ReviewedAt: at(3), ReviewBy: at(4)}, Bounds: []pdp.GrantBound{{Name: "n", Min: new(1.5), Max: new(2.0)}, {Name: "x", Any: true}}},
	}
}

func fullMessage() *approvalv1.Approval {
	return &approvalv1.Approval{
		Id: approvalID, Digest: "d1", State: approvalv1.ApprovalState_APPROVAL_STATE_REVOKED, Version: 7,
		Agent: "data-cleaner", Owner: "data@example.com", Subject: "ann@example.com", Action: "delete", Resource: "leads/\uFFFD42",
		Risk: "delete", Gateway: "loopback", DecisionId: "d-1", PolicyVersion: "v1", Recent: "3 allowed",
		Details: []*approvalv1.Detail{{Name: "source_ip", Value: "10.8.0.5"}, {Name: "parameters.note", Value: "\"\uFFFD\"", Unverified: true}},
		Requirements: []*approvalv1.Requirement{
			{Rule: "approvals/destructive", Groups: []string{"security"}, Quorum: 2, Yes: 1, Approvers: []string{"lead@example.com"}},
		},
		Votes:    []*approvalv1.Vote{{Voter: "lead@example.com", Yes: true, Rule: "approvals/destructive", Reason: "fine", At: timestamppb.New(at(1))}},
		OpenedAt: timestamppb.New(at(0)), ExpiresAt: timestamppb.New(at(15)), EndedAt: timestamppb.New(at(2)),
		EndedBy: "oncall@example.com", Why: "wrong lead", UsedBy: "d-2", Partial: true, Masked: true,
		Grant: &approvalv1.StandingGrant{From: "apr_1", Resource: "leads/*", MaxCost: 2, MaxUses: 10, Uses: 3, BreakGlass: &approvalv1.BreakGlassState{Action: "a", Reason: "r", Ticket: "t", ReviewedBy: "bob", Review: "fine", ReviewedAt: timestamppb.New(at(3)), ReviewBy: timestamppb.New(at(4))}, Bounds: []*approvalv1.Bound{{Name: "n", Min: new(1.5), Max: new(2.0)}, {Name: "x", Any: true}}},
	}
}

func TestApprovalsAreTold(t *testing.T) {
	t.Parallel()
	d := &desk{list: []pdp.ApprovalRecord{fullRecord()}}
	s := serveAdmin(t, d, adminapi.LocalAdmin)
	got, err := s.approvals.Get(s.admin, &approvalv1.GetRequest{Id: approvalID})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fullMessage(), got.GetApproval(), protocmp.Transform()); diff != "" {
		t.Errorf("get (-want +got):\n%s", diff)
	}
	short := fullMessage()
	short.Details, short.Recent, short.Requirements[0].Approvers = nil, "", nil
	page, err := s.approvals.List(s.admin, &approvalv1.ListRequest{
		All: true, State: approvalv1.ApprovalState_APPROVAL_STATE_SUPERSEDED, Agent: "a", Limit: 1000, After: "here",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &approvalv1.ListResponse{Approvals: []*approvalv1.Approval{short}, Next: "there"}
	if diff := cmp.Diff(want, page, protocmp.Transform()); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
	filter := pdp.ApprovalFilter{All: true, State: pdp.ApprovalSuperseded, Agent: "a", Limit: 1000, After: "here"}
	if diff := cmp.Diff([]pdp.ApprovalFilter{filter}, d.filters); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
}

// A field that pdp gains must not be lost on its way to the approver unnoticed.
func TestEveryFieldOfAnApprovalIsTold(t *testing.T) {
	t.Parallel()
	record, message := fullRecord(), fullMessage()
	for field, value := range reflect.ValueOf(&record).Elem().Fields() {
		if value.IsZero() {
			t.Errorf("ApprovalRecord.%s is not among what is tested", field.Name)
		}
	}
	fields := message.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if f := fields.Get(i); !message.ProtoReflect().Has(f) {
			t.Errorf("approval.%s is not among what is tested", f.Name())
		}
	}
	for _, pair := range []struct {
		core any
		wire proto.Message
	}{
		{record, message},
		{record.Details[0], message.GetDetails()[0]},
		{record.Requirements[0], message.GetRequirements()[0]},
		{record.Votes[0], message.GetVotes()[0]},
	} {
		if core, wire := reflect.TypeOf(pair.core).NumField(), pair.wire.ProtoReflect().Descriptor().Fields().Len(); core != wire {
			t.Errorf("%T has %d fields, and %T has %d", pair.core, core, pair.wire, wire)
		}
	}
}

func TestStatesStandInTheOrderOfTheWire(t *testing.T) {
	t.Parallel()
	values := approvalv1.ApprovalState(0).Descriptor().Values()
	for i := range values.Len() {
		v := values.Get(i)
		name := "APPROVAL_STATE_" + strings.ToUpper(pdp.ApprovalState(v.Number()).String())
		if i == 0 {
			name += "UNSPECIFIED"
		}
		if v.Name() != protoreflect.Name(name) {
			t.Errorf("%s is %d on the wire, where the core has %s", v.Name(), v.Number(), name)
		}
	}
	if next := pdp.ApprovalState(values.Len()); next.String() != "" {
		t.Errorf("the wire has no word for %s", next)
	}
	d := &desk{list: []pdp.ApprovalRecord{{State: 99}}}
	s := serveAdmin(t, d, adminapi.LocalAdmin)
	if got, err := s.approvals.Get(s.admin, &approvalv1.GetRequest{Id: approvalID}); err != nil || got.GetApproval().GetState() != 0 {
		t.Errorf("a state that nobody knows: %v, %v", got, err)
	}
}

func TestWordsAreHandedOn(t *testing.T) {
	t.Parallel()
	verified := func(context.Context) (pdp.Person, error) {
		return pdp.Person{Name: "lead@example.com", How: pdp.KnownByOIDC}, nil
	}
	for name, tc := range map[string]struct {
		person func(context.Context) (pdp.Person, error)
		as     string
		want   []string
	}{
		"the local admin": {adminapi.LocalAdmin, "oncall@example.com", []string{
			`approve a as oncall@example.com, known by local-admin, "r1", vote "v1"`,
			`deny a as oncall@example.com, known by local-admin, "r2", vote "v2"`,
			`cancel a as oncall@example.com, known by local-admin, "r3", vote ""`,
		}},
		"a verified person": {verified, "", []string{
			`approve a as lead@example.com, known by oidc, "r1", vote "v1"`,
			`deny a as lead@example.com, known by oidc, "r2", vote "v2"`,
			`cancel a as lead@example.com, known by oidc, "r3", vote ""`,
		}},
	} {
		d := &desk{list: []pdp.ApprovalRecord{fullRecord()}}
		s := serveAdmin(t, d, tc.person)
		yes, err1 := s.approvals.Approve(s.admin, &approvalv1.ApproveRequest{Id: "a", As: tc.as, Reason: "r1", VoteId: "v1"})
		no, err2 := s.approvals.Deny(s.admin, &approvalv1.DenyRequest{Id: "a", As: tc.as, Reason: "r2", VoteId: "v2"})
		off, err3 := s.approvals.Cancel(s.admin, &approvalv1.CancelRequest{Id: "a", As: tc.as, Reason: "r3"})
		if err := errors.Join(err1, err2, err3); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(tc.want, d.ballots); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		for _, a := range []*approvalv1.Approval{yes.GetApproval(), no.GetApproval(), off.GetApproval()} {
			if diff := cmp.Diff(fullMessage(), a, protocmp.Transform()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
	}
}

// Nobody votes under a name that he does not have.
func TestWhoDecides(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		person func(context.Context) (pdp.Person, error)
		as     string
		want   codes.Code
		text   string
	}{
		"the admin token without a name": {adminapi.LocalAdmin, "", codes.InvalidArgument, "as is missing"},
		"a verified person with a name": {func(context.Context) (pdp.Person, error) {
			return pdp.Person{Name: "lead@example.com", How: pdp.KnownByMTLS}, nil
		}, "ann@example.com", codes.InvalidArgument, "you are known as lead@example.com"},
		"the own name": {func(context.Context) (pdp.Person, error) {
			return pdp.Person{Name: "lead@example.com", How: pdp.KnownByOIDC}, nil
		}, "lead@example.com", codes.InvalidArgument, "leave it out"},
		"nobody is known":  {nil, "ann", codes.Unauthenticated, "knows no approvers"},
		"nobody in effect": {func(context.Context) (pdp.Person, error) { return pdp.Person{Name: "x"}, nil }, "", codes.Unauthenticated, "not known who you are"},
		"a bad token": {func(context.Context) (pdp.Person, error) {
			return pdp.Person{}, errors.New("the token has expired; log in again")
		}, "", codes.Unauthenticated, "log in again"},
		"the provider is away": {func(context.Context) (pdp.Person, error) {
			return pdp.Person{}, status.Error(codes.Unavailable, "the identity provider does not answer")
		}, "", codes.Unavailable, "does not answer"},
	} {
		d := &desk{list: []pdp.ApprovalRecord{fullRecord()}}
		s := serveAdmin(t, d, tc.person)
		_, err1 := s.approvals.Approve(s.admin, &approvalv1.ApproveRequest{Id: "a", As: tc.as})
		_, err2 := s.approvals.Deny(s.admin, &approvalv1.DenyRequest{Id: "a", As: tc.as, Reason: "r"})
		_, err3 := s.approvals.Cancel(s.admin, &approvalv1.CancelRequest{Id: "a", As: tc.as})
		for _, err := range []error{err1, err2, err3} {
			if st := status.Convert(err); st.Code() != tc.want || !strings.Contains(st.Message(), tc.text) {
				t.Errorf("%s: %v", name, err)
			}
		}
		// Who is not known does not read either.
		reads := codes.OK
		if tc.want != codes.InvalidArgument {
			reads = tc.want
		}
		if _, err := s.approvals.Get(s.admin, &approvalv1.GetRequest{Id: "a"}); status.Code(err) != reads {
			t.Errorf("%s, get: %v", name, err)
		}
		if len(d.ballots) > 1 || len(d.ballots) == 1 && d.ballots[0] != "get a" {
			t.Errorf("%s: the desk was told %q", name, d.ballots)
		}
	}
}

func TestApprovalErrors(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err  error
		want codes.Code
		text string
	}{
		"invalid":      {&pdp.InvalidError{Field: "id", Why: "id is not an approval's; write apr_"}, codes.InvalidArgument, "id is not an approval's; write apr_"},
		"person":       {&pdp.InvalidError{Field: "person", Why: "person holds a control character; remove it"}, codes.InvalidArgument, "as holds a control character; remove it"},
		"none":         {pdp.ErrNoSuchApproval, codes.NotFound, "there is no such approval"},
		"decided":      {fmt.Errorf("%w: it is expired", pdp.ErrApprovalDecided), codes.FailedPrecondition, "it is already decided: it is expired"},
		"not eligible": {fmt.Errorf("%w: he is the agent", pdp.ErrNotEligible), codes.PermissionDenied, "this person may not decide it: he is the agent"},
		"not eligible, and that is not recorded": {
			errors.Join(fmt.Errorf("%w: he is the agent", pdp.ErrNotEligible), fmt.Errorf("x: %w", pdp.ErrUnrecorded)), codes.PermissionDenied,
			"this person may not decide it: he is the agent",
		},
		"unrecorded": {fmt.Errorf("approval a: %w: disk full", pdp.ErrUnrecorded), codes.Unavailable, "it could not be recorded; see how the approval stands"},
		"no policy":  {pdp.ErrNoPolicy, codes.Unavailable, "no policy is loaded yet"},
		"deadline":   {fmt.Errorf("x: %w", context.DeadlineExceeded), codes.DeadlineExceeded, ""},
		"other":      {errors.New("connection refused"), codes.Unavailable, "the approvals cannot be asked now; try again: connection refused"},
	} {
		d := &desk{list: []pdp.ApprovalRecord{fullRecord()}, err: tc.err, changes: make(chan pdp.ApprovalRecord)}
		close(d.changes)
		s := serveAdmin(t, d, adminapi.LocalAdmin)
		_, err1 := s.approvals.List(s.admin, &approvalv1.ListRequest{})
		_, err2 := s.approvals.Get(s.admin, &approvalv1.GetRequest{Id: "a"})
		_, err3 := s.approvals.Approve(s.admin, &approvalv1.ApproveRequest{Id: "a", As: "x"})
		_, err4 := s.approvals.Deny(s.admin, &approvalv1.DenyRequest{Id: "a", As: "x", Reason: "r"})
		_, err5 := s.approvals.Cancel(s.admin, &approvalv1.CancelRequest{Id: "a", As: "x"})
		watch, err6 := s.approvals.Watch(s.admin, &approvalv1.WatchRequest{})
		if err6 == nil {
			_, err6 = watch.Recv()
		}
		for i, err := range []error{err1, err2, err3, err4, err5, err6} {
			st := status.Convert(err)
			if st.Code() != tc.want || !strings.HasPrefix(st.Message(), tc.text) || strings.Contains(st.Message(), "\n") {
				t.Errorf("%s, method %d: %v", name, i+1, err)
			}
		}
	}
}

// What is malformed, and what a newer client says besides, reaches no desk.
func TestMalformedWordsAreRefused(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 2049)
	d := &desk{list: []pdp.ApprovalRecord{fullRecord()}}
	api := adminapi.NewApprovals(d, adminapi.LocalAdmin)
	for _, tc := range []struct {
		ask  func() error
		want string
	}{
		{func() error { _, err := api.Get(t.Context(), &approvalv1.GetRequest{}); return err }, "id is missing; write it"},
		{func() error { _, err := api.Get(t.Context(), &approvalv1.GetRequest{Id: long}); return err }, "id is longer than 256 bytes; shorten it"},
		{func() error { _, err := api.List(t.Context(), &approvalv1.ListRequest{Limit: 1001}); return err }, "limit is above 1000; write less"},
		{func() error { _, err := api.List(t.Context(), &approvalv1.ListRequest{State: 99}); return err }, "state is unknown; write one that an approval can have, or leave it out"},
		{func() error { _, err := api.List(t.Context(), &approvalv1.ListRequest{Agent: long}); return err }, "agent is longer than 1024 bytes; shorten it"},
		{func() error {
			_, err := api.Approve(t.Context(), &approvalv1.ApproveRequest{Id: "a", As: "x", Reason: long})
			return err
		}, "reason is longer than 2048 bytes; shorten it"},
		{func() error {
			_, err := api.Approve(t.Context(), &approvalv1.ApproveRequest{Id: "a", As: long})
			return err
		}, "as is longer than 1024 bytes; shorten it"},
		{func() error {
			_, err := api.Approve(t.Context(), &approvalv1.ApproveRequest{Id: "a", As: "x", VoteId: long})
			return err
		}, "vote_id is longer than 256 bytes; shorten it"},
		{func() error { _, err := api.Deny(t.Context(), &approvalv1.DenyRequest{Id: "a", As: "x"}); return err }, "reason is missing; write it"},
		{func() error { _, err := api.Cancel(t.Context(), &approvalv1.CancelRequest{As: "x"}); return err }, "id is missing; write it"},
	} {
		if st := status.Convert(tc.ask()); st.Code() != codes.InvalidArgument || st.Message() != tc.want {
			t.Errorf("%v, want %q", st, tc.want)
		}
	}
	methods := approvalv1.File_kelpie_approval_v1_approval_proto.Services().Get(0).Methods()
	s := serveAdmin(t, d, adminapi.LocalAdmin)
	for i := range methods.Len() {
		m := methods.Get(i)
		in := dynamicpb.NewMessage(m.Input())
		in.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 4711, protowire.VarintType), 1))
		if st := status.Convert(s.call(s.admin, m, in)); st.Code() != codes.Unimplemented || !strings.Contains(st.Message(), "field 4711") {
			t.Errorf("%s: %v", m.Name(), st)
		}
	}
	if len(d.ballots)+len(d.filters) != 0 {
		t.Errorf("the desk was told %q %v", d.ballots, d.filters)
	}
	if _, err := adminapi.NewApprovals(nil, adminapi.LocalAdmin).Get(t.Context(), &approvalv1.GetRequest{Id: "a"}); status.Code(err) != codes.Unimplemented {
		t.Errorf("without a desk: %v", err)
	}
}

func TestChangesAreWatched(t *testing.T) {
	t.Parallel()
	d := &desk{changes: make(chan pdp.ApprovalRecord), watching: make(chan struct{})}
	s := serveAdmin(t, d, adminapi.LocalAdmin)
	ctx, cancel := context.WithCancel(s.admin)
	defer cancel()
	watch, err := s.approvals.Watch(ctx, &approvalv1.WatchRequest{Agent: "data-cleaner"})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Receive(t, "the watch", d.watching)
	other := fullRecord()
	other.Agent = "lead-router"
	d.changes <- other
	d.changes <- fullRecord()
	got, err := watch.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fullMessage(), got.GetApproval(), protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	cancel()
	if _, err := watch.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("after the end: %v", err)
	}
}

// A server that stops does not wait for those who watch.
func TestADrainEndsWatches(t *testing.T) {
	t.Parallel()
	d := &desk{changes: make(chan pdp.ApprovalRecord), watching: make(chan struct{})}
	s := serveAdmin(t, d, adminapi.LocalAdmin)
	watch, err := s.approvals.Watch(s.admin, &approvalv1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Receive(t, "the watch", d.watching)
	drained := make(chan error, 1)
	go func() { drained <- s.server.Drain(context.Background()) }()
	if _, err := watch.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "watch again") {
		t.Errorf("at a drain: %v", err)
	}
	if err := testkit.Receive(t, "the drain", drained); err != nil {
		t.Error(err)
	}
}
