package limiter_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/policy"
)

//go:generate env UPDATE_DOCS=1 go test -run TestLimitsPageStory .

const (
	limitsPage  = "../docs/limits.md"
	storyMarker = "TestLimitsPageStory -->\n\n"
	// storyPolicy stands before the limits that the page shows.
	storyPolicy = `
scopes: {leads: {actions: [read], resources: ["leads/*"]}}
agents: {writer: {owner: sales@example.com, scopes: [leads], networks: [any]}}
`
	storyGateway = "unix"
)

// storyStep is one request of the story on docs/limits.md, or what happens
// between two of them.
type storyStep struct {
	at   time.Duration
	cost float64
	// said is what happens between two requests: done, to the decisions of the
	// requests that count.
	said string
	done func(*story) error
}

// storySteps are the ten requests.
func storySteps() []storyStep {
	return []storyStep{
		{cost: 2000},
		{cost: 1000},
		{cost: 1000},
		{said: "request 1 is over (Release), and came to 3500 (Settle)", done: func(s *story) error {
			_, err := s.svc.Settle(context.Background(), storyGateway, s.ids[1], 3500)
			if err != nil {
				return err
			}
			return s.release(1)
		}},
		{at: 2 * time.Second, cost: 1000},
		{at: 2 * time.Second, said: "2 and 4 are over", done: func(s *story) error { return s.release(2, 4) }},
		{at: 5 * time.Second, cost: 1000},
		{at: 10 * time.Second, cost: 1000},
		{at: time.Minute, cost: 4000},
		{at: time.Minute, cost: 500},
		{at: time.Minute, said: "6 and 8 are over", done: func(s *story) error { return s.release(6, 8) }},
		{at: time.Minute + 5*time.Second, cost: 500},
		{at: 5 * time.Minute, cost: 500},
	}
}

// story is a service with the page's limits, at a clock of its own.
type story struct {
	snap *policy.Snapshot
	svc  *pdp.Service
	past time.Duration
	// ids has the decision of each request, from 1.
	ids map[int]string
}

// Snapshot implements pdp.Policy.
func (s *story) Snapshot() *policy.Snapshot { return s.snap }

// Record implements pdp.Recorder.
func (s *story) Record(context.Context, *pdp.Record) error { return nil }

func (s *story) now() time.Time { return time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC).Add(s.past) }

func (s *story) release(requests ...int) error {
	for _, n := range requests {
		if _, err := s.svc.Release(context.Background(), storyGateway, s.ids[n]); err != nil {
			return err
		}
	}
	return nil
}

func newStory(t *testing.T, limits string) *story {
	t.Helper()
	s := &story{ids: map[int]string{}}
	var err error
	if s.snap, err = policy.Compile([]policy.Document{{Name: "page.yaml", Data: []byte(storyPolicy + limits)}}); err != nil {
		t.Fatalf("the limits of %s: %v", limitsPage, err)
	}
	lim := newMemory(t, limiter.MemoryConfig{Clock: s.now})
	ledger, err := limiter.NewMemoryLedger(limiter.MemoryLedgerConfig{Clock: s.now})
	if err != nil {
		t.Fatal(err)
	}
	s.svc, err = pdp.New(pdp.Config{
		Policy: s, Limiter: lim, Ledger: ledger, Recorder: s, Now: s.now, Elapsed: func() time.Duration { return s.past },
		NewID:    func() string { return strconv.Itoa(len(s.ids) + 1) },
		Jitter:   func(d time.Duration) time.Duration { return d },
		Panicked: func(_ string, what any, _ []byte) { t.Error(what) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// tell plays the steps and returns the table of the page.
func (s *story) tell(t *testing.T) string {
	t.Helper()
	names := []string{"rate", "window", "quota", "slots", "tokens"}
	var out strings.Builder
	fmt.Fprintf(&out, "| | at | cost | answer | %s |\n|--:|---|--:|---|%s\n", strings.Join(names, " | "), strings.Repeat("--:|", len(names)))
	for _, step := range storySteps() {
		s.past = step.at
		if step.done != nil {
			if err := step.done(s); err != nil {
				t.Fatalf("%s: %v", step.said, err)
			}
			fmt.Fprintf(&out, "| | %s | | *%s* |%s\n", s.now().Format(time.TimeOnly), step.said, strings.Repeat(" |", len(names)))
			continue
		}
		var dec pdp.Decision
		err := s.svc.Authorize(context.Background(), &pdp.Request{
			Gateway: storyGateway, Agent: "writer", Action: "read", Resource: "leads/42", Cost: step.cost,
		}, &dec)
		if err != nil {
			t.Fatal(err)
		}
		s.ids[len(s.ids)+1] = dec.ID
		answer := "ALLOW"
		if dec.Verdict != pdp.Allow {
			answer = "DENY `" + string(dec.Reason) + "`, `" + strings.Join(dec.Matched, "`, `") + "`: again in " + dec.RetryAfter.String()
		}
		fmt.Fprintf(&out, "| %d | %s | %v | %s |", len(s.ids), s.now().Format(time.TimeOnly), step.cost, answer)
		left := map[string]int64{}
		for _, l := range dec.Limits {
			left[l.Name] = l.Remaining
		}
		for _, name := range names {
			fmt.Fprintf(&out, " %d |", left[name])
		}
		out.WriteString("\n")
	}
	return out.String()
}

// The table of the ten requests on docs/limits.md is what comes of them.
func TestLimitsPageStory(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(limitsPage)
	if err != nil {
		t.Fatal(err)
	}
	_, limits, found := strings.Cut(string(text), "```yaml\n")
	limits, _, closed := strings.Cut(limits, "```\n")
	before, rest, marked := strings.Cut(string(text), storyMarker)
	got, after, ended := strings.Cut(rest, "\n\n")
	if !found || !closed || !marked || !ended {
		t.Fatalf("%s has no limits in a block of YAML, or no table behind %q", limitsPage, storyMarker)
	}
	want := newStory(t, limits).tell(t)
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(limitsPage, []byte(before+storyMarker+want+"\n"+after), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, got+"\n"); diff != "" {
		t.Errorf("%s is not what comes of the requests; run UPDATE_DOCS=1 go test ./limiter -run TestLimitsPageStory (-want +got):\n%s", limitsPage, diff)
	}
}
