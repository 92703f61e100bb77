package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

// sample is what one side did in one round.
type sample struct {
	perSecond float64
	p50, p99  time.Duration
	cpu       time.Duration // of the server, per call
}

// callersPerConn spreads callers over connections as a gateway's pool would.
const callersPerConn = 32

// load asks s with that many callers for the span and checks every answer.
func (e *environment) load(ctx context.Context, s *server, callers int, span time.Duration) (sample, error) {
	conns, err := e.connect(ctx, s, callers)
	if err != nil {
		return sample{}, err
	}
	defer closeAll(conns)
	before, err := s.cpu()
	if err != nil {
		return sample{}, err
	}
	start := time.Now()
	taken, err := e.ask(ctx, conns, callers, start.Add(span))
	if err != nil {
		return sample{}, err
	}
	elapsed := time.Since(start)
	after, err := s.cpu()
	if err != nil {
		return sample{}, err
	}
	return summarise(taken, elapsed, after-before), nil
}

func (e *environment) connect(ctx context.Context, s *server, callers int) ([]*grpc.ClientConn, error) {
	conns := make([]*grpc.ClientConn, (callers+callersPerConn-1)/callersPerConn)
	for i := range conns {
		conn, err := s.dial()
		if err != nil {
			return nil, err
		}
		conns[i] = conn
		if _, err := authzv1.NewAuthorizationServiceClient(conn).Authorize(ctx, e.request(i), grpc.WaitForReady(true)); err != nil {
			return nil, fmt.Errorf("warm up: %w", err)
		}
	}
	return conns, nil
}

func closeAll(conns []*grpc.ClientConn) {
	for _, c := range conns {
		_ = c.Close() // the measurement is over
	}
}

func (e *environment) ask(ctx context.Context, conns []*grpc.ClientConn, callers int, until time.Time) ([]time.Duration, error) {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		all   []time.Duration
		first error
	)
	for c := range callers {
		wg.Go(func() {
			taken, err := e.caller(ctx, conns[c%len(conns)], c, until)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, taken...)
			if err != nil && first == nil {
				first = err
			}
		})
	}
	wg.Wait()
	return all, first
}

func (e *environment) caller(ctx context.Context, conn *grpc.ClientConn, c int, until time.Time) ([]time.Duration, error) {
	client := authzv1.NewAuthorizationServiceClient(conn)
	requests := make([]*authzv1.AuthorizeRequest, 64)
	for i := range requests {
		requests[i] = e.request(c*64 + i)
	}
	var taken []time.Duration
	for i := 0; ; i++ {
		start := time.Now()
		if start.After(until) {
			return taken, nil
		}
		resp, err := client.Authorize(ctx, requests[i%len(requests)])
		if err != nil {
			return taken, fmt.Errorf("call: %w", err)
		}
		if resp.GetDecision() != authzv1.Decision_DECISION_ALLOW {
			return taken, fmt.Errorf("%w: %v %v", errWrongAnswer, resp.GetDecision(), resp.GetReason())
		}
		taken = append(taken, time.Since(start))
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
	before, err := s.cpu()
	if err != nil {
		return sample{}, err
	}
	start := time.Now()
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		total int
		first error
	)
	for c := range streams {
		wg.Go(func() {
			n, err := e.oneStream(ctx, conn, c, start.Add(span))
			mu.Lock()
			defer mu.Unlock()
			total += n
			if err != nil && first == nil {
				first = err
			}
		})
	}
	wg.Wait()
	if first != nil {
		return sample{}, first
	}
	elapsed := time.Since(start)
	after, err := s.cpu()
	if err != nil {
		return sample{}, err
	}
	if total == 0 {
		return sample{}, errWrongAnswer
	}
	return sample{perSecond: float64(total) / elapsed.Seconds(), cpu: (after - before) / time.Duration(total)}, nil
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
	requests := make([]*authzv1.AuthorizeStreamRequest, 64)
	for i := range requests {
		req := e.request(c*64 + i)
		req.RequestId = fmt.Sprint(i)
		requests[i] = &authzv1.AuthorizeStreamRequest{Request: req}
	}
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
