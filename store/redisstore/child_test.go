package redisstore_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/store"
)

// childEnv, if set, makes the test binary a replica on that Redis: for each id
// that it reads it says whether it may let the call through.
const childEnv = "REDISSTORE_TEST_CHILD"

func child(url string, in io.Reader, out io.Writer) error {
	ctx := context.Background()
	s := at(url)
	s.cfg.Prefix = os.Getenv(childEnv + "_PREFIX")
	st, err := s.try(ctx)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, "ready"); err != nil {
		return err
	}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		id := lines.Text()
		go func() {
			if consume(ctx, st, id, "child") == nil {
				_, _ = fmt.Fprintln(out, id) // it may be killed in the middle
			}
		}()
	}
	return nil
}

// A replica that is killed in the middle makes no second use of a yes.
func TestReplicaKilled(t *testing.T) {
	t.Parallel()
	times := 5
	if full() {
		times = 100
	}
	r := testkit.StartRedis(t, testkit.RedisConfig{})
	s := at(r.URL())
	mine := []store.Approvals{s.open(t), s.open(t)}
	lost := 0
	for turn := range times {
		const each = 20
		for i := range each {
			approved(t, mine[0], fmt.Sprint(turn, "-", i))
		}
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+r.URL(), childEnv+"_PREFIX="+s.cfg.Prefix)
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		if !lines.Scan() || lines.Text() != "ready" {
			t.Fatalf("the replica says %q", lines.Text())
		}
		var mu sync.Mutex
		uses := map[string]int{}
		var wg sync.WaitGroup
		for i := range each {
			id := fmt.Sprint(turn, "-", i)
			if _, err := io.WriteString(in, id+"\n"); err != nil {
				t.Fatal(err)
			}
			for k := range 4 {
				wg.Go(func() {
					if consume(context.Background(), mine[k%2], id, fmt.Sprint(k)) == nil {
						mu.Lock()
						uses[id]++
						mu.Unlock()
					}
				})
			}
			if i == 3+turn%each/2 {
				_ = cmd.Process.Kill()
				break
			}
		}
		for lines.Scan() {
			mu.Lock()
			uses[strings.TrimSpace(lines.Text())]++
			mu.Unlock()
		}
		_ = cmd.Wait() // it was killed
		wg.Wait()
		for i := range each {
			id := fmt.Sprint(turn, "-", i)
			for k := range 2 {
				if consume(t.Context(), mine[k], id, "later") == nil {
					uses[id]++
				}
			}
			// The replica can have used one and been killed before it said so.
			if uses[id] > 1 {
				t.Errorf("%s was used %d times", id, uses[id])
			}
			if uses[id] == 0 {
				lost++
			}
			if a, err := mine[0].Get(t.Context(), id); err != nil || a.State != store.Consumed {
				t.Errorf("%s is %+v, %v, want it consumed", id, a, err)
			}
		}
	}
	t.Logf("%d times kill -9 of a replica: no yes was used twice; %d were used by calls that got no answer", times, lost)
}
