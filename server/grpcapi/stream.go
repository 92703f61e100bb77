package grpcapi

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

// AuthorizeStream decides the calls of one stream, one after the other: a
// decision takes a microsecond or two, so a second goroutine per call would
// cost more than it could win, and a client that does not read its answers is
// held back by the stream's own flow control.
//
// At a drain the stream ends with UNAVAILABLE after the call under way was
// answered, or after a second if the client does not take that answer; later
// calls were not decided.
func (a *API) AuthorizeStream(stream grpc.BidiStreamingServer[authzv1.AuthorizeStreamRequest, authzv1.AuthorizeStreamResponse]) error {
	w := &streamWorker{api: a, stream: stream}
	done := make(chan outcome, 1)
	// Receiving cannot be interrupted but by returning from here, so it has a
	// goroutine of its own, which ends soon after.
	go w.guarded(done)
	select {
	case out := <-done:
		if out.panicked != nil {
			panic(out.panicked) // For the server's recovery, which sees this goroutine only.
		}
		return out.err
	case <-a.cfg.Draining:
		w.stop(stopPatience)
		return status.Error(codes.Unavailable, "the server is shutting down; no further call was decided, open a new stream")
	}
}

type outcome struct {
	err      error
	panicked any
}

// streamWorker works one stream off.
type streamWorker struct {
	api    *API
	stream grpc.ServerStream

	// mu is held while a call is decided and answered, so that a drain can
	// wait for it; once stopped is set, no further call is decided.
	mu      sync.Mutex
	stopped atomic.Bool
}

// stopPatience is how long a drain waits for the answer under way.
const stopPatience = time.Second

// stop lets the answer under way out and no further one. A client that does
// not read its answers holds one up for ever; when patience ends, the stream is
// ended over it.
func (w *streamWorker) stop(patience time.Duration) {
	w.stopped.Store(true)
	tick := time.NewTicker(patience / 100)
	defer tick.Stop()
	for range 100 {
		if w.mu.TryLock() {
			w.mu.Unlock()
			return
		}
		<-tick.C
	}
}

func (w *streamWorker) guarded(done chan<- outcome) {
	var out outcome
	defer func() {
		out.panicked = recover()
		done <- out
	}()
	out.err = w.run()
}

func (w *streamWorker) run() error {
	s, _ := w.api.single.Get().(*single)
	defer w.api.giveBack(s)
	in := new(authzv1.AuthorizeStreamRequest)
	for {
		if err := w.stream.RecvMsg(in); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err //nolint:wrapcheck // It is a gRPC status already.
		}
		if err := w.answer(in, s); err != nil {
			return err
		}
	}
}

func (w *streamWorker) answer(in *authzv1.AuthorizeStreamRequest, s *single) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped.Load() {
		return nil
	}
	// A gateway that may ask no more ends its stream: an answer to this one
	// message would invite the next.
	gateway, err := w.api.cfg.Standing(w.stream.Context())
	if err != nil {
		return err
	}
	out := &authzv1.AuthorizeStreamResponse{RequestId: in.GetRequest().GetRequestId()}
	if err := w.decide(gateway, in, s, out); err != nil {
		if w.stream.Context().Err() != nil {
			return err
		}
		st := status.Convert(err)
		out.Result = &authzv1.AuthorizeStreamResponse_Error{Error: &authzv1.CallError{Code: uint32(st.Code()), Message: st.Message()}}
	}
	return w.stream.SendMsg(out) //nolint:wrapcheck // It is a gRPC status already.
}

func (w *streamWorker) decide(gateway string, in *authzv1.AuthorizeStreamRequest, s *single, out *authzv1.AuthorizeStreamResponse) error {
	if f := unknownField(in, ""); f != nil {
		return w.api.refuse(f)
	}
	if in.GetRequest() == nil {
		return w.api.refuse(malformed("request", "is missing; write the call to decide"))
	}
	if in.GetRequest().GetRequestId() == "" {
		return w.api.refuse(malformed("request_id", "is missing; on a stream it names the answer"))
	}
	decided := newAnswer()
	if err := w.api.decide(w.stream.Context(), gateway, in.GetRequest(), s, decided); err != nil {
		return err
	}
	out.Result = &authzv1.AuthorizeStreamResponse_Response{Response: &decided.response}
	return nil
}
