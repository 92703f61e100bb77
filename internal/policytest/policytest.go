// Package policytest runs policy tests: each asks the service that production
// asks, over the compiled policy, with limits that start empty and a clock that
// stands still.
//
// It is the one place that can answer an approval by itself, so only
// `kelpie test` may hold it; a server that could reach it could allow without a
// human. It does not read files and does not print.
//
//	report, err := policytest.Run(ctx, policytest.Config{
//		Snapshot: snapshot, Files: []policytest.File{{Name: "a_test.yaml", Tests: tests}}, Now: time.Now(),
//	})
//	if err != nil {
//		return err
//	}
//	ok := report.Failed() == 0
package policytest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/policy"
)

// Config is what Run needs. All fields are needed but Files, without which
// nothing is tested and everything is uncovered.
type Config struct {
	Snapshot *policy.Snapshot
	Files    []File
	// Now is the instant of every test that names none.
	Now time.Time
}

// File is one file of tests.
type File struct {
	Name  string
	Tests []policy.Test
}

// Report is what came of all tests, in the order of the files.
type Report struct {
	PolicyVersion string
	Results       []Result
	Coverage      Coverage
}

// Failed counts the tests that did not pass.
func (r *Report) Failed() int {
	n := 0
	for i := range r.Results {
		if !r.Results[i].Passed() {
			n++
		}
	}
	return n
}

// Result is what came of one test.
type Result struct {
	File string
	Line int
	Name string
	// Expected and Got are the answers, side by side.
	Expected Answer
	Got      Answer
	// Failures say in a sentence each what is not as expected; empty if the test passed.
	Failures []string
	// Checks led to the answer that was looked at, in order, each judged just before it was asked.
	Checks []pdp.Check
}

// Passed reports whether everything came as expected.
func (r *Result) Passed() bool { return len(r.Failures) == 0 }

// Answer is the part of an answer that a test can expect. In Result.Expected,
// what the test does not name is empty.
type Answer struct {
	// Decision is allow, deny or require_approval; "" if none was made.
	Decision       string
	Reason         string
	Matched        []string
	RequiredScopes []string
	// Route, Action and Resource are what an HTTP request became; "" for any other.
	Route, Action, Resource string
}

// Run runs every test, each from a state of its own. A test that fails is a
// result; an error means that the tests could not be run, or that ctx ended.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	if cfg.Snapshot == nil || cfg.Now.IsZero() {
		return nil, errors.New("policytest: Config.Snapshot and Config.Now are needed")
	}
	report := &Report{PolicyVersion: cfg.Snapshot.Version()}
	seen := newExercised()
	for _, file := range cfg.Files {
		for i := range file.Tests {
			t := &file.Tests[i]
			result, err := runTest(ctx, cfg, t, seen)
			if err != nil {
				return nil, fmt.Errorf("%s:%d: test %q: %w", file.Name, t.Line, t.Name, err)
			}
			result.File = file.Name
			report.Results = append(report.Results, *result)
		}
	}
	report.Coverage = seen.coverage(cfg.Snapshot)
	return report, nil
}

// run is the state of one test.
type run struct {
	service   *pdp.Service
	approvals *approvals
	asked     int
	seen      *exercised
}

func newRun(cfg Config, now time.Time, seen *exercised) (*run, func() error, error) {
	clock := func() time.Time { return now }
	limits, err := limiter.NewMemory(limiter.MemoryConfig{Clock: clock})
	if err != nil {
		return nil, nil, fmt.Errorf("make the limiter: %w", err)
	}
	r := &run{approvals: &approvals{}, seen: seen}
	r.service, err = pdp.New(pdp.Config{
		Policy:    fixed{cfg.Snapshot},
		Limiter:   limits,
		Approvals: r.approvals,
		// Nothing goes through because of a test, so there is nothing to record.
		Recorder: pdp.RecorderFunc(func(context.Context, *pdp.Record) error { return nil }),
		Now:      clock,
		NewID:    func() string { return "test-" + strconv.Itoa(r.asked) },
		Jitter:   func(d time.Duration) time.Duration { return d },
	})
	if err != nil {
		return nil, nil, fmt.Errorf("make the service: %w", err)
	}
	return r, limits.Close, nil
}

// fixed is a policy that is never reloaded.
type fixed struct{ snapshot *policy.Snapshot }

// Snapshot implements pdp.PolicySource.
func (f fixed) Snapshot() *policy.Snapshot { return f.snapshot }

func runTest(ctx context.Context, cfg Config, t *policy.Test, seen *exercised) (*Result, error) {
	now := t.Now
	if now.IsZero() {
		now = cfg.Now
	}
	r, closeLimits, err := newRun(cfg, now, seen)
	if err != nil {
		return nil, err
	}
	result, err := r.play(ctx, t)
	if closeErr := closeLimits(); err == nil && closeErr != nil {
		err = fmt.Errorf("close the limiter: %w", closeErr)
	}
	return result, err
}

