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
	ours, theirs, err := env.startBoth(ctx)
	if err != nil {
		return nil, err
	}
	defer ours.stop()
	defer theirs.stop()
	var rows []row
	for _, callers := range []int{1, 16, 128} {
		pairs, err := env.rounds(ctx, ours, theirs, callers)
		if err != nil {
			return nil, err
		}
		rows = append(rows, unaryRows(callers, pairs)...)
	}
	return rows, nil
}

// startBoth starts Kelpie, takes one of its answers, and starts the empty
// service with answers of that size.
func (e *environment) startBoth(ctx context.Context) (ours, theirs *server, err error) {
	ours, err = e.startKelpie(ctx, "unary", e.policy)
	if err != nil {
		return nil, nil, err
	}
	conn, err := ours.dial()
	if err != nil {
		ours.stop()
		return nil, nil, err
	}
	defer conn.Close()
	reply, err := authzv1.NewAuthorizationServiceClient(conn).Authorize(ctx, e.request(0))
	if err != nil {
		ours.stop()
		return nil, nil, fmt.Errorf("ask for a sample answer: %w", err)
	}
	theirs, err = e.startEmpty(ctx, reply)
	if err != nil {
		ours.stop()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// pair is one round: both sides, one after the other.
type pair struct{ ours, theirs sample }

// rounds measures both sides in turn, so that what else the machine does hits
// both. The first round warms up and is not counted.
func (e *environment) rounds(ctx context.Context, ours, theirs *server, callers int) ([]pair, error) {
	var pairs []pair
	for i := range e.opt.rounds + 1 {
		var (
			p   pair
			err error
		)
		p.theirs, err = e.load(ctx, theirs, callers, e.opt.span)
		if err != nil {
			return nil, fmt.Errorf("empty service: %w", err)
		}
		p.ours, err = e.load(ctx, ours, callers, e.opt.span)
		if err != nil {
			return nil, fmt.Errorf("kelpie: %w", err)
		}
		if i > 0 {
			pairs = append(pairs, p)
		}
	}
	return pairs, nil
}

func unaryRows(callers int, pairs []pair) []row {
	of := func(f func(pair) float64) float64 { return median(pairs, f) }
	speed := of(func(p pair) float64 { return p.ours.perSecond / p.theirs.perSecond })
	cpu := of(func(p pair) float64 { return float64(p.ours.cpu) / float64(p.theirs.cpu) })
	side := func(pick func(pair) sample) string {
		return fmt.Sprintf("%.0f/s p50 %v p99 %v cpu %v",
			of(func(p pair) float64 { return pick(p).perSecond }),
			time.Duration(of(func(p pair) float64 { return float64(pick(p).p50) })).Round(time.Microsecond),
			time.Duration(of(func(p pair) float64 { return float64(pick(p).p99) })).Round(time.Microsecond),
			time.Duration(of(func(p pair) float64 { return float64(pick(p).cpu) })).Round(100*time.Nanosecond))
	}
	ourSide := side(func(p pair) sample { return p.ours })
	theirSide := side(func(p pair) sample { return p.theirs })
	return []row{
		{
			what: fmt.Sprintf("Authorize, %d callers, against empty: %.2f x", callers, speed),
			ours: ourSide, theirs: theirSide, budget: ">= 0.85 x", score: atLeast(speed, unaryRatio),
		},
		{
			what: fmt.Sprintf("  server CPU per call: %.2f x", cpu), budget: "<= 1.25 x", score: atMost(cpu, cpuRatio),
		},
	}
}

func median(pairs []pair, f func(pair) float64) float64 {
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
		unary, err := env.load(ctx, s, 128, env.opt.span)
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
		quiet, err := env.load(ctx, s, 16, env.opt.span)
		if err != nil {
			return nil, err
		}
		edited := append(slices.Clone(original), fmt.Sprintf("  extra%d: {actions: [read], resources: [\"extra/%d\"]}\n", i, i)...)
		if err := os.WriteFile(base, edited, 0o600); err != nil {
			return nil, fmt.Errorf("edit the policy: %w", err)
		}
		before, err := env.version(ctx, s)
		if err != nil {
			return nil, err
		}
		busy, err := env.load(ctx, s, 16, env.opt.span)
		if err != nil {
			return nil, err
		}
		after, err := env.version(ctx, s)
		if err != nil {
			return nil, err
		}
		if after == before {
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

// version is the policy_version that answers carry now.
func (e *environment) version(ctx context.Context, s *server) (string, error) {
	conn, err := s.dial()
	if err != nil {
		return "", err
	}
	defer conn.Close()
	resp, err := authzv1.NewAuthorizationServiceClient(conn).Authorize(ctx, e.request(0))
	if err != nil {
		return "", fmt.Errorf("ask for the policy version: %w", err)
	}
	return resp.GetPolicyVersion(), nil
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
