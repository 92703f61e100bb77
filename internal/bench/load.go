package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

// sample is what one side did in one round.
type sample struct {
	perSecond float64
	p50, p99  time.Duration
	cpu       time.Duration // of the server, per call
}

// call sends a caller's i-th call and checks its answer.
type call func(ctx context.Context, i int) error

// side is one of those that are measured in turn.
type side struct {
	name string
	// open connects that many callers and says how each of them calls.
	open func(ctx context.Context, callers int) (calls []call, done func(), err error)
	// cpu is the CPU time that the side's server has used.
	cpu func() (time.Duration, error)
}

// load asks s with that many callers for the span.
func load(ctx context.Context, s side, callers int, span time.Duration) (sample, error) {
	calls, done, err := s.open(ctx, callers)
	if err != nil {
		return sample{}, err
	}
	defer done()
	taken, cost, err := together(s.cpu, callers, func(c int, start time.Time) ([]time.Duration, error) {
		return repeat(ctx, calls[c], start.Add(span))
	})
	if err != nil {
		return sample{}, err
	}
	return summarise(slices.Concat(taken...), cost.elapsed, cost.cpu), nil
}

// cost is what a measurement took: by the clock, and of the server's CPU.
type cost struct{ elapsed, cpu time.Duration }

// together runs n callers at once and returns what each of them found.
func together[T any](cpu func() (time.Duration, error), n int, run func(c int, start time.Time) (T, error)) ([]T, cost, error) {
	before, err := cpu()
	if err != nil {
		return nil, cost{}, err
	}
	var callers errgroup.Group
	found := make([]T, n)
	start := time.Now()
	for c := range n {
		callers.Go(func() (err error) {
			found[c], err = run(c, start)
			return err
		})
	}
	if err := callers.Wait(); err != nil {
		return nil, cost{}, err
	}
	elapsed := time.Since(start)
	after, err := cpu()
	return found, cost{elapsed: elapsed, cpu: after - before}, err
}

// repeat is one caller: it calls again as soon as it is answered.
func repeat(ctx context.Context, one call, until time.Time) ([]time.Duration, error) {
	var taken []time.Duration
	for i := 0; ; i++ {
		start := time.Now()
		if start.After(until) {
			return taken, nil
		}
		if err := one(ctx, i); err != nil {
			return taken, err
		}
		taken = append(taken, time.Since(start))
	}
}

// callersPerConn spreads callers over connections as a gateway's pool would.
const callersPerConn = 32

// method is one gRPC method under load: how the c-th caller calls it over conn.
type method func(conn *grpc.ClientConn, c int) call

// side is the load of a method of the server.
func (s *server) side(name string, m method) side {
	return side{name: name, cpu: s.cpu, open: func(ctx context.Context, callers int) ([]call, func(), error) {
		return s.connect(ctx, m, callers)
	}}
}

func (s *server) connect(ctx context.Context, m method, callers int) ([]call, func(), error) {
	var conns []*grpc.ClientConn
	done := func() {
		for _, c := range conns {
			_ = c.Close() // the measurement is over
		}
	}
	calls := make([]call, callers)
	for c := range calls {
		if c%callersPerConn == 0 {
			conn, err := s.dial()
			if err != nil {
				done()
				return nil, nil, err
			}
			conns = append(conns, conn)
		}
		calls[c] = m(conns[len(conns)-1], c)
		if c%callersPerConn != 0 {
			continue
		}
		if err := calls[c](ctx, 0); err != nil {
			done()
			return nil, nil, fmt.Errorf("warm up: %w", err)
		}
	}
	return calls, done, nil
}

// perCaller is how many different requests each caller sends in turn.
const perCaller = 64

// requestsOf are the requests of the c-th caller.
func requestsOf[T any](c int, one func(i int) T) []T {
	all := make([]T, perCaller)
	for i := range all {
		all[i] = one(c*perCaller + i)
	}
	return all
}

// authorize is the method Authorize.
func (e *environment) authorize(conn *grpc.ClientConn, c int) call {
	client := authzv1.NewAuthorizationServiceClient(conn)
	requests := requestsOf(c, e.request)
	return func(ctx context.Context, i int) error {
		resp, err := client.Authorize(ctx, requests[i%perCaller])
		if err != nil {
			return fmt.Errorf("call: %w", err)
		}
		if resp.GetDecision() != authzv1.Decision_DECISION_ALLOW {
			return fmt.Errorf("%w: %v %v", errWrongAnswer, resp.GetDecision(), resp.GetReason())
		}
		return nil
	}
}

func summarise(taken []time.Duration, elapsed, cpu time.Duration) sample {
	n := len(taken)
	if n == 0 {
		return sample{}
	}
	slices.Sort(taken)
	return sample{
		perSecond: float64(n) / elapsed.Seconds(),
		p50:       taken[n/2], p99: taken[n*99/100],
		cpu: cpu / time.Duration(n),
	}
}

// streamLoad keeps a window of calls under way on each of several streams.
func (e *environment) streamLoad(ctx context.Context, s *server, streams int, span time.Duration) (sample, error) {
	conn, err := s.dial()
	if err != nil {
		return sample{}, err
	}
	defer conn.Close()
	answered, cost, err := together(s.cpu, streams, func(c int, start time.Time) (int, error) {
		return e.oneStream(ctx, conn, c, start.Add(span))
	})
	if err != nil {
		return sample{}, err
	}
	total := 0
	for _, n := range answered {
		total += n
	}
	if total == 0 {
		return sample{}, errWrongAnswer
	}
	return sample{perSecond: float64(total) / cost.elapsed.Seconds(), cpu: cost.cpu / time.Duration(total)}, nil
}

// streamWindow is how many calls one stream has under way.
const streamWindow = 64

func (e *environment) oneStream(ctx context.Context, conn *grpc.ClientConn, c int, until time.Time) (int, error) {
	stream, err := authzv1.NewAuthorizationServiceClient(conn).AuthorizeStream(ctx)
	if err != nil {
		return 0, fmt.Errorf("open a stream: %w", err)
	}
	tokens := make(chan struct{}, streamWindow)
	sent := make(chan error, 1)
	go func() { sent <- e.sendAll(stream, c, until, tokens) }()
	n := 0
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return n, <-sent
		}
		if err != nil {
			return n, fmt.Errorf("receive: %w", err)
		}
		if resp.GetResponse().GetDecision() != authzv1.Decision_DECISION_ALLOW {
			return n, fmt.Errorf("%w: %v", errWrongAnswer, resp)
		}
		n++
		<-tokens
	}
}

func (e *environment) sendAll(
	stream authzv1.AuthorizationService_AuthorizeStreamClient, c int, until time.Time, tokens chan<- struct{},
) error {
	requests := requestsOf(c, func(i int) *authzv1.AuthorizeStreamRequest {
		req := e.request(i)
		req.RequestId = fmt.Sprint(i % perCaller)
		return &authzv1.AuthorizeStreamRequest{Request: req}
	})
	for i := 0; time.Now().Before(until); i++ {
		select {
		case tokens <- struct{}{}:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
		if err := stream.Send(requests[i%len(requests)]); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
	return stream.CloseSend()
}
