package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// sample is what one side did in one cell, in one round or as the median of all.
type sample struct {
	PerSecond       float64
	P50, P99        float64 // in microseconds
	Errors, Denied  float64 // parts of the calls, and of the decisions
	Calls, Commands float64 // of clients to Redis, and run by it, per decision
	RedisCPU        float64 // in microseconds per decision
	ClientCPU       float64 // of the callers' processes, in the same
	ServerCPU       float64 // of the server asked over gRPC, in the same
	Decided         bool    // false: no call was decided
	firstError      string
}

// ground is what a run measures on.
type ground struct {
	opt     options
	dir     string
	store   *store
	fleet   fleet
	workers []*worker
	errOut  io.Writer
}

// bench measures and prints; missed are the budgets that are missed by more
// than a tenth.
func bench(ctx context.Context, opt options, out, errOut io.Writer) (missed []string, err error) {
	cells := chosen(allCells(), opt)
	if len(cells) == 0 {
		return nil, fmt.Errorf("no row matches %q", opt.only)
	}
	ctx, cancel := context.WithTimeout(ctx, bound(opt, cells))
	defer cancel()
	g, err := prepare(ctx, opt, cells, errOut)
	if err != nil {
		return nil, err
	}
	defer g.close()
	if err := g.selfTest(ctx, cells); err != nil || opt.selftest {
		return nil, err
	}
	table := map[string][]sample{}
	for i := range cells {
		fmt.Fprintf(errOut, "limitbench: measuring %s ...\n", cells[i].name())
		if err := g.measureCell(ctx, &cells[i], table); err != nil {
			return nil, err
		}
	}
	printMachine(out, g.store.version, opt)
	printRows(out, cells, table)
	return printBudgets(out, table), nil
}

// bound is longer than a run can take, if all goes well.
func bound(opt options, cells []cell) time.Duration {
	measurements := 0
	for _, c := range cells {
		measurements += opt.rounds * len(c.sides)
	}
	return 5*time.Minute + time.Duration(measurements)*(2*opt.span+2*time.Second)
}