// play asks what the test asks, and compares the last answer.
func (r *run) play(ctx context.Context, t *policy.Test) (*Result, error) {
	result := &Result{Line: t.Line, Name: t.Name, Expected: expected(&t.Expect)}
	result.Failures = impossible(t)
	if len(result.Failures) > 0 {
		return result, nil
	}
	for i := range t.Before {
		b := &t.Before[i]
		if err := r.repeat(ctx, &b.Request, b.Approval, b.Repeat); err != nil {
			return nil, err
		}
	}
	if err := r.repeat(ctx, &t.Request, t.Approval, t.Repeat-1); err != nil {
		return nil, err
	}
	r.approvals.fate = t.Approval
	var e pdp.Explanation
	var d pdp.HTTPDecision
	if err := r.ask(ctx, &t.Request, &d, &e); err != nil {
		return nil, err
	}
	r.seen.answer(&d.Decision, e.Checks)
	r.seen.route(d.Route)
	result.Checks = cloneChecks(e.Checks)
	result.Got = got(&d)
	result.Failures = compare(&t.Expect, &result.Got)
	return result, nil
}

// ask asks once. e, if not nil, gets the checks judged just before; of an HTTP
// request that was denied there is one, which says why.
func (r *run) ask(ctx context.Context, q *policy.TestRequest, d *pdp.HTTPDecision, e *pdp.Explanation) error {
	if q.HTTP != nil {
		r.asked++
		if err := r.service.AuthorizeHTTP(ctx, httpRequest(q.HTTP), d); err != nil {
			return fmt.Errorf("ask: %w", err)
		}
		if e != nil && d.Verdict == pdp.Deny {
			e.Checks = []pdp.Check{{Name: "request", Outcome: pdp.CheckDeny, Reason: d.Reason, Detail: d.Message}}
		}
		return nil
	}
	req := r.next(q)
	if e != nil {
		if err := r.explain(ctx, req, e); err != nil {
			return err
		}
	}
	if err := r.service.Judge(ctx, req, &d.Decision); err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	return nil
}

// repeat asks n times and does not look at the answers.
func (r *run) repeat(ctx context.Context, q *policy.TestRequest, fate policy.TestApproval, n int) error {
	r.approvals.fate = fate
	var d pdp.HTTPDecision
	for range n {
		if err := r.ask(ctx, q, &d, nil); err != nil {
			return err
		}
		r.seen.answer(&d.Decision, nil)
		r.seen.route(d.Route)
	}
	return nil
}

// explain leaves e empty for a malformed request, which has no checks.
func (r *run) explain(ctx context.Context, req *pdp.Request, e *pdp.Explanation) error {
	err := r.service.Explain(ctx, req, e)
	if invalid, ok := errors.AsType[*pdp.InvalidError](err); ok {
		e.Checks = []pdp.Check{{
			Name: "request", Outcome: pdp.CheckDeny, Reason: pdp.ReasonParametersInvalid,
			Detail: invalid.Field + ": " + invalid.Why,
		}}
		return nil
	}
	if err != nil {
		return fmt.Errorf("explain: %w", err)
	}
	return nil
}

// next is the request as a gateway would send it, with an id of its own.
func (r *run) next(q *policy.TestRequest) *pdp.Request {
	r.asked++
	return &pdp.Request{
		Agent: q.Agent, Action: q.Action, Resource: q.Resource, SourceIP: q.SourceIP,
		RequestID: "test-" + strconv.Itoa(r.asked), Subject: q.Subject, SessionID: q.SessionID, RunID: q.RunID,
		Tool:            pdp.Tool{Server: q.Tool.Server, Name: q.Tool.Name},
		ParametersJSON:  q.ParametersJSON,
		ParametersState: stateOf(q.ParametersState),
		Context:         q.Context, Cost: q.Cost,
		Gateway: "kelpie test",
	}
}

func stateOf(s policy.ParametersState) pdp.ParametersState {
	switch s {
	case policy.ParametersComplete:
		return pdp.ParametersComplete
	case policy.ParametersTruncated:
		return pdp.ParametersTruncated
	case policy.ParametersNotSeen:
		return pdp.ParametersNotSeen
	default:
		return pdp.ParametersUnspecified
	}
}

// cloneChecks keeps the checks beyond the explanation, whose slices are reused.
func cloneChecks(checks []pdp.Check) []pdp.Check {
	out := slices.Clone(checks)
	for i := range out {
		out[i].Rules = slices.Clone(out[i].Rules)
	}
	return out
}
