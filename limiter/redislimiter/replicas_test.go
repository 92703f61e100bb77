package redislimiter_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/limiter/redislimiter"
)

// replicaEnv, if set, makes the test binary a replica of its own; see runReplica.
const replicaEnv = "LIMITER_TEST_REPLICA"

// plan is what one replica does: callers who take whenever they can, for a while.
type plan struct {
	URL          string        `json:"url"`
	Prefix       string        `json:"prefix"`
	Key          string        `json:"key"`
	Seed         uint64        `json:"seed"`
	Callers      int           `json:"callers"`
	For          time.Duration `json:"for"`
	Count        int64         `json:"count"` // of a rate per second
	Burst        int64         `json:"burst"`
	MostCost     limiter.Units `json:"most_cost"`
	NoCoalescing bool          `json:"no_coalescing"`
	NoDenyCache  bool          `json:"no_deny_cache"`
	// Lease is that of the rate. Pace is for how long the callers of such a plan
	// wait between calls, as units are taken ahead while there are enough; now
	// and then all ask at once.
	Lease    time.Duration `json:"lease"`
	Pace     time.Duration `json:"pace"`
	NoLeases bool          `json:"no_leases"`
}

// charging is units that were charged at an instant of the clock of Redis, in
// ticks.
type charging struct {
	At    int64         `json:"at"`
	Units limiter.Units `json:"units"`
}

// seen is what a replica saw.
type seen struct {
	Admitted  []charging `json:"admitted"`
	Calls     int        `json:"calls"`
	Exchanges int64      `json:"exchanges"`
	DenyHits  int64      `json:"deny_hits"`
	Leased    int64      `json:"leased"`
	Ahead     int64      `json:"ahead"`
	Stranded  int64      `json:"stranded"`
}

func (o *seen) add(s redislimiter.Stats) {
	o.Exchanges, o.DenyHits = s.Exchanges, s.DenyHits
	o.Leased, o.Ahead, o.Stranded = s.Leased, s.LeasedUnits, s.Stranded/int64(limiter.Unit)
}

func (p *plan) rate() *limiter.Limit {
	return &limiter.Limit{Name: "rate", Kind: limiter.KindRate, Count: p.Count, Burst: p.Burst, Period: time.Second, Lease: p.Lease}
}

// open makes the replica's Limiter.
func (p *plan) open() (*redislimiter.Limiter, error) {
	l, err := redislimiter.New(context.Background(), redislimiter.Config{
		Options: redislimiter.Options{URL: p.URL, Timeout: patient}, Prefix: p.Prefix,
		NoCoalescing: p.NoCoalescing, NoDenyCache: p.NoDenyCache, NoLeases: p.NoLeases,
	})
	if err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	return l, nil
}

// run demands until the time is over. Beside the rate each call is charged to a
// quota that is never short, whose receipt tells when it was taken.
func (p *plan) run(l *redislimiter.Limiter) (seen, error) {
	var paid sync.Map // when a charge was paid from a lease
	if !p.NoLeases {
		l.WatchLeases(func(c *limiter.Charge, at time.Time) { paid.Store(c, limiter.Ticks(at)) })
	}
	rate := p.rate()
	witness := &limiter.Limit{Name: "witness", Kind: limiter.KindQuota, Count: limiter.MaxCount, Calendar: limiter.CalendarMonth}
	var mu sync.Mutex
	var all seen
	var errs []error
	end := time.Now().Add(p.For)
	var wg sync.WaitGroup
	for i := range p.Callers {
		wg.Go(func() {
			got, err := p.caller(l, rate, witness, rand.New(rand.NewPCG(p.Seed, uint64(i))), end, &paid)
			mu.Lock()
			defer mu.Unlock()
			all.Admitted = append(all.Admitted, got.Admitted...)
			all.Calls += got.Calls
			errs = append(errs, err)
		})
	}
	wg.Wait()
	return all, errors.Join(errs...)
}

func (p *plan) caller(l limiter.Limiter, rate, witness *limiter.Limit, rng *rand.Rand, end time.Time, paid *sync.Map) (seen, error) {
	var got seen
	home := []byte("agent")
	key := append(slices.Clone(home), p.Key...)
	costs := []limiter.Units{p.MostCost, p.MostCost / 2, limiter.Unit, 1 + limiter.Units(rng.Int64N(int64(p.MostCost)))}
	for time.Now().Before(end) {
		if p.Pace > 0 && time.Now().UnixMilli()%400 < 300 {
			<-time.After(p.Pace/2 + time.Duration(rng.Int64N(int64(p.Pace))))
		}
		cost := costs[rng.IntN(len(costs))]
		calls := []limiter.Call{{Charges: []limiter.Charge{
			{Limit: rate, Key: key, Home: len(home), Cost: cost},
			{Limit: witness, Key: []byte("agent-witness"), Home: len(home), Cost: 1},
		}}}
		if _, err := l.Take(context.Background(), calls, limiter.StopNever); err != nil {
			return got, fmt.Errorf("take: %w", err)
		}
		got.Calls++
		res := &calls[0].Result
		if res.Admitted {
			at := takenAt(&calls[0], paid)
			got.Admitted = append(got.Admitted, charging{At: at, Units: cost})
			continue
		}
		// A caller that asks again at once would only keep the machine busy.
		select {
		case <-time.After(min(res.Limits[0].RetryAfter, time.Millisecond)):
		case <-time.After(time.Until(end)):
		}
	}
	return got, nil
}

