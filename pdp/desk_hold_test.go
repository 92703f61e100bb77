package pdp_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/store"
)

// holding is an office that holds calls, in a bubble where time stands still.
type holding struct {
	*office
	h *pdp.Holder
}

func inHolding(t *testing.T, run bool, f func(t *testing.T, o *holding)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, 1)
		h, err := pdp.NewHolder(o.holder())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			if !run {
				<-ctx.Done()
				done <- nil
				return
			}
			done <- h.Run(ctx)
		}()
		synctest.Wait()
		f(t, &holding{o, h})
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := h.Held(); n != 0 {
			t.Errorf("%d are held at the end", n)
		}
	})
}

func (o *office) holder() pdp.HolderConfig {
	return pdp.HolderConfig{Service: o.svc, Store: o.store, Timer: realTimer}
}

func realTimer(d time.Duration) (<-chan time.Time, func() bool) {
	t := time.NewTimer(d)
	return t.C, t.Stop
}

type answer struct {
	dec   pdp.Decision
	err   error
	after time.Duration
}

// held asks a call that waits, in the background.
func (o *holding) held(ctx context.Context, req *pdp.Request, wait time.Duration) <-chan answer {
	out := make(chan answer, 1)
	go func() {
		var a answer
		start := time.Now()
		a.err = o.h.Authorize(ctx, req, wait, &a.dec)
		a.after = time.Since(start)
		out <- a
	}()
	synctest.Wait()
	return out
}

func (o *holding) pendingID(tb testing.TB) string {
	tb.Helper()
	list, _, err := o.desk.List(context.Background(), pdp.ApprovalFilter{})
	if err != nil || len(list) != 1 {
		tb.Fatalf("%+v %v, want one", list, err)
	}
	return list[0].ID
}

func wantAnswer(tb testing.TB, a answer, v pdp.Verdict, r pdp.Reason, after time.Duration) {
	tb.Helper()
	if a.err != nil || a.dec.Verdict != v || a.dec.Reason != r || a.after != after {
		tb.Errorf("%v %s after %v, %v; want %v %s after %v", a.dec.Verdict, a.dec.Reason, a.after, a.err, v, r, after)
	}
}

func TestHeldCallIsDecidedAnew(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		do      func(*testing.T, *holding, string)
		verdict pdp.Verdict
		reason  pdp.Reason
	}{
		"yes": {func(t *testing.T, o *holding, id string) { t.Helper(); o.yes(t, id, lead) }, pdp.Allow, pdp.ReasonOKApproved},
		"no":  {func(t *testing.T, o *holding, id string) { t.Helper(); o.no(t, id, lead) }, pdp.Deny, pdp.ReasonApprovalDenied},
		"yes, and the agent is suspended": {func(t *testing.T, o *holding, id string) {
			t.Helper()
			o.edit(t, "cleaner: {owner", "cleaner: {suspended: true, owner")
			o.yes(t, id, lead)
		}, pdp.Deny, pdp.ReasonAgentSuspended},
		"cancelled": {func(t *testing.T, o *holding, id string) {
			t.Helper()
			if _, err := o.desk.Cancel(t.Context(), &pdp.Ballot{ApprovalID: id, Person: lead}); err != nil {
				t.Fatal(err)
			}
		}, pdp.Deny, pdp.ReasonApprovalDenied},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inHolding(t, true, func(t *testing.T, o *holding) {
				t.Helper()
				got := o.held(t.Context(), removeNote, 30*time.Second)
				time.Sleep(2 * time.Second) //nolint:forbidigo // Time stands still in this bubble.
				if o.h.Held() != 1 {
					t.Errorf("%d held", o.h.Held())
				}
				tc.do(t, o, o.pendingID(t))
				wantAnswer(t, <-got, tc.verdict, tc.reason, 2*time.Second)
			})
		})
	}
}

// Nobody may tell that it is decided: it is looked for.
func TestHeldCallLooksByItself(t *testing.T) {
	t.Parallel()
	inHolding(t, false, func(t *testing.T, o *holding) {
		t.Helper()
		got := o.held(t.Context(), removeNote, 30*time.Second)
		time.Sleep(time.Second) //nolint:forbidigo // Time stands still in this bubble.
		o.yes(t, o.pendingID(t), lead)
		wantAnswer(t, <-got, pdp.Allow, pdp.ReasonOKApproved, 5*time.Second)
	})
}

