package sqlitejournal_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/limiter/limitertest"
	"github.com/kelpie-authz/kelpie/limiter/sqlitejournal"
)

// childEnv, if set, makes the test binary a process that charges a quota without
// end, and says each charge that was admitted.
const childEnv = "KELPIE_TEST_JOURNAL"

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		if err := child(path, os.Stdout); err != nil {
			panic(err) // It ends as it should not, and the test sees that.
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func open(tb testing.TB, path string) *sqlitejournal.Journal {
	tb.Helper()
	j, err := sqlitejournal.Open(context.Background(), path)
	if err != nil {
		tb.Fatal(err)
	}
	return j
}

func TestJournalConforms(t *testing.T) {
	t.Parallel()
	report := limitertest.RunJournal(t, limitertest.JournalDriver{
		Open: func(tb testing.TB, dir string) limiter.Journal {
			tb.Helper()
			return open(tb, filepath.Join(dir, "quotas.db"))
		},
	})
	const cases = 9
	if report.Ran != cases || limitertest.JournalCases() != cases {
		t.Fatalf("%d of %d cases ran, want %d", report.Ran, limitertest.JournalCases(), cases)
	}
}

// A limiter over it is a limiter as any other.
func TestKeptConforms(t *testing.T) {
	t.Parallel()
	report := limitertest.Run(t, limitertest.Driver{
		Open: func(tb testing.TB, clock func() time.Time) limiter.Limiter {
			tb.Helper()
			m, err := limiter.NewMemory(limiter.MemoryConfig{Clock: clock, Shards: 4})
			if err != nil {
				tb.Fatal(err)
			}
			k, err := limiter.NewKept(context.Background(), m, open(tb, filepath.Join(tb.TempDir(), "quotas.db")))
			if err != nil {
				tb.Fatal(err)
			}
			return k
		},
	})
	const cases = 45
	if report.Ran != cases || len(report.LeftOut) != 0 {
		t.Fatalf("%d cases ran and %v were left out, want %d and none", report.Ran, report.LeftOut, cases)
	}
}

var monthly = &limiter.Limit{Name: "monthly", Kind: limiter.KindQuota, Count: 30_000, Calendar: limiter.CalendarMonth}

func child(path string, out io.Writer) error {
	ctx := context.Background()
	j, err := sqlitejournal.Open(ctx, path)
	if err != nil {
		return err
	}
	m, err := limiter.NewMemory(limiter.MemoryConfig{})
	if err != nil {
		return err
	}
	k, err := limiter.NewKept(ctx, m, j)
	if err != nil {
		return err
	}
	ended := make(chan error, callers)
	for range callers {
		go func() { ended <- charge(ctx, k, out) }()
	}
	var errs []error
	for range callers {
		errs = append(errs, <-ended)
	}
	if err := errors.Join(append(errs, k.Close())...); err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, "full")
	return err
}

// callers is how many charge at once, so that a kill finds them anywhere.
const callers = 16

// charge charges until the quota is used up.
func charge(ctx context.Context, k *limiter.Kept, out io.Writer) error {
	for {
		calls := []limiter.Call{{Charges: []limiter.Charge{{Limit: monthly, Key: []byte("bot"), Cost: limiter.Unit}}}}
		if _, err := k.Take(ctx, calls, limiter.StopNever); err != nil || !calls[0].Result.Admitted {
			return err
		}
		if _, err := fmt.Fprintln(out, "admitted"); err != nil {
			return err
		}
	}
}

// However often the process is killed, it never admits more than the quota over
// all its lives, and each kill loses what was written ahead at most.
func TestKilled(t *testing.T) {
	t.Parallel()
	kills := 8
	if os.Getenv("KELPIE_PROOF") == "full" {
		kills = 60
	}
	path, self := filepath.Join(t.TempDir(), "quotas.db"), os.Args[0]
	admitted, killed, full := 0, 0, false
	for turn := 0; !full; turn++ {
		cmd := exec.CommandContext(t.Context(), self)
		cmd.Env = append(os.Environ(), childEnv+"="+path)
		cmd.Stderr = os.Stderr
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(pipe)
		for n := 0; lines.Scan() && !full; n++ {
			if full = lines.Text() == "full"; full {
				break
			}
			admitted++
			if killed == turn && turn < kills && n == 20+turn%30 {
				killed++
				if err := cmd.Process.Kill(); err != nil { // What it wrote before is still to be read.
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); (err == nil) != full {
			t.Fatalf("turn %d: %v", turn, err)
		}
	}
	const ahead = 30_000/128 + 1 + callers // These may be killed before they say what they got.
	t.Logf("%d of %d admitted over %d kills", admitted, monthly.Count, killed)
	if int64(admitted) > monthly.Count || admitted < int(monthly.Count)-killed*ahead || killed != kills {
		t.Errorf("%d admitted with %d kills; want at most %d, and %d less for each kill at most", admitted, killed, monthly.Count, ahead)
	}
}

func TestFilesThatAreRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	used := filepath.Join(dir, "used.db")
	j := open(t, used)
	defer func() { _ = j.Close() }()
	junk := filepath.Join(dir, "junk.db")
	if err := os.WriteFile(junk, []byte(strings.Repeat("no database at all ", 500)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		path, want string
		is         error
	}{
		"used by another": {used, "another process uses it", nil},
		"damaged":         {junk, "move it away", nil},
		"no directory":    {filepath.Join(dir, "nowhere", "q.db"), "open the quotas", os.ErrNotExist},
		"of a later one":  {later(t, dir), "later release", sqlitejournal.ErrSchema},
	} {
		got, err := sqlitejournal.Open(context.Background(), tc.path)
		if err == nil || !strings.Contains(err.Error(), tc.want) || tc.is != nil && !errors.Is(err, tc.is) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			_ = got.Close()
		}
	}
	info, err := os.Stat(used)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// later is a file of a later release.
func later(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "later.db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[63] = 9 // the last byte of user_version, in the header of the format
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