// takenAt is when a call with a witness was admitted to its first limit.
func takenAt(call *limiter.Call, paid *sync.Map) int64 {
	if at, ok := paid.LoadAndDelete(&call.Charges[0]); ok {
		return at.(int64)
	}
	for i := range call.Result.Receipt.Taken {
		if t := &call.Result.Receipt.Taken[i]; t.Limit.Kind == limiter.KindQuota {
			return t.Mark[1]
		}
	}
	return 0
}

// ticks are those of a second.
const ticks = 16_000_000

// excess is by how much the admissions of the fullest window exceed rate*t, in
// units: with S the units before i and R what the rate gave until then, the most
// that S-R rises above its lowest.
func excess(log []charging, perSecond int64) float64 {
	slices.SortFunc(log, func(a, b charging) int { return cmp.Compare(a.At, b.At) })
	var sum, most float64
	lowest := 0.0
	for _, a := range log {
		given := float64(a.At-log[0].At) / ticks * float64(perSecond)
		lowest = min(lowest, sum-given)
		sum += float64(a.Units) / float64(limiter.Unit)
		most = max(most, sum-given-lowest)
	}
	return most
}

// bound is a rate and what fills it.
type bound struct {
	count, burst int64
	replicas     int
	most         limiter.Units
	// demanded is for how long there was more demand than the limit gives; zero:
	// there was not.
	demanded time.Duration
	// thin says that there may be too little demand for a denial.
	thin bool
}

// check compares what was admitted with the bound, and prints both.
func (b bound) check(t *testing.T, what string, all []seen) {
	t.Helper()
	var log []charging
	var calls int
	var total limiter.Units
	var exchanges, denyHits int64
	for _, o := range all {
		log = append(log, o.Admitted...)
		calls += o.Calls
		exchanges += o.Exchanges
		denyHits += o.DenyHits
	}
	for _, a := range log {
		total += a.Units
	}
	worst := excess(log, b.count)
	given := float64(total) / float64(limiter.Unit)
	cost := float64(b.most) / float64(limiter.Unit)
	least := float64(b.burst) + float64(b.count)*b.demanded.Seconds() - float64(b.replicas+1)*cost
	t.Logf("%s: %d calls, %d admitted, %.1f units; the fullest window holds rate*t + %.2f of burst %d; demanded %v, due at least %.1f; %d exchanges, %d denials from memory",
		what, calls, len(log), given, worst, b.burst, b.demanded.Round(time.Millisecond), least, exchanges, denyHits)
	if worst > float64(b.burst)+1e-4 {
		t.Errorf("%s: some window holds %.6f above rate*t, and the burst is %d", what, worst, b.burst)
	}
	if b.demanded > 0 && given < least {
		t.Errorf("%s: %.2f units were admitted of saturated demand, less than %.2f", what, given, least)
	}
	if len(log) == 0 || (len(log) == calls && !b.thin) {
		t.Errorf("%s: %d of %d calls admitted: that is no test of a limit", what, len(log), calls)
	}
}

func proofTime() time.Duration {
	if full() {
		return 20 * time.Second
	}
	return 1500 * time.Millisecond
}

// plans are those of so many replicas: each other one coalesces, each third one
// remembers no denials.
func plans(t *testing.T, url string, replicas int) []plan {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed(t), uint64(replicas)))
	first := plan{
		URL: url, Prefix: at(url).Prefix, Key: "/rate", Callers: max(2, 16/replicas), For: proofTime(),
		Count: 50 + rng.Int64N(300), Burst: 20 + rng.Int64N(200), MostCost: limiter.Units(2+rng.Int64N(8)) * limiter.Unit,
	}
	all := make([]plan, replicas)
	for i := range all {
		all[i] = first
		all[i].Seed = seed(t)<<8 + uint64(i)
		all[i].NoCoalescing, all[i].NoDenyCache = i%2 == 1, i%3 == 1
	}
	return all
}

// TestReplicas: however many replicas share a limit, over all windows they admit
// at most burst + rate*t together, and with saturated demand hardly less.
func TestReplicas(t *testing.T) { //nolint:tparallel // One load at a time.
	t.Parallel()
	url := startRedis(t).URL()
	for _, replicas := range []int{1, 4, 16} {
		t.Run(fmt.Sprint(replicas), func(t *testing.T) {
			all := plans(t, url, replicas)
			outcomes, demanded := together(t, all)
			bound{
				count: all[0].Count, burst: all[0].Burst, replicas: replicas, most: all[0].MostCost, demanded: demanded,
			}.check(t, fmt.Sprintf("%d replicas, %d/s, burst %d, cost up to %d", replicas, all[0].Count, all[0].Burst, all[0].MostCost/limiter.Unit), outcomes)
		})
	}
}