func prepare(ctx context.Context, opt options, cells []cell, errOut io.Writer) (*ground, error) {
	dir, err := os.MkdirTemp("", "kelpie-limitbench-")
	if err != nil {
		return nil, fmt.Errorf("make a temporary directory: %w", err)
	}
	g := &ground{opt: opt, dir: dir, errOut: errOut}
	if err := g.start(ctx, cells); err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

func (g *ground) start(ctx context.Context, cells []cell) (err error) {
	if g.store, err = startStore(ctx, g.dir); err != nil {
		return err
	}
	workers := 1
	for _, c := range cells {
		workers = max(workers, c.replicas)
	}
	for range workers {
		w, err := startWorker(ctx)
		if err != nil {
			return err
		}
		g.workers = append(g.workers, w)
	}
	if slices.ContainsFunc(cells, func(c cell) bool { return c.group == grpcGroup }) {
		g.fleet, err = startFleet(ctx, g.dir, g.opt, g.store.addr)
	}
	return err
}

func (g *ground) close() {
	for _, w := range g.workers {
		w.stop()
	}
	g.fleet.stop()
	if g.store != nil {
		g.store.close()
	}
	// What stays behind is a temporary directory: nothing to tell anyone.
	_ = os.RemoveAll(g.dir)
}

// selfTest sees of each side that it admits ten of twenty calls under a limit
// of ten, and asks Redis: one that limits nothing, or by itself, is quick.
func (g *ground) selfTest(ctx context.Context, cells []cell) error {
	var tested []string
	for _, c := range cells {
		for _, name := range c.sides {
			if name == empty || slices.Contains(tested, name) {
				continue
			}
			tested = append(tested, name)
			// Sides of the same store and the same keys must not share a bucket.
			if err := g.selfTestSide(ctx, name, uniformAgents+len(tested)); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	fmt.Fprintf(g.errOut, "limitbench: of 20 calls under a limit of 10 each of these admits 10: %v\n", tested)
	return nil
}

func (g *ground) selfTestSide(ctx context.Context, name string, agent int) error {
	s, err := sideNamed(name)
	if err != nil {
		return err
	}
	j := &job{Side: name, Bounds: few, Callers: 1, Redis: g.store.addr}
	if s.server != "" {
		j.Server = g.fleet[s.server].addr
	}
	side, err := s.open(ctx, j)
	if err != nil {
		return err
	}
	defer side.close()
	before, err := g.store.usage(ctx)
	if err != nil {
		return err
	}
	one, admitted := side.caller(), 0
	for range 2 * fewBurst {
		ok, err := one(ctx, agent)
		if err != nil {
			return err
		}
		if ok {
			admitted++
		}
	}
	if admitted != fewBurst {
		return fmt.Errorf("of %d calls under a limit of %d it admits %d", 2*fewBurst, fewBurst, admitted)
	}
	after, err := g.store.usage(ctx)
	if err != nil {
		return err
	}
	if sent, _, _ := after.since(before, s.sent); sent < fewBurst {
		return fmt.Errorf("for %d calls admitted it sends %d commands to Redis: it does not limit there", fewBurst, sent)
	}
	return nil
}

// measureCell measures the sides of a cell in turn, round by round, so that
// what else the machine does hits all of them. Who begins moves on.
func (g *ground) measureCell(ctx context.Context, c *cell, table map[string][]sample) error {
	for round := range g.opt.rounds {
		for i := range c.sides {
			name := c.sides[(i+round)%len(c.sides)]
			s, err := g.measure(ctx, c, name, uint64(round))
			if err != nil {
				return fmt.Errorf("%s: %w", c.row(name), err)
			}
			table[c.row(name)] = append(table[c.row(name)], s)
		}
	}
	return nil
}

func (g *ground) measure(ctx context.Context, c *cell, name string, seed uint64) (sample, error) {
	s, err := sideNamed(name)
	if err != nil {
		return sample{}, err
	}
	j := job{Side: name, Bounds: c.bounds, Keys: c.keys, Callers: c.callers, Span: g.opt.span, Redis: g.store.addr, Seed: seed << 40}
	var server *process
	if s.server != "" {
		server = g.fleet[s.server]
		j.Server = server.addr
	} else if err := g.store.clear(ctx); err != nil {
		return sample{}, err
	}
	var before, after reading
	found, err := together(g.workers[:c.replicas], j,
		func() (err error) { before, err = g.read(ctx, server); return err },
		func() (err error) { after, err = g.read(ctx, server); return err })
	if err != nil {
		return sample{}, err
	}
	return sampleOf(&found, before, after, s.sent), ctx.Err()
}

// reading is how the counters stood at an instant.
type reading struct {
	usage  usage
	server time.Duration
}

func (g *ground) read(ctx context.Context, server *process) (r reading, err error) {
	if server != nil {
		if r.server, err = server.cpu(); err != nil {
			return r, err
		}
	}
	r.usage, err = g.store.usage(ctx)
	return r, err
}

func sampleOf(found *outcome, before, after reading, sent map[string]int64) sample {
	decided := found.Admitted + found.Denied
	s := sample{
		Errors:     float64(found.Errors) / float64(max(1, decided+found.Errors)),
		P50:        micros(found.Taken.quantile(0.5)),
		P99:        micros(found.Taken.quantile(0.99)),
		Decided:    decided > 0,
		firstError: found.FirstError,
	}
	if decided == 0 {
		return s
	}
	per := func(amount float64) float64 { return amount / float64(decided) }
	fromClients, all, cpu := after.usage.since(before.usage, sent)
	s.PerSecond = float64(decided) / found.Elapsed.Seconds()
	s.Denied = per(float64(found.Denied))
	s.Calls, s.Commands = per(float64(fromClients)), per(float64(all))
	s.RedisCPU, s.ClientCPU = per(micros(cpu)), per(micros(found.CPU))
	s.ServerCPU = per(micros(after.server - before.server))
	return s
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
