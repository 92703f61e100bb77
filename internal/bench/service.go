package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

// Budgets of the service, as ratios to the empty one.
const (
	unaryRatio  = 0.85
	cpuRatio    = 1.25
	streamRatio = 3
	reloadRatio = 2
	startMillis = 300
)

func measureUnary(ctx context.Context, env *environment) ([]row, error) {
	kelpie, err := env.startKelpie(ctx, "unary", env.policy)
	if err != nil {
		return nil, err
	}
	defer kelpie.stop()
	reply, err := env.answer(ctx, kelpie)
	if err != nil {
		return nil, err
	}
	empty, err := env.startEmpty(ctx, reply)
	if err != nil {
		return nil, err
	}
	defer empty.stop()
	var rows []row
	for _, callers := range []int{1, 16, 128} {
		pairs, err := env.rounds(ctx, callers, kelpie.side("kelpie", env.authorize), empty.side("the empty service", env.authorize))
		if err != nil {
			return nil, err
		}
		rows = append(rows, ratioRows(fmt.Sprintf("Authorize, %d callers, against empty", callers), pairs[0])...)
	}
	return rows, nil
}

// answer is Kelpie's answer to the first request of the load.
func (e *environment) answer(ctx context.Context, s *server) (*authzv1.AuthorizeResponse, error) {
	conn, err := s.dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	resp, err := authzv1.NewAuthorizationServiceClient(conn).Authorize(ctx, e.request(0))
	if err != nil {
		return nil, fmt.Errorf("ask for an answer: %w", err)
	}
	return resp, nil
}

// pair is one round of two sides.
type pair struct{ ours, theirs sample }

// rounds measures the sides in turn, so that what else the machine does hits
// all of them, and returns ours beside each of the others. The first round
// warms up and is not counted.
func (e *environment) rounds(ctx context.Context, callers int, ours side, others ...side) ([][]pair, error) {
	pairs := make([][]pair, len(others))
	for i := range e.opt.rounds + 1 {
		theirs := make([]sample, len(others))
		for k, other := range others {
			var err error
			if theirs[k], err = load(ctx, other, callers, e.opt.span); err != nil {
				return nil, fmt.Errorf("%s: %w", other.name, err)
			}
		}
		own, err := load(ctx, ours, callers, e.opt.span)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", ours.name, err)
		}
		for k := range others {
			if i > 0 {
				pairs[k] = append(pairs[k], pair{ours: own, theirs: theirs[k]})
			}
		}
	}
	return pairs, nil
}

// ratioRows are speed and CPU time per call against another service, judged by
// the budgets of a service against the empty one.
func ratioRows(what string, pairs []pair) []row {
	speed := median(pairs, func(p pair) float64 { return p.ours.perSecond / p.theirs.perSecond })
	cpu := median(pairs, func(p pair) float64 { return float64(p.ours.cpu) / float64(p.theirs.cpu) })
	ours, theirs := bothSides(pairs)
	return []row{
		{what: fmt.Sprintf("%s: %.2f x", what, speed), ours: ours, theirs: theirs, budget: ">= 0.85 x", score: atLeast(speed, unaryRatio)},
		{what: fmt.Sprintf("  server CPU per call: %.2f x", cpu), budget: "<= 1.25 x", score: atMost(cpu, cpuRatio)},
	}
}

// bothSides are the two sides as people read them.
func bothSides(pairs []pair) (ours, theirs string) {
	side := func(pick func(pair) sample) string {
		part := func(f func(sample) time.Duration, unit time.Duration) time.Duration {
			return time.Duration(median(pairs, func(p pair) float64 { return float64(f(pick(p))) })).Round(unit)
		}
		return fmt.Sprintf("%.0f/s p50 %v p99 %v cpu %v", median(pairs, func(p pair) float64 { return pick(p).perSecond }),
			part(func(s sample) time.Duration { return s.p50 }, time.Microsecond),
			part(func(s sample) time.Duration { return s.p99 }, time.Microsecond),
			part(func(s sample) time.Duration { return s.cpu }, 100*time.Nanosecond))
	}
	return side(func(p pair) sample { return p.ours }), side(func(p pair) sample { return p.theirs })
}

