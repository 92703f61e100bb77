package app

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// retryExport sends again what the OTLP specification says may be sent again.
const retryExport = `{"methodConfig": [{"name": [{}], "retryPolicy": {
	"maxAttempts": 4, "initialBackoff": "1s", "maxBackoff": "5s", "backoffMultiplier": 2,
	"retryableStatusCodes": ["CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"]}}]}`

// maxBatch is how much of an export is kept to be sent again, in bytes: more than
// 512 spans can be.
const maxBatch = 4 << 20

// maxReason bounds what is logged of a failure, in bytes: a collector can say anything.
const maxReason = 300

// collector is an otlptrace.Client. The SDK's own one links gRPC's gzip into the
// process, and with it every caller of Kelpie could send eight MiB as eight
// KiB. An export that fails is counted and told, and is no error to the SDK,
// which would write it to the standard error in a form of its own.
type collector struct {
	settings       *traceSettings
	conn           *grpc.ClientConn
	client         collectorv1.TraceServiceClient
	tell           func(why string, spans int)
	exported, lost prometheus.Counter
	// closing is closed when no export may go on, stopped when none is under way.
	closing, stopped chan struct{}
	once             struct{ close, stop sync.Once }
}

func newCollector(settings *traceSettings, tell func(string, int), exported, lost prometheus.Counter) (*collector, error) {
	creds := insecure.NewCredentials()
	if settings.tls != nil {
		creds = credentials.NewTLS(settings.tls)
	}
	conn, err := grpc.NewClient(settings.target, grpc.WithTransportCredentials(creds),
		grpc.WithDefaultServiceConfig(retryExport), grpc.WithDisableServiceConfig(), grpc.WithUserAgent("kelpie"),
		grpc.WithDefaultCallOptions(grpc.MaxRetryRPCBufferSize(maxBatch)))
	if err != nil {
		return nil, fmt.Errorf("traces: %s: not an address that can be asked", settings.endpointKey)
	}
	return &collector{
		settings: settings, conn: conn, client: collectorv1.NewTraceServiceClient(conn),
		tell: tell, exported: exported, lost: lost,
		closing: make(chan struct{}), stopped: make(chan struct{}),
	}, nil
}

// Start implements otlptrace.Client. The connection is made with the first export.
func (*collector) Start(context.Context) error { return nil }

// Stop implements otlptrace.Client.
func (c *collector) Stop(context.Context) error {
	c.close()
	c.once.stop.Do(func() { close(c.stopped) })
	return nil
}

// close ends the export that is under way, and lets all others fail at once. It
// may be called more than once.
func (c *collector) close() {
	c.once.close.Do(func() {
		close(c.closing)
		_ = c.conn.Close() // Its only error is that it was closed before.
	})
}

// UploadTraces implements otlptrace.Client.
func (c *collector) UploadTraces(ctx context.Context, list []*tracev1.ResourceSpans) error {
	spans := 0
	for _, r := range list {
		for _, s := range r.GetScopeSpans() {
			spans += len(s.GetSpans())
		}
	}
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(ctx, c.settings.headers), c.settings.timeout)
	defer cancel()
	go func() {
		// A connection that is closed alone would be waited for, and asked again.
		select {
		case <-c.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	resp, err := c.client.Export(ctx, &collectorv1.ExportTraceServiceRequest{ResourceSpans: list})
	refused := 0
	switch partial := resp.GetPartialSuccess(); {
	case err != nil:
		refused = spans
		c.tell(c.reason(err), refused)
	case partial.GetRejectedSpans() > 0:
		refused = int(min(partial.GetRejectedSpans(), int64(spans)))
		c.tell(c.redact("the collector refused some: "+partial.GetErrorMessage()), refused)
	}
	c.lost.Add(float64(refused))
	c.exported.Add(float64(spans - refused))
	return nil
}

// reason words an error for the log.
func (c *collector) reason(err error) string {
	select {
	case <-c.closing:
		return "the collector did not take them before the server ended"
	default:
	}
	st := status.Convert(err)
	if st.Code() == codes.DeadlineExceeded {
		return fmt.Sprintf("the collector did not answer within %v", c.settings.timeout.Round(time.Millisecond))
	}
	return c.redact(st.Code().String() + ": " + st.Message())
}

// redact takes out what was sent in headers, should the collector say it back.
func (c *collector) redact(text string) string {
	for _, secret := range c.settings.secrets {
		text = strings.ReplaceAll(text, secret, "[a header's value]")
	}
	if len(text) > maxReason {
		text = text[:maxReason]
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}
