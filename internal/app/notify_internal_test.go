package app

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kelpie-authz/kelpie/notify"
	"github.com/kelpie-authz/kelpie/notify/sqliteoutbox"
)

// named is a channel that is told nothing.
type named struct{ notify.Channel }

func (named) Name() string { return "named" }

// What waits is not told as 0 where the outbox cannot say.
func TestNoticeMetricsOfABrokenOutbox(t *testing.T) {
	t.Parallel()
	outbox, err := sqliteoutbox.Open(t.Context(), sqliteoutbox.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	d, err := notify.NewDispatcher(notify.Config{Outbox: outbox, Channels: []notify.Channel{named{}}, Log: slog.New(slog.DiscardHandler), Timer: newTimer})
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(noticeMetrics{d})
	names := func() string {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, f := range families {
			out = append(out, strings.TrimPrefix(f.GetName(), "kelpie_notify_"))
		}
		return strings.Join(out, " ")
	}
	if got, want := names(), "delivered_total dropped_total failed_total oldest_seconds pending unheard_total"; got != want {
		t.Errorf("there are %s, want %s", got, want)
	}
	if err := outbox.Close(); err != nil {
		t.Fatal(err)
	}
	if got, want := names(), "delivered_total dropped_total failed_total unheard_total"; got != want {
		t.Errorf("with the outbox closed there are %s, want %s", got, want)
	}
}