func median[P any](pairs []P, f func(P) float64) float64 {
	values := make([]float64, len(pairs))
	for i, p := range pairs {
		values[i] = f(p)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

func measureStream(ctx context.Context, env *environment) ([]row, error) {
	s, err := env.startKelpie(ctx, "stream", env.policy)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	var pairs []pair
	for i := range env.opt.rounds + 1 {
		unary, err := load(ctx, s.side("unary", env.authorize), 128, env.opt.span)
		if err != nil {
			return nil, err
		}
		stream, err := env.streamLoad(ctx, s, 4, env.opt.span)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			pairs = append(pairs, pair{ours: stream, theirs: unary})
		}
	}
	ratio := median(pairs, func(p pair) float64 { return float64(p.theirs.cpu) / float64(p.ours.cpu) })
	return []row{{
		what: fmt.Sprintf("AuthorizeStream, decisions per server CPU second against unary: %.2f x", ratio),
		ours: fmt.Sprintf("%.0f/s cpu %v", median(pairs, func(p pair) float64 { return p.ours.perSecond }),
			time.Duration(median(pairs, func(p pair) float64 { return float64(p.ours.cpu) }))),
		theirs: fmt.Sprintf("%.0f/s cpu %v", median(pairs, func(p pair) float64 { return p.theirs.perSecond }),
			time.Duration(median(pairs, func(p pair) float64 { return float64(p.theirs.cpu) }))),
		budget: ">= 3 x", score: atLeast(ratio, streamRatio),
	}}, nil
}

// measureReload compares the p99 of a span without and with a reload in it.
func measureReload(ctx context.Context, env *environment) ([]row, error) {
	s, err := env.startKelpie(ctx, "reload", env.policy)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	base := filepath.Join(env.policy, "base.yaml")
	original, err := os.ReadFile(base)
	if err != nil {
		return nil, fmt.Errorf("read the policy: %w", err)
	}
	defer func() {
		// The directory is temporary: a failure to restore it has no effect after this run.
		_ = os.WriteFile(base, original, 0o600)
	}()
	var pairs []pair
	for i := range env.opt.rounds {
		quiet, err := load(ctx, s.side("kelpie", env.authorize), 16, env.opt.span)
		if err != nil {
			return nil, err
		}
		edited := append(slices.Clone(original), fmt.Sprintf("  extra%d: {actions: [read], resources: [\"extra/%d\"]}\n", i, i)...)
		if err := os.WriteFile(base, edited, 0o600); err != nil {
			return nil, fmt.Errorf("edit the policy: %w", err)
		}
		before, err := env.answer(ctx, s)
		if err != nil {
			return nil, err
		}
		busy, err := load(ctx, s.side("kelpie", env.authorize), 16, env.opt.span)
		if err != nil {
			return nil, err
		}
		after, err := env.answer(ctx, s)
		if err != nil {
			return nil, err
		}
		if after.GetPolicyVersion() == before.GetPolicyVersion() {
			return nil, fmt.Errorf("%w: the edited policy did not come into force within %v", errWrongAnswer, env.opt.span)
		}
		pairs = append(pairs, pair{ours: busy, theirs: quiet})
	}
	ratio := median(pairs, func(p pair) float64 { return float64(p.ours.p99) / float64(p.theirs.p99) })
	p99 := func(pick func(pair) sample) string {
		return "p99 " + time.Duration(median(pairs, func(p pair) float64 { return float64(pick(p).p99) })).Round(time.Microsecond).String()
	}
	return []row{{
		what: fmt.Sprintf("reload of 1,000 agents under load of 16 callers: p99 %.2f x", ratio),
		ours: p99(func(p pair) sample { return p.ours }), theirs: p99(func(p pair) sample { return p.theirs }),
		budget: "<= 2 x", score: atMost(ratio, reloadRatio),
	}}, nil
}

// measureStart takes the time from starting the process to its first answer.
func measureStart(ctx context.Context, env *environment) ([]row, error) {
	var taken []float64
	for range env.opt.rounds {
		start := time.Now()
		s, err := env.startKelpie(ctx, "start", filepath.Join("examples", "revops"))
		if err != nil {
			return nil, err
		}
		taken = append(taken, float64(time.Since(start).Milliseconds()))
		s.stop()
	}
	slices.Sort(taken)
	millis := taken[len(taken)/2]
	return []row{{
		what: "start to first answer, example policy", ours: fmt.Sprintf("%.0f ms", millis),
		budget: "<= 300 ms", score: atMost(millis, startMillis),
	}}, nil
}
