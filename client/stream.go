package client

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

// Stream asks over one AuthorizeStream that all its callers share: the cheap way
// for a busy gateway. It opens with the first call and again with the first call
// after it broke. Make it with [Client.NewStream]; share it between goroutines.
//
// A call that was under way when the stream broke gets an UNAVAILABLE error and
// is not sent again, because it may have been decided and charged.
type Stream struct {
	client *Client

	mu      sync.Mutex
	current *session
	closed  bool
	lastID  uint64
	wg      sync.WaitGroup
}

var _ Authorizer = (*Stream)(nil)

// NewStream prepares a stream. Close it before the client.
func (c *Client) NewStream() *Stream { return &Stream{client: c} }

// Authorize asks for one decision, like [Client.Authorize]. Answers come in any
// order; each finds its caller by request_id. A request without one gets one (on
// a copy); one of the caller's own must be unique among the calls under way, or
// the call fails with ALREADY_EXISTS. A call given up on counts as under way until
// its late answer has come.
func (s *Stream) Authorize(ctx context.Context, req *authzv1.AuthorizeRequest) (Decision, error) {
	callCtx, cancel := s.client.withDeadline(ctx, req)
	defer cancel()
	resp, err := s.ask(callCtx, req)
	return s.client.conclude(ctx, req, resp, err)
}

// Close ends the stream and waits for its goroutines. Calls under way get an
// error. It always returns nil, and may be called again.
func (s *Stream) Close() error {
	s.mu.Lock()
	s.closed = true
	if s.current != nil {
		s.current.fail(status.Error(codes.Canceled, "the stream was closed by its owner"))
	}
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

func (s *Stream) ask(ctx context.Context, req *authzv1.AuthorizeRequest) (*authzv1.AuthorizeResponse, error) {
	if req.GetRequestId() == "" {
		if req == nil {
			return nil, status.Error(codes.InvalidArgument, "request is nil")
		}
		req = proto.CloneOf(req)
		req.RequestId = s.nextID()
	}
	var err error
	// The second try is for a stream that broke while idle, which only shows when it is used.
	// It is taken only if the first surely sent nothing.
	for range 2 {
		var ses *session
		if ses, err = s.session(); err != nil { //nolint:contextcheck // A session outlives the call that opens it.
			return nil, err
		}
		var call chan answer
		call, err = ses.send(ctx, req)
		if errors.Is(err, errNotSent) {
			err = ses.cause()
			continue
		}
		if err != nil {
			return nil, err
		}
		return ses.await(ctx, req.GetRequestId(), call)
	}
	return nil, err
}

func (s *Stream) nextID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastID++
	// The prefix keeps these apart from ids that callers count themselves.
	return "stream-" + strconv.FormatUint(s.lastID, 10)
}

// session returns the stream in use, or starts one.
func (s *Stream) session() (*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, status.Error(codes.Canceled, "the stream is closed; make a new one")
	}
	if s.current == nil || s.current.broken() {
		// Not of the caller that happens to come first: the stream serves all.
		ctx, cancel := context.WithCancel(context.Background())
		s.current = &session{
			cancel:  cancel,
			queue:   make(chan *authzv1.AuthorizeStreamRequest),
			done:    make(chan struct{}),
			pending: map[string]chan answer{},
		}
		s.wg.Add(1)
		go func(ses *session) {
			defer s.wg.Done()
			ses.run(ctx, s.client.rpc)
		}(s.current)
	}
	return s.current, nil
}

// errNotSent says that a call was surely not sent, because the session broke first.
var errNotSent = errors.New("not sent")

// answer is what came for one call.
type answer struct {
	response *authzv1.AuthorizeResponse
	err      error
}

// session is one AuthorizeStream, from opening to breaking.
type session struct {
	cancel context.CancelFunc
	// queue is unbuffered: what run has not taken was surely not sent.
	queue chan *authzv1.AuthorizeStreamRequest
	// done is closed once err is set.
	done chan struct{}

	mu sync.Mutex
	// pending holds the calls under way by request_id. A nil channel marks one
	// whose caller gave up: its id stays taken until the late answer has come,
	// which else would be taken for the answer to the next call of that id.
	pending   map[string]chan answer
	abandoned int
	err       error
}

// maxAbandoned is how many answers may be overdue before the stream is taken for dead.
const maxAbandoned = 4096

