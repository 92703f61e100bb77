package main

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// job is one measurement: what one worker does of it.
type job struct {
	Side    string        `json:"side"`
	Bounds  bounds        `json:"bounds"`
	Keys    keySpace      `json:"keys"`
	Callers int           `json:"callers"`
	Span    time.Duration `json:"span"`
	// Redis and Server are the addresses of what is asked.
	Redis  string `json:"redis"`
	Server string `json:"server"`
	// Seed is of the first caller; the others have those that follow.
	Seed uint64 `json:"seed"`
}

// outcome is what a worker, or several, found.
type outcome struct {
	Admitted int64 `json:"admitted"`
	Denied   int64 `json:"denied"`
	Errors   int64 `json:"errors"`
	// FirstError is what one of the errors said.
	FirstError string `json:"first_error"`
	// CPU is what the worker used, of its user's and the system's.
	CPU     time.Duration `json:"cpu"`
	Elapsed time.Duration `json:"elapsed"`
	// Taken is how long the calls took, those that failed too.
	Taken histogram `json:"taken"`
}

// add puts what another worker found at the same time to it.
func (o *outcome) add(other *outcome) {
	o.Admitted += other.Admitted
	o.Denied += other.Denied
	o.Errors += other.Errors
	if o.FirstError == "" {
		o.FirstError = other.FirstError
	}
	o.CPU += other.CPU
	o.Elapsed = max(o.Elapsed, other.Elapsed)
	if o.Taken == nil {
		o.Taken = histogram{}
	}
	o.Taken.add(other.Taken)
}

// crew are the callers of one job, connected.
type crew struct {
	job    *job
	side   opened
	asks   []ask
	picker []func() int
}

func assemble(ctx context.Context, j *job) (*crew, error) {
	s, err := sideNamed(j.Side)
	if err != nil {
		return nil, err
	}
	c := &crew{job: j}
	for i := range j.Callers {
		pick, err := j.Keys.picker(j.Seed + uint64(i))
		if err != nil {
			return nil, err
		}
		c.picker = append(c.picker, pick)
	}
	if c.side, err = s.open(ctx, j); err != nil {
		return nil, fmt.Errorf("%s: %w", j.Side, err)
	}
	for range j.Callers {
		c.asks = append(c.asks, c.side.caller())
	}
	return c, nil
}

// ask lets every caller ask for the span, again as soon as it is answered.
func (c *crew) ask(ctx context.Context, span time.Duration) (outcome, error) {
	before, err := cpuTime()
	if err != nil {
		return outcome{}, err
	}
	var callers errgroup.Group
	found := make([]tally, c.job.Callers)
	start := time.Now()
	for i := range found {
		callers.Go(func() error {
			found[i].collect(ctx, c.asks[i], c.picker[i], start.Add(span))
			return nil
		})
	}
	err = callers.Wait()
	sum := outcome{Elapsed: time.Since(start), Taken: histogram{}}
	if err != nil {
		return sum, err
	}
	after, err := cpuTime()
	sum.CPU = after - before
	for i := range found {
		found[i].addTo(&sum)
	}
	return sum, err
}

// tally is what one caller found.
type tally struct {
	admitted, denied, errors int64
	first                    error
	taken                    []time.Duration
}

func (t *tally) collect(ctx context.Context, one ask, pick func() int, until time.Time) {
	for ctx.Err() == nil {
		key := pick()
		start := time.Now()
		if start.After(until) {
			return
		}
		admitted, err := one(ctx, key)
		t.taken = append(t.taken, time.Since(start))
		switch {
		case err != nil:
			t.errors++
			if t.first == nil {
				t.first = err
			}
		case admitted:
			t.admitted++
		default:
			t.denied++
		}
	}
}

func (t *tally) addTo(sum *outcome) {
	sum.Admitted += t.admitted
	sum.Denied += t.denied
	sum.Errors += t.errors
	if sum.FirstError == "" && t.first != nil {
		sum.FirstError = t.first.Error()
	}
	for _, d := range t.taken {
		sum.Taken[bucketOf(d)]++
	}
}

// cpuTime is what this process has used.
func cpuTime() (time.Duration, error) {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return 0, fmt.Errorf("read the CPU time: %w", err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()), nil
}
