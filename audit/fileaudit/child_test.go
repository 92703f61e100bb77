package fileaudit_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/audit/fileaudit"
)

// childEnv makes the test binary a process that writes a log: its value is a plan.
const childEnv = "KELPIE_AUDIT_CHILD"

// plan is what a child does.
type plan struct {
	Dir string `json:"dir"`
	// Run names this child's records.
	Run string `json:"run"`
	// Callers append as fast as they can until the child is killed; 0: the
	// child meets a file system without room, and then one that has it again.
	Callers int `json:"callers"`
}

func runChild(text string) {
	var p plan
	err := json.Unmarshal([]byte(text), &p)
	if err == nil {
		if p.Callers > 0 {
			err = appendForEver(p)
		} else {
			err = meetFullDisk(p)
		}
	}
	if err != nil {
		panic(err) // The parent shows it.
	}
}

func event(id string) *audit.Record {
	return &audit.Record{
		Time: time.Now(), Kind: audit.KindDecision, DecisionID: id, Agent: "writer", Action: "update",
		Resource: "leads/42", Decision: "ALLOW", Reason: "ok", Matched: []string{"scopes/leads"}, Risk: "write",
	}
}

// appendForEver tells each record that was acknowledged, in one write.
func appendForEver(p plan) error {
	l, err := fileaudit.Open(fileaudit.Config{Dir: p.Dir, SegmentBytes: 48 << 10, CheckpointEvery: 20 * time.Millisecond})
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, "open")
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 0; ; n++ {
			_ = l.Append(context.Background(), event(fmt.Sprintf("%s-async-%d", p.Run, n)), audit.Async)
			_ = l.Append(context.Background(), event(fmt.Sprintf("%s-paced-%d", p.Run, n)), audit.Sync)
		}
	})
	for c := range p.Callers {
		wg.Go(func() {
			for n := 0; ; n++ {
				id := fmt.Sprintf("%s-%d-%d", p.Run, c, n)
				if err := l.Append(context.Background(), event(id), audit.Sync); err != nil {
					panic(err) // The parent shows it.
				}
				_, _ = os.Stdout.WriteString(id + "\n")
			}
		})
	}
	wg.Wait()
	return nil
}

// meetFullDisk lets no file grow for a while, by the limit of the process.
func meetFullDisk(p plan) error {
	l, err := fileaudit.Open(fileaudit.Config{Dir: p.Dir, RetryEvery: 5 * time.Millisecond, CheckpointEvery: 10 * time.Millisecond})
	if err != nil {
		return err
	}
	tell := func(id string) error {
		err := l.Append(context.Background(), event(id), audit.Sync)
		if err == nil {
			fmt.Fprintln(os.Stdout, id)
		}
		return err
	}
	if err := tell(p.Run + "-before"); err != nil {
		return err
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	tight := limit
	tight.Cur = 1
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &tight); err != nil {
		return err
	}
	for range 50 { // Through several attempts of the log to write again.
		if err := tell(p.Run + "-without-room"); !errors.Is(err, audit.ErrUnavailable) || !errors.Is(err, syscall.EFBIG) {
			return fmt.Errorf("without room: %w, want ErrUnavailable for EFBIG", err)
		}
		if err := l.Append(context.Background(), event("async"), audit.Async); !errors.Is(err, audit.ErrUnavailable) {
			return fmt.Errorf("async without room: %w", err)
		}
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range 20_000 {
		if err = tell(p.Run + "-after"); err == nil {
			return l.Close()
		}
		<-tick.C
	}
	return fmt.Errorf("with room again: %w", err)
}

// child is a running process of a plan.
type child struct {
	cmd    *exec.Cmd
	out    *bufio.Scanner
	stderr *strings.Builder
}

func start(t *testing.T, p plan) *child {
	t.Helper()
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childEnv+"="+string(raw))
	c := &child{cmd: cmd, stderr: &strings.Builder{}}
	cmd.Stderr = c.stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewScanner(out)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return c
}

// lines reads up to n lines, or all until the end if n is below 0.
func (c *child) lines(n int) []string {
	var got []string
	for len(got) != n && c.out.Scan() {
		got = append(got, c.out.Text())
	}
	return got
}

// kill ends it at once and returns what it had told besides.
func (c *child) kill(t *testing.T) []string {
	t.Helper()
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	rest := c.lines(-1)
	var exit *exec.ExitError
	if err := c.cmd.Wait(); !errors.As(err, &exit) || !strings.Contains(exit.String(), "killed") {
		t.Fatalf("the child was not killed but: %v: %s", err, c.stderr)
	}
	return rest
}

func (c *child) wait(t *testing.T) []string {
	t.Helper()
	all := c.lines(-1)
	if err := c.cmd.Wait(); err != nil && !errors.Is(err, io.EOF) {
		t.Fatalf("the child: %v: %s", err, c.stderr)
	}
	return all
}