func TestHeldCallWhoseTimeIsOver(t *testing.T) {
	t.Parallel()
	inHolding(t, true, func(t *testing.T, o *holding) {
		t.Helper()
		wantAnswer(t, <-o.held(t.Context(), removeNote, 7*time.Second), pdp.RequireApproval, pdp.ReasonApprovalRequired, 7*time.Second)
		got := o.held(t.Context(), removeNote, 30*time.Second)
		o.clock.advance(10 * time.Minute) // the approval's time
		wantAnswer(t, <-got, pdp.Deny, pdp.ReasonApprovalExpired, 5*time.Second)
		wantAnswer(t, <-o.held(t.Context(), call("cleaner", "sing", "notes/1"), 30*time.Second), pdp.Deny, pdp.ReasonNoMatchingScope, 0)
		wantAnswer(t, <-o.held(t.Context(), removeNote, 0), pdp.RequireApproval, pdp.ReasonApprovalRequired, 0)
		var bad *pdp.InvalidError
		for _, wait := range []time.Duration{-1, 30*time.Second + 1} {
			if a := <-o.held(t.Context(), removeNote, wait); !errors.As(a.err, &bad) || bad.Field != "wait" || a.dec.Verdict != pdp.VerdictNone {
				t.Errorf("wait %v: %+v", wait, a)
			}
		}
	})
}

func TestHeldCallWhoseCallerLeaves(t *testing.T) {
	t.Parallel()
	inHolding(t, true, func(t *testing.T, o *holding) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		got := o.held(ctx, removeNote, 30*time.Second)
		cancel()
		if a := <-got; !errors.Is(a.err, context.Canceled) || a.dec.Verdict != pdp.VerdictNone || a.dec.ID != "" {
			t.Errorf("%+v, want no decision", a)
		}
	})
}

func TestHeldCallsAreBounded(t *testing.T) {
	t.Parallel()
	inHolding(t, true, func(t *testing.T, o *holding) {
		t.Helper()
		var held []<-chan answer
		for range 10 {
			held = append(held, o.held(t.Context(), removeNote, 30*time.Second))
		}
		wantAnswer(t, <-o.held(t.Context(), removeNote, 30*time.Second), pdp.RequireApproval, pdp.ReasonApprovalPending, 0)
		theirs := o.held(t.Context(), call("sweeper", "delete", "notes/1"), 30*time.Second)
		if n := o.h.Held(); n != 11 {
			t.Errorf("%d held, want 10 of one agent and 1 of the other", n)
		}
		list, _, err := o.desk.List(t.Context(), pdp.ApprovalFilter{Agent: "cleaner"})
		if err != nil || len(list) != 1 {
			t.Fatalf("%+v %v", list, err)
		}
		o.yes(t, list[0].ID, lead)
		reasons := map[pdp.Reason]int{}
		for _, got := range held {
			reasons[(<-got).dec.Reason]++
		}
		// One yes is good for one of them.
		if reasons[pdp.ReasonOKApproved] != 1 || reasons[pdp.ReasonApprovalConsumed] != 9 {
			t.Errorf("%v", reasons)
		}
		wantAnswer(t, <-theirs, pdp.RequireApproval, pdp.ReasonApprovalRequired, 30*time.Second)
	})
}

// At the end of the server those held are answered as they stand.
func TestHeldCallsAtTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, 1)
		h, err := pdp.NewHolder(o.holder())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		o.store.err = store.ErrUnavailable // a store that comes back
		go func() { _ = h.Run(ctx) }()
		synctest.Wait()
		o.store.set(func() { o.store.err = nil })
		time.Sleep(6 * time.Second) //nolint:forbidigo // Time stands still in this bubble.
		in := &holding{o, h}
		got := in.held(t.Context(), removeNote, 30*time.Second)
		second := in.held(t.Context(), call("cleaner", "delete", "notes/2"), 30*time.Second)
		list, _, err := o.desk.List(t.Context(), pdp.ApprovalFilter{})
		if err != nil || len(list) != 2 {
			t.Fatalf("%+v %v", list, err)
		}
		o.yes(t, list[1].ID, lead)
		wantAnswer(t, <-got, pdp.Allow, pdp.ReasonOKApproved, 0)
		cancel()
		wantAnswer(t, <-second, pdp.RequireApproval, pdp.ReasonApprovalRequired, 0)
		wantAnswer(t, <-in.held(t.Context(), call("cleaner", "delete", "notes/2"), time.Second), pdp.RequireApproval, pdp.ReasonApprovalPending, 0)
	})
}

// An answer that says who has to be waited for is worth more than a deadline
// that passes.
func TestHeldCallIsAnsweredBeforeItsDeadline(t *testing.T) {
	t.Parallel()
	inHolding(t, true, func(t *testing.T, o *holding) {
		t.Helper()
		for left, after := range map[time.Duration]time.Duration{
			2 * time.Second: 1750 * time.Millisecond, time.Hour: 30 * time.Second, 250 * time.Millisecond: 0, 10 * time.Millisecond: 0,
		} {
			ctx, cancel := context.WithDeadline(t.Context(), o.clock.now().Add(left))
			a := <-o.held(ctx, removeNote, 30*time.Second)
			cancel()
			if a.err != nil || a.dec.Verdict != pdp.RequireApproval || a.after != after {
				t.Errorf("%v left: %v after %v, %v; want an answer after %v", left, a.dec.Verdict, a.after, a.err, after)
			}
		}
	})
}

