package pdp_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/policy"
)

const inspectLimits = `  calls: {rate: 60/minute, burst: 5, per: [agent]}
  hourly: {quota: 9/hour, per: [agent]}
  shaded: {quota: 9/hour, per: [agent], shadow: true}
  each: {window: 9/1h, per: [agent, resource, tool]}
  loop: {window: 9/1h, per: [agent, call]}
  everyone: {quota: 100/hour, per: [all]}
`

func (f *fixture) shown(t *testing.T, agent string) []string {
	t.Helper()
	limits, more, err := f.svc.ShowLimits(t.Context(), agent)
	if err != nil || more != 0 {
		t.Fatalf("show %s: %d more, %v", agent, more, err)
	}
	out := make([]string, len(limits))
	for i, l := range limits {
		out[i] = fmt.Sprintf("%s %v: %d of %d, %v", l.Name, l.Dimensions, l.Remaining, l.Limit, l.Reset)
		if l.Shadow {
			out[i] += " in shadow"
		}
	}
	return out
}

func TestShowAndResetLimits(t *testing.T) {
	t.Parallel()
	f := newFixture(t, limited(inspectLimits))
	for _, resource := range []string{"notes/1", "notes/1", "notes/2"} {
		f.want(t, with(readNote, func(r *pdp.Request) { r.Resource, r.Tool = resource, pdp.Tool{Server: "s", Name: "n"} }), pdp.Allow, pdp.ReasonOK)
	}
	f.want(t, call("roamer", "read", "notes/1"), pdp.Allow, pdp.ReasonOK)
	f.rec.taken()
	before := f.shown(t, "reader")
	loops := 0
	for i, line := range before {
		if strings.HasPrefix(line, "loop [{call ") {
			before[i], _, _ = strings.Cut(line, "{call ")
			loops++
		}
	}
	want := []string{
		"calls []: 2 of 5, 3s",
		"each [{resource notes/1} {tool s/n}]: 7 of 9, 1h3m45s", "each [{resource notes/2} {tool s/n}]: 8 of 9, 1h3m45s",
		"hourly []: 6 of 9, 1h0m0s", "loop [", "loop [", "shaded []: 6 of 9, 1h0m0s in shadow",
	}
	if diff := cmp.Diff(want, before); diff != "" || loops != 2 {
		t.Errorf("shown (-want +got):\n%s", diff)
	}
	f.clock.advance(3 * time.Second)
	if got := f.shown(t, "reader"); len(got) != 6 || strings.HasPrefix(got[0], "calls") {
		t.Errorf("a limit that is full again is shown: %q", got)
	}
	reset := func(limit string, buckets int) {
		t.Helper()
		if n, err := f.svc.ResetLimits(t.Context(), "reader", limit, "ann"); err != nil || n != buckets {
			t.Errorf("reset %q: %d, %v; want %d", limit, n, err, buckets)
		}
		change := &pdp.Change{Kind: pdp.ChangeReset, As: "ann", Buckets: buckets}
		if limit != "" {
			change.Limits = []pdp.LimitChange{{Name: limit}}
		}
		records := f.rec.taken()
		if len(records) != 1 || records[0].Agent != "reader" || !cmp.Equal(change, records[0].Change) {
			t.Errorf("reset %q: records %+v, want one of %+v", limit, records, change)
		}
	}
	reset("each", 2)
	reset("shaded", 1)
	if got := f.shown(t, "reader"); len(got) != 3 {
		t.Errorf("shown %q, want hourly and loop", got)
	}
	reset("", 3)
	if got := f.shown(t, "reader"); len(got) != 0 {
		t.Errorf("shown %q", got)
	}
	reset("", 0)
	if got := f.shown(t, "roamer"); len(got) != 4 {
		t.Errorf("another agent's limits were reset: %q", got)
	}
	if dec := f.want(t, readNote, pdp.Allow, pdp.ReasonOK); dec.Limits[2].Name != "everyone" || dec.Limits[2].Remaining != 95 {
		t.Errorf("what counts for everyone was reset: %+v", dec.Limits)
	}
}

// A reset gives a stuck agent its slots back.
func TestResetFreesSlots(t *testing.T) {
	t.Parallel()
	f := newFixture(t, limited("  slots: {concurrency: 1, hold: 1h, per: [agent]}\n"+wide))
	f.want(t, readNote, pdp.Allow, pdp.ReasonOK)
	f.want(t, readNote, pdp.Deny, pdp.ReasonRateLimited, "limits/slots")
	if n, err := f.svc.ResetLimits(t.Context(), "reader", "slots", ""); err != nil || n != 1 {
		t.Fatalf("reset: %d, %v", n, err)
	}
	f.want(t, readNote, pdp.Allow, pdp.ReasonOK)
}

