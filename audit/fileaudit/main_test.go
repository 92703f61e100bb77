package fileaudit_test

import (
	"context"
	"crypto/ed25519"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/audit/audittest"
	"github.com/kelpie-authz/kelpie/audit/fileaudit"
)

func TestMain(m *testing.M) {
	if plan := os.Getenv(childEnv); plan != "" {
		runChild(plan)
		return
	}
	goleak.VerifyTestMain(m)
}

// full tells whether the proofs run at their stated counts.
func full() bool { return os.Getenv("KELPIE_PROOF") == "full" }

// open opens a log that the test closes.
func open(tb testing.TB, cfg fileaudit.Config) *fileaudit.Log {
	tb.Helper()
	l, err := fileaudit.Open(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	return l
}

func key(tb testing.TB, dir string) ed25519.PublicKey {
	tb.Helper()
	k, err := fileaudit.ReadPublicKey(filepath.Join(dir, "audit.pub"))
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// verify verifies a log that must be whole.
func verify(tb testing.TB, dir string) audit.Verification {
	tb.Helper()
	v, err := fileaudit.Verify(context.Background(), dir, key(tb, dir))
	if err != nil {
		tb.Fatal(err)
	}
	if !v.OK() {
		tb.Fatalf("verify: %v", v.Fault)
	}
	return v
}

// records are all records of a log, oldest first.
func records(tb testing.TB, dir string, kinds ...audit.Kind) []audit.Record {
	tb.Helper()
	var all []audit.Record
	for line, err := range fileaudit.NewReader(dir).Query(context.Background(), &audit.Query{Order: audit.OldestFirst, Kinds: kinds}) {
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, line.Record)
	}
	return all
}

func TestConformance(t *testing.T) {
	t.Parallel()
	report := audittest.Run(t, audittest.Driver{
		Open: func(tb testing.TB, dir string) audit.Sink {
			tb.Helper()
			return open(tb, fileaudit.Config{Dir: dir})
		},
		Kept: func(tb testing.TB, dir string) []audit.Record {
			tb.Helper()
			verify(tb, dir)
			return records(tb, dir)
		},
	})
	if want := audittest.Cases(); report.Ran != want || want != 21 {
		t.Errorf("%d of %d cases ran; left out: %v", report.Ran, want, report.LeftOut)
	}
}

// Segments of a few lines each are the same log.
func TestConformanceOfSmallSegments(t *testing.T) {
	t.Parallel()
	report := audittest.Run(t, audittest.Driver{
		Open: func(tb testing.TB, dir string) audit.Sink {
			tb.Helper()
			return open(tb, fileaudit.Config{Dir: dir, SegmentBytes: 2000})
		},
		Kept: func(tb testing.TB, dir string) []audit.Record {
			tb.Helper()
			verify(tb, dir)
			return records(tb, dir)
		},
	})
	if want := audittest.Cases(); report.Ran != want {
		t.Errorf("%d of %d cases ran; left out: %v", report.Ran, want, report.LeftOut)
	}
}