// Who bounds calls is told of each that may wait, and of those that do.
func TestWaitingIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, 1)
		var told []time.Duration
		held := 0
		cfg := o.holder()
		cfg.Waiting = func(_ context.Context, most time.Duration) func() {
			told = append(told, most)
			return func() { held++ }
		}
		h, err := pdp.NewHolder(cfg)
		if err != nil {
			t.Fatal(err)
		}
		in := &holding{o, h}
		<-in.held(t.Context(), removeNote, 0)
		<-in.held(t.Context(), call("cleaner", "sing", "notes/1"), time.Second)
		if len(told) != 1 || told[0] != time.Second || held != 0 {
			t.Errorf("told %v, %d held", told, held)
		}
		<-in.held(t.Context(), removeNote, 3*time.Second)
		if len(told) != 2 || told[1] != 3*time.Second || held != 1 {
			t.Errorf("told %v, %d held", told, held)
		}
	})
}

// closing is a store whose news end at once.
type closing struct {
	store.Approvals
	asked atomic.Int64
}

func (c *closing) Watch(context.Context) (<-chan string, error) {
	c.asked.Add(1)
	ch := make(chan string)
	close(ch)
	return ch, nil
}

func TestNewsThatEndAreNotAskedForAgainAndAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t, 1)
		cfg := o.holder()
		news := &closing{Approvals: o.store}
		cfg.Store = news
		h, err := pdp.NewHolder(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 16*time.Second)
		defer cancel()
		if err := h.Run(ctx); err != nil || news.asked.Load() != 4 {
			t.Errorf("asked %d times in 16 seconds, %v", news.asked.Load(), err)
		}
	})
}

func TestHolderNeedsItsParts(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	for name, change := range map[string]func(*pdp.HolderConfig){
		"Service": func(c *pdp.HolderConfig) { c.Service = nil },
		"Store":   func(c *pdp.HolderConfig) { c.Store = nil },
		"Timer":   func(c *pdp.HolderConfig) { c.Timer = nil },
	} {
		cfg := o.holder()
		change(&cfg)
		if _, err := pdp.NewHolder(cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

func TestActivity(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	a := pdp.NewActivity(o.clock.now)
	svc := newFixtureOver(t, o.fixture, func(c *pdp.Config) { c.Recorder = a.Recorder(o.rec) })
	ask := func(req *pdp.Request) {
		t.Helper()
		var dec pdp.Decision
		if err := svc.Judge(t.Context(), req, &dec); err != nil {
			t.Fatal(err)
		}
	}
	const nothing = "nothing in the last hour, as far as this server knows"
	if got := a.Recent("cleaner"); got != nothing {
		t.Errorf("%q", got)
	}
	o.source.p.Store(compile(t, notesPolicy))
	for range 3 {
		ask(call("cleaner", "read", "notes/1"))
	}
	ask(call("cleaner", "delete", "notes/1"))
	ask(call("cleaner", "sing", "notes/1"))
	ask(with(call("cleaner", "read", "notes/1"), func(r *pdp.Request) { r.DryRun = true }))
	o.rec.err = errDown
	ask(call("cleaner", "read", "notes/1")) // leaves as a DENY
	o.rec.err = nil
	ask(call("ghost", "read", "notes/1"))
	const want = "3 allowed, 2 denied, 1 that needed a yes in the last hour, as far as this server knows"
	for _, after := range []time.Duration{0, 54 * time.Minute} {
		o.clock.advance(after)
		if got := a.Recent("cleaner"); got != want {
			t.Errorf("after %v: %q", after, got)
		}
	}
	if got := a.Recent("ghost"); got != nothing {
		t.Errorf("an agent that is none: %q", got)
	}
	o.clock.advance(6 * time.Minute)
	if got := a.Recent("cleaner"); got != nothing {
		t.Errorf("after an hour: %q", got)
	}
	rec := a.Recorder(pdp.RecorderFunc(func(context.Context, *pdp.Record) error { return nil }))
	known := 0
	for i := range 50_000 {
		r := &pdp.Record{Agent: fmt.Sprint("agent-", i), Verdict: pdp.Allow, Reason: pdp.ReasonOK, Time: o.clock.now()}
		if err := rec.Record(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 50_000 {
		if a.Recent(fmt.Sprint("agent-", i)) != nothing {
			known++
		}
	}
	if known > 16<<10 || known < 8<<10 {
		t.Errorf("%d agents are counted", known)
	}
}
