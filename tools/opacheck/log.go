package main

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"
)

// flushEvery is how long a line may wait to be written with others, as in Kelpie.
const flushEvery = 50 * time.Millisecond

// decisionLog writes a JSON line for each decision, many lines at once.
type decisionLog struct {
	handler slog.Handler

	mu  sync.Mutex
	out *bufio.Writer
}

func newDecisionLog(path string) (*decisionLog, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("open the decision log: %w", err)
	}
	l := &decisionLog{out: bufio.NewWriterSize(file, 256<<10)}
	l.handler = slog.NewJSONHandler(l, nil)
	uuid.EnableRandPool() // reading the system's randomness for each id would be most of its cost
	go func() {
		for range time.Tick(flushEvery) {
			l.flush()
		}
	}()
	return l, nil
}

// Write implements io.Writer.
func (l *decisionLog) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(line)
}

func (l *decisionLog) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.out.Flush(); err != nil {
		fmt.Fprintln(os.Stderr, "opacheck: write the decision log:", err)
	}
}

func (l *decisionLog) record(ctx context.Context, c call, reason string, start time.Time) {
	decision := "DENY"
	if reason == "ok" {
		decision = "ALLOW"
	}
	now := time.Now()
	line := slog.NewRecord(now, slog.LevelInfo, "decision", 0)
	line.AddAttrs(
		slog.String("decision_id", uuid.NewString()),
		slog.String("agent", c.agent),
		slog.String("method", c.method),
		slog.String("path", c.path),
		slog.String("decision", decision),
		slog.String("reason", reason),
		slog.Int64("latency_us", now.Sub(start).Microseconds()),
		slog.String("source_ip", c.source),
	)
	if err := l.handler.Handle(ctx, line); err != nil {
		fmt.Fprintln(os.Stderr, "opacheck: write the decision log:", err)
	}
}
