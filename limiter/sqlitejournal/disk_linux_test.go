package sqlitejournal_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/limiter/limitertest"
)

// On a disk that is full nothing with a quota is admitted; with room it goes on,
// and everything that was admitted is known to the next process.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	testkit.OnSmallDisk(t, "2m", func(dir string) { fullDisk(t, dir) })
}

func fullDisk(t *testing.T, dir string) {
	t.Helper()
	path, ballast := filepath.Join(dir, "quotas.db"), []string{filepath.Join(dir, "one"), filepath.Join(dir, "two")}
	for _, name := range ballast {
		if err := os.WriteFile(name, make([]byte, 512<<10), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	clock := limitertest.NewClock(time.Date(2026, time.June, 17, 12, 0, 0, 0, time.UTC))
	m, err := limiter.NewMemory(limiter.MemoryConfig{Clock: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	j := open(t, path)
	t.Cleanup(func() { _ = j.Close() }) // Before the file system goes, also where the test ended early.
	k, err := limiter.NewKept(context.Background(), m, j)
	if err != nil {
		t.Fatal(err)
	}
	admitted := 0
	put := func() error {
		calls := []limiter.Call{{Charges: []limiter.Charge{{Limit: monthly, Key: fmt.Append(nil, "bot", admitted, strings.Repeat("x", 200)), Cost: limiter.Unit}}}}
		_, err := k.Take(context.Background(), calls, limiter.StopNever)
		if err == nil {
			admitted++
		}
		return err
	}
	fill := func() {
		t.Helper()
		for {
			if admitted > 100_000 {
				t.Fatal("the disk is never full")
			}
			if err := put(); err != nil {
				if !errors.Is(err, limiter.ErrUnavailable) || !strings.Contains(err.Error(), "full") {
					t.Fatalf("Take = %v, want ErrUnavailable for a full disk", err)
				}
				return
			}
		}
	}
	fill()
	before := admitted
	if err := os.Remove(ballast[0]); err != nil {
		t.Fatal(err)
	}
	clock.Advance(2 * time.Second)
	for range 100 {
		if err := put(); err != nil {
			t.Fatalf("with room again: %v", err)
		}
	}
	fill()
	t.Logf("%d admitted before the disk was full, %d in all", before, admitted)
	_ = j.Close() // A crash: the limiter writes nothing any more.
	if err := os.Remove(ballast[1]); err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	j = open(t, path)
	if err := j.Load(context.Background(), func(m limiter.QuotaMark) error { known[string(m.Key)] = m.Used >= limiter.Unit; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	if len(known) < admitted || before == 0 || admitted < before+100 {
		t.Errorf("%d quotas are known, %d were charged, %d of them before the disk was full", len(known), admitted, before)
	}
}
