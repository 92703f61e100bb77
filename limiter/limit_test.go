package limiter_test

import (
	"strings"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/limiter"
)

func TestValidate(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	tests := []struct {
		name  string
		limit limiter.Limit
		want  []string // a part of each error; none if the limit is valid
	}{
		{"rate", limiter.Limit{Kind: limiter.KindRate, Count: 60, Burst: 60, Period: time.Minute}, nil},
		{"fastest rate", limiter.Limit{Kind: limiter.KindRate, Count: 1_000_000, Burst: 1_000_000_000, Period: time.Second}, nil},
		{"slowest rate", limiter.Limit{Kind: limiter.KindRate, Count: 1, Burst: 366, Period: day}, nil},
		{"window", limiter.Limit{Kind: limiter.KindWindow, Count: limiter.MaxCount, Period: 90 * time.Minute}, nil},
		{"quota", limiter.Limit{Kind: limiter.KindQuota, Count: 5000, Calendar: limiter.CalendarMonth, Location: time.UTC}, nil},
		{"slots", limiter.Limit{Kind: limiter.KindConcurrency, Count: limiter.MaxSlots, Hold: 5 * time.Minute}, nil},
		{"zero", limiter.Limit{}, []string{"count 0", "Kind(0) is not a kind"}},
		{"too fast", limiter.Limit{Kind: limiter.KindRate, Count: 1_000_001, Burst: 1, Period: time.Second}, []string{"above 1000000 per second"}},
		{"no burst", limiter.Limit{Kind: limiter.KindRate, Count: 1, Period: time.Second}, []string{"burst 0 is out of range"}},
		{"burst too large", limiter.Limit{Kind: limiter.KindRate, Count: 1_000_000, Burst: 1_000_000_001, Period: time.Second}, []string{"burst 1000000001 is out of range"}},
		{"burst too slow", limiter.Limit{Kind: limiter.KindRate, Count: 1, Burst: 367, Period: day}, []string{"more than 366 days", "write at most 366"}},
		{"short period", limiter.Limit{Kind: limiter.KindRate, Count: 1, Burst: 1, Period: time.Millisecond}, []string{"period 1ms is out of range"}},
		{"long window", limiter.Limit{Kind: limiter.KindWindow, Count: 1, Period: 367 * day}, []string{"out of range; write 1s to 366 days"}},
		{"count too large", limiter.Limit{Kind: limiter.KindQuota, Count: limiter.MaxCount + 1, Calendar: limiter.CalendarDay}, []string{"count 1000000001"}},
		{"no calendar", limiter.Limit{Kind: limiter.KindQuota, Count: 1}, []string{"not a calendar unit"}},
		{"unknown calendar", limiter.Limit{Kind: limiter.KindQuota, Count: 1, Calendar: 7}, []string{"Calendar(7) is not"}},
		{"too many slots", limiter.Limit{Kind: limiter.KindConcurrency, Count: limiter.MaxSlots + 1, Hold: time.Minute}, []string{"count 10001", "1 to 10000"}},
		{"no hold", limiter.Limit{Kind: limiter.KindConcurrency, Count: 1}, []string{"hold 0s is out of range"}},
		{"burst on a window", limiter.Limit{Kind: limiter.KindWindow, Count: 1, Period: time.Minute, Burst: 2}, []string{"has no burst"}},
		{"period on a quota", limiter.Limit{Kind: limiter.KindQuota, Count: 1, Calendar: limiter.CalendarDay, Period: time.Minute}, []string{"has no period"}},
		{"zone on a rate", limiter.Limit{Kind: limiter.KindRate, Count: 1, Burst: 1, Period: time.Minute, Location: time.UTC}, []string{"no time zone"}},
		{"hold on a rate", limiter.Limit{Kind: limiter.KindRate, Count: 1, Burst: 1, Period: time.Minute, Hold: time.Minute}, []string{"has no hold"}},
		{"leased rate", limiter.Limit{Kind: limiter.KindRate, Count: 60, Burst: 60, Period: time.Minute, Lease: limiter.MaxLease}, nil},
		{"leased quota", limiter.Limit{Kind: limiter.KindQuota, Count: 60, Calendar: limiter.CalendarDay, Lease: time.Millisecond}, nil},
		{"long lease", limiter.Limit{Kind: limiter.KindRate, Count: 60, Burst: 60, Period: time.Minute, Lease: limiter.MaxLease + 1}, []string{"lease 1.000000001s is out of range"}},
		{"negative lease", limiter.Limit{Kind: limiter.KindQuota, Count: 60, Calendar: limiter.CalendarDay, Lease: -1}, []string{"lease -1ns is out of range"}},
		{"leased window", limiter.Limit{Kind: limiter.KindWindow, Count: 60, Period: time.Minute, Lease: time.Millisecond}, []string{"a window limit has no lease"}},
		{"leased slots", limiter.Limit{Kind: limiter.KindConcurrency, Count: 60, Hold: time.Minute, Lease: time.Millisecond}, []string{"a concurrency limit has no lease"}},
		{"negative", limiter.Limit{Kind: limiter.KindRate, Count: -1, Burst: -1, Period: -1}, []string{"count -1", "burst -1", "period -1ns"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.limit.Name = "the-name"
			err := tt.limit.Validate()
			if len(tt.want) == 0 {
				if err != nil {
					t.Fatalf("Validate() = %v, want nil", err)
				}
				return
			}
			if err == nil {
				t.Fatal("Validate() = nil, want an error")
			}
			for _, part := range append(tt.want, `limit "the-name"`) {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("Validate() = %q, want it to say %q", err, part)
				}
			}
		})
	}
}
