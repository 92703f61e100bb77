//go:build linux

package cli_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/kelpie-authz/kelpie/internal/cli"
	"github.com/kelpie-authz/kelpie/pdp"
)

// terminal opens both ends of a terminal (pty(7)).
func terminal(t *testing.T) (person, command *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatalf("open a terminal, by which a person is asked: %v", err)
	}
	t.Cleanup(func() { _ = person.Close() })
	control := func(request uintptr, value *int32) {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, person.Fd(), request, uintptr(unsafe.Pointer(value))); errno != 0 {
			t.Fatal(errno)
		}
	}
	var locked, number int32
	control(syscall.TIOCSPTLCK, &locked)
	control(syscall.TIOCGPTN, &number)
	command, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = command.Close() })
	return person, command
}

// endOfTransmission is Ctrl-D.
const endOfTransmission = "\x04"

func TestAPersonIsAsked(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, words, typed string
		code               int
		state              pdp.ApprovalState
		stdout, stderr     string
	}{
		{"y", "approve " + oncall + first, "y\n", cli.ExitOK, pdp.ApprovalApproved, "APPROVED: the call goes through once if it comes again by 2026-05-04T12:05:00Z.\n", "Approve this call? [y/N] "},
		{"yes", "deny --reason x " + oncall + first, " YES \n", cli.ExitOK, pdp.ApprovalDenied, "DENIED: the call does not go through.\n", "Deny this call? [y/N] "},
		{"cancel", "cancel " + oncall + first, "y\n", cli.ExitOK, pdp.ApprovalCancelled, "CANCELLED: nobody has to decide it any more.\n", "Take this approval back? [y/N] "},
		{"a no", "approve " + oncall + first, "n\n", cli.ExitError, pdp.ApprovalPending, "", "not confirmed: nothing was decided"},
		{"nothing", "approve " + oncall + first, "\n", cli.ExitError, pdp.ApprovalPending, "", "not confirmed: nothing was decided"},
		{"a half word", "approve " + oncall + first, "ye\n", cli.ExitError, pdp.ApprovalPending, "", "not confirmed: nothing was decided"},
		{"the end", "approve " + oncall + first, endOfTransmission, cli.ExitError, pdp.ApprovalPending, "", "not confirmed: nothing was decided"},
		{"a y without its line", "approve " + oncall + first, "y" + endOfTransmission + endOfTransmission, cli.ExitError, pdp.ApprovalPending, "", "not confirmed: nothing was decided"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d, _, flags := openDesk(t, records())
			person, command := terminal(t)
			if _, err := person.WriteString(tc.typed); err != nil {
				t.Fatal(err)
			}
			o := asked(t, t.Context(), command, tc.words, flags)
			if o.code != tc.code || o.stdout != tc.stdout || !strings.Contains(o.stderr, tc.stderr) {
				t.Errorf("got %+v", o)
			}
			for _, want := range []string{"risk         delete\n", "acting for   ann@example.com\n", "who may: security-lead@example.com", `| parameters.why = "a duplicate of 41"`} {
				if !strings.Contains(o.stderr, want) {
					t.Errorf("what is decided is not shown: no %q in\n%s", want, o.stderr)
				}
			}
			if r, err := d.Get(t.Context(), first); err != nil || r.State != tc.state {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
}

// An interrupt at the question decides nothing, and does not wait for a line.
func TestAnInterruptDecidesNothing(t *testing.T) {
	t.Parallel()
	d, _, flags := openDesk(t, records())
	person, command := terminal(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan outcome, 1)
	question := &watcher{want: "Approve this call?", seen: make(chan struct{})}
	go func() {
		code := cli.Run(ctx, &cli.Env{
			Args: append(args("approvals approve "+oncall+first), flags...), Stdin: command, Stdout: &watcher{}, Stderr: question, Now: noon,
			Lookup: func(string) (string, bool) { return "", false },
		})
		done <- outcome{"", question.String(), code}
	}()
	<-question.seen
	cancel()
	if o := <-done; o.code != cli.ExitError || !strings.Contains(o.stderr, "interrupted: nothing was decided") {
		t.Errorf("got %+v", o)
	}
	// The reader of the line ends with the process; here, with the line.
	if _, err := person.WriteString("y\n"); err != nil {
		t.Fatal(err)
	}
	if r, err := d.Get(t.Context(), first); err != nil || r.State != pdp.ApprovalPending {
		t.Errorf("%+v, %v", r, err)
	}
}