func TestInspectErrors(t *testing.T) {
	t.Parallel()
	f := newFixture(t, limited(inspectLimits))
	var invalid *pdp.InvalidError
	for _, agent := range []string{"", "a/../b", strings.Repeat("x", 2000)} {
		if _, _, err := f.svc.ShowLimits(t.Context(), agent); !errors.As(err, &invalid) || invalid.Field != "agent" {
			t.Errorf("show %.10q: %v", agent, err)
		}
		if _, err := f.svc.ResetLimits(t.Context(), agent, "", ""); !errors.As(err, &invalid) || invalid.Field != "agent" {
			t.Errorf("reset %.10q: %v", agent, err)
		}
	}
	if _, err := f.svc.ResetLimits(t.Context(), "reader", "", "a\nb"); !errors.As(err, &invalid) || invalid.Field != "as" {
		t.Errorf("reset by two lines: %v", err)
	}
	if _, _, err := f.svc.ShowLimits(t.Context(), "stranger"); !errors.Is(err, pdp.ErrNoSuchAgent) {
		t.Errorf("show a stranger: %v", err)
	}
	if _, err := f.svc.ResetLimits(t.Context(), "stranger", "", ""); !errors.Is(err, pdp.ErrNoSuchAgent) {
		t.Errorf("reset a stranger: %v", err)
	}
	if _, err := f.svc.ResetLimits(t.Context(), "reader", "cals", ""); !errors.Is(err, pdp.ErrNoSuchLimit) {
		t.Errorf("reset a limit that is not there: %v", err)
	}
	if _, err := f.svc.ResetLimits(t.Context(), "reader", "builtin/default", ""); err != nil {
		t.Errorf("reset the built-in limit: %v", err)
	}
	blind := newFixture(t, limited(inspectLimits), func(c *pdp.Config) { c.Limiter = &brokenLimiter{Limiter: c.Limiter} })
	if _, _, err := blind.svc.ShowLimits(t.Context(), "reader"); !errors.Is(err, pdp.ErrCannotInspect) {
		t.Errorf("show without an inspector: %v", err)
	}
	f.source.p.Store((*policy.Snapshot)(nil))
	if _, _, err := f.svc.ShowLimits(t.Context(), "reader"); !errors.Is(err, pdp.ErrNoPolicy) {
		t.Errorf("show without a policy: %v", err)
	}
	f.rec.taken()
}

// A driver tells homes more than once, some by no name, and fails.
func TestInspectorOfAStore(t *testing.T) {
	t.Parallel()
	inspector := &fakeInspector{}
	f := newFixture(t, limited(inspectLimits), func(c *pdp.Config) {
		inspector.Limiter = c.Limiter
		c.Limiter = inspector
	})
	f.want(t, readNote, pdp.Allow, pdp.ReasonOK)
	inspector.names = []string{"a6:reader0:", "a6:reader0:", "", "a6:reader0:13:limits/calls", "a9:readerxyz0:", "a6:reader3:odd"}
	limits, more, err := f.svc.ShowLimits(t.Context(), "reader")
	if err != nil || len(limits) != 3 || more != 3 {
		t.Errorf("%d limits and %d more, %v; want 3 and 3", len(limits), more, err)
	}
	inspector.names = nil
	for i := range 2 * pdp.MaxListed {
		inspector.names = append(inspector.names, fmt.Sprintf("a6:reader9:+resource4:%04d", i))
	}
	if _, more, err = f.svc.ShowLimits(t.Context(), "reader"); err != nil || more != pdp.MaxListed {
		t.Errorf("%d more, %v; want %d", more, err, pdp.MaxListed)
	}
	inspector.err = errDown
	if _, _, err := f.svc.ShowLimits(t.Context(), "reader"); !errors.Is(err, errDown) {
		t.Errorf("show: %v", err)
	}
	f.rec.taken()
	if _, err := f.svc.ResetLimits(t.Context(), "reader", "", ""); !errors.Is(err, errDown) {
		t.Errorf("reset: %v", err)
	}
	if records := f.rec.taken(); len(records) != 1 || !records[0].Change.Failed || !strings.Contains(records[0].Change.Cause, errDown.Error()) {
		t.Errorf("records %+v", records)
	}
}

type fakeInspector struct {
	limiter.Limiter
	names []string
	err   error
}

func (i *fakeInspector) Names(_ context.Context, _ []byte, f func(string) bool) error {
	for _, name := range i.names {
		f(name)
	}
	return i.err
}

func (i *fakeInspector) Forget(context.Context, []byte, []byte) (int, error) { return 0, i.err }