// run opens the stream and sends what is queued until the session breaks.
func (s *session) run(ctx context.Context, rpc authzv1.AuthorizationServiceClient) {
	defer s.cancel()
	stream, err := rpc.AuthorizeStream(ctx)
	if err != nil {
		s.fail(err)
		return
	}
	received := make(chan struct{})
	go func() {
		defer close(received)
		s.receive(stream)
	}()
	defer func() { <-received }()
	for {
		select {
		case m := <-s.queue:
			// An error here is told by Recv, with its cause.
			if stream.Send(m) != nil {
				<-s.done
				return
			}
		case <-s.done:
			return
		}
	}
}

func (s *session) receive(stream authzv1.AuthorizationService_AuthorizeStreamClient) {
	for {
		m, err := stream.Recv()
		if err != nil {
			s.fail(err)
			return
		}
		s.deliver(m)
	}
}

func (s *session) deliver(m *authzv1.AuthorizeStreamResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	call, ok := s.pending[m.GetRequestId()]
	delete(s.pending, m.GetRequestId())
	switch {
	case !ok:
		// Nobody asked for this.
	case call == nil:
		s.abandoned--
	default:
		call <- answerOf(m) // Has room for its one answer.
	}
}

func answerOf(m *authzv1.AuthorizeStreamResponse) answer {
	switch r := m.GetResult().(type) {
	case *authzv1.AuthorizeStreamResponse_Response:
		if r.Response != nil {
			return answer{response: r.Response}
		}
	case *authzv1.AuthorizeStreamResponse_Error:
		code := codes.Code(r.Error.GetCode())
		if code == codes.OK {
			// A status of OK cannot be an error in gRPC, and would read as an answer.
			code = codes.Unknown
		}
		return answer{err: status.Error(code, r.Error.GetMessage())}
	}
	return answer{err: status.Error(codes.Internal, "the server answered with neither a decision nor an error")}
}

// fail breaks the session; the first cause stays. Those who wait are woken by done.
func (s *session) fail(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.err = cause
	close(s.done)
	s.cancel()
}

func (s *session) broken() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// cause says why the session broke, as a status. Call it after done.
func (s *session) cause() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if code := status.Code(s.err); code != codes.Unknown {
		return fmt.Errorf("authorize stream: %w", s.err)
	}
	// The server's orderly end of the stream (io.EOF) has no status of its own.
	return status.Errorf(codes.Unavailable, "authorize stream ended: %v", s.err)
}

// send queues one call. errNotSent means that it may be tried on another session.
func (s *session) send(ctx context.Context, req *authzv1.AuthorizeRequest) (chan answer, error) {
	call := make(chan answer, 1)
	id := req.GetRequestId()
	s.mu.Lock()
	_, taken := s.pending[id]
	if !taken {
		s.pending[id] = call
	}
	s.mu.Unlock()
	if taken {
		return nil, status.Error(codes.AlreadyExists,
			"a call with this request_id is under way on this stream; give each its own, or none")
	}
	select {
	case s.queue <- &authzv1.AuthorizeStreamRequest{Request: req}:
		return call, nil
	case <-s.done:
		return nil, errNotSent
	case <-ctx.Done():
		s.mu.Lock()
		delete(s.pending, id)
		s.mu.Unlock()
		return nil, fmt.Errorf("waiting to send: %w", status.FromContextError(ctx.Err()).Err())
	}
}

func (s *session) await(ctx context.Context, id string, call chan answer) (*authzv1.AuthorizeResponse, error) {
	select {
	case a := <-call:
		return a.response, a.err
	case <-ctx.Done():
		s.abandon(id)
	case <-s.done:
	}
	// An answer that came at the same moment is a decision that was made.
	select {
	case a := <-call:
		return a.response, a.err
	default:
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("waiting for the answer: %w", status.FromContextError(err).Err())
	}
	return nil, fmt.Errorf("%w (the call was under way: it may have been decided, and is not sent again)", s.lost())
}

// lost is the status of a call that was under way: UNAVAILABLE, whatever ended the stream.
func (s *session) lost() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if status.Code(s.err) == codes.Canceled {
		return s.err // Closed by its owner: no outage.
	}
	return status.Errorf(codes.Unavailable, "authorize stream broke: %v", s.err)
}

// abandon gives up on a call that was sent.
func (s *session) abandon(id string) {
	s.mu.Lock()
	_, ok := s.pending[id]
	if ok {
		s.pending[id] = nil
		s.abandoned++
	}
	dead := s.abandoned > maxAbandoned
	s.mu.Unlock()
	if dead {
		s.fail(status.Errorf(codes.Unavailable, "more than %d answers are overdue", maxAbandoned))
	}
}
