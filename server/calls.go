package server

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// callMetrics are the metrics that every gRPC dashboard knows, by the names
// and labels of go-grpc-middleware's Prometheus provider. The provider looks
// each counter up by its labels four times a call, which costs a tenth of a
// whole call here; these are looked up once per method.
type callMetrics struct {
	started, handled, received, sent *prometheus.CounterVec
}

// methodMetrics are the counters of one method.
type methodMetrics struct {
	started, received, sent prometheus.Counter
	handled                 [codes.Unauthenticated + 1]prometheus.Counter
}

func newCallMetrics(reg prometheus.Registerer) (*callMetrics, error) {
	labels := []string{"grpc_type", "grpc_service", "grpc_method"}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &callMetrics{
		started: vec("grpc_server_started_total", "Total number of RPCs started on the server.", labels...),
		handled: vec("grpc_server_handled_total",
			"Total number of RPCs completed on the server, regardless of success or failure.", append(labels[:3:3], "grpc_code")...),
		received: vec("grpc_server_msg_received_total", "Total number of RPC messages received on the server.", labels...),
		sent:     vec("grpc_server_msg_sent_total", "Total number of RPC messages sent by the server.", labels...),
	}
	for _, c := range []prometheus.Collector{m.started, m.handled, m.received, m.sent} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register call metrics: %w", err)
		}
	}
	return m, nil
}

// of resolves the counters of one method, all codes among them, so that a
// scrape shows a zero before the first failure.
func (m *callMetrics) of(kind, service, method string) *methodMetrics {
	out := &methodMetrics{
		started:  m.started.WithLabelValues(kind, service, method),
		received: m.received.WithLabelValues(kind, service, method),
		sent:     m.sent.WithLabelValues(kind, service, method),
	}
	for code := range out.handled {
		out.handled[code] = m.handled.WithLabelValues(kind, service, method, codes.Code(code).String())
	}
	return out
}

// ended counts the end of a call.
func (m *methodMetrics) ended(err error) {
	code := codes.OK
	if err != nil {
		code = status.Code(err)
	}
	if int(code) >= len(m.handled) {
		code = codes.Unknown
	}
	m.handled[code].Inc()
}

// failed counts the end of a call that failed, and is what the caller gets: the
// error, or the answer in its place.
func (m *methodMetrics) failed(answer func(error) any, err error) (any, error) {
	if answer == nil {
		m.ended(err)
		return nil, err
	}
	m.ended(nil)
	m.sent.Inc()
	return answer(err), nil
}

// countedStream counts a stream's messages, and what cannot be decoded.
type countedStream struct {
	grpc.ServerStream
	server  *GRPC
	metrics *methodMetrics
}

// RecvMsg implements grpc.ServerStream.
func (s *countedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return s.server.decoded(err)
	}
	s.metrics.received.Inc()
	return nil
}

// SendMsg implements grpc.ServerStream.
func (s *countedStream) SendMsg(m any) error {
	err := s.ServerStream.SendMsg(m)
	if err == nil {
		s.metrics.sent.Inc()
	}
	return err //nolint:wrapcheck // It is a gRPC status already.
}