// together runs plans at once, and tells for how long all of them demanded.
func together(t *testing.T, all []plan) ([]seen, time.Duration) {
	t.Helper()
	limiters := make([]*redislimiter.Limiter, len(all))
	for i := range all {
		l, err := all[i].open()
		if err != nil {
			t.Fatal(err)
		}
		limiters[i] = l
	}
	defer func() {
		for _, l := range limiters {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
	}()
	outcomes := make([]seen, len(all))
	errs := make([]error, len(all))
	start := time.Now()
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() {
			outcomes[i], errs[i] = all[i].run(limiters[i])
			outcomes[i].add(limiters[i].Stats())
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	// From when the last one had begun until the first one ended.
	return outcomes, all[0].For - min(all[0].For/2, time.Since(start)-all[0].For)
}

// TestTwoPolicies: during a rollout two replicas charge the same bucket with
// different limits, each in turn; what is admitted obeys the larger one.
func TestTwoPolicies(t *testing.T) { //nolint:tparallel // One load at a time.
	t.Parallel()
	url := startRedis(t).URL()
	for name, other := range map[string][2]int64{
		"more of both":       {300, 120},
		"faster, less burst": {300, 20},
		"slower, more burst": {20, 120},
		"the same rate":      {100, 60},
	} {
		t.Run(name, func(t *testing.T) {
			all := plans(t, url, 2)
			all[0].Count, all[0].Burst = 100, 60
			all[1].Count, all[1].Burst = other[0], other[1]
			for i := range all {
				all[i].MostCost = 5 * limiter.Unit
				all[i].For /= 2
			}
			outcomes, _ := together(t, all)
			bound{count: max(100, other[0]), burst: max(60, other[1])}.check(t, fmt.Sprintf("100/s burst 60, and %d/s burst %d", other[0], other[1]), outcomes)
		})
	}
}

// runReplica is a replica in a process of its own: it says when it is ready,
// waits for a line, runs its plan and writes what it saw.
func runReplica(text string) {
	if err := replica(text, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

func replica(text string, in io.Reader, out io.Writer) error {
	var p plan
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	l, err := p.open()
	if err != nil {
		return err
	}
	defer l.Close()
	if _, err := fmt.Fprintln(out, "ready"); err != nil {
		return fmt.Errorf("say ready: %w", err)
	}
	if _, err := bufio.NewReader(in).ReadString('\n'); err != nil {
		return fmt.Errorf("await the start: %w", err)
	}
	got, err := p.run(l)
	if err != nil {
		return err
	}
	got.add(l.Stats())
	if err := json.NewEncoder(out).Encode(got); err != nil {
		return fmt.Errorf("tell what was seen: %w", err)
	}
	return nil
}

// TestProcesses is TestReplicas with four processes.
func TestProcesses(t *testing.T) {
	t.Parallel()
	const replicas = 4
	url := startRedis(t).URL()
	all := plans(t, url, replicas)
	children := make([]*child, replicas)
	for i := range all {
		children[i] = startChild(t, &all[i])
	}
	start := time.Now()
	for _, c := range children {
		if _, err := io.WriteString(c.in, "go\n"); err != nil {
			t.Fatal(err)
		}
	}
	outcomes := make([]seen, replicas)
	for i, c := range children {
		if err := json.NewDecoder(c.out).Decode(&outcomes[i]); err != nil {
			t.Fatal(err)
		}
	}
	demanded := all[0].For - min(all[0].For/2, time.Since(start)-all[0].For)
	bound{count: all[0].Count, burst: all[0].Burst, replicas: replicas, most: all[0].MostCost, demanded: demanded}.check(t,
		fmt.Sprintf("%d processes, %d/s, burst %d, cost up to %d", replicas, all[0].Count, all[0].Burst, all[0].MostCost/limiter.Unit), outcomes)
}

// child is a replica in a process of its own.
type child struct {
	in      io.WriteCloser
	out     *bufio.Reader
	process *os.Process
	killed  bool
}

func (c *child) signal(tb testing.TB, sig os.Signal) {
	tb.Helper()
	if err := c.process.Signal(sig); err != nil {
		tb.Fatal(err)
	}
}

func (c *child) stop(tb testing.TB) {
	tb.Helper()
	c.signal(tb, syscall.SIGSTOP)
}

func (c *child) resume(tb testing.TB) {
	tb.Helper()
	c.signal(tb, syscall.SIGCONT)
}

func (c *child) kill(tb testing.TB) {
	tb.Helper()
	c.killed = true
	c.signal(tb, syscall.SIGKILL)
}

func startChild(t *testing.T, p *plan) *child {
	t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), self)
	cmd.Env = append(os.Environ(), replicaEnv+"="+string(text))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{in: in, out: bufio.NewReader(out), process: cmd.Process}
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil && !c.killed {
			t.Errorf("a replica: %v", err)
		}
	})
	if line, err := c.out.ReadString('\n'); line != "ready\n" {
		t.Fatalf("a replica said %q, %v", line, err)
	}
	return c
}
