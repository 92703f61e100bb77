package app_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// Whatever was answered or done before a kill -9 is told afterwards, in order, by a
// server that finds it on its disk.
func serveNotified(t *testing.T, binary string) {
	t.Helper()
	h := newHook(t)
	h.set(true)
	file := filepath.Join(t.TempDir(), "kelpie.yaml")
	testkit.WriteFile(t, file, fmt.Appendf(nil, "webhooks:\n  - {name: tickets, url: %q, secret_files: [%q], loopback: true}\n", h.URL+"/hook", h.secretFile))
	s := &site{
		binary: binary, state: filepath.Join(t.TempDir(), "state"), grpc: testkit.FreeAddr(t), admin: testkit.FreeAddr(t),
		args: []string{"--config", file},
	}
	s.start(t)
	again := func() {
		t.Helper()
		s.Kill(t)
		s.start(t)
	}
	want := map[string][]string{}
	for range 3 {
		s.purge(t, "the first call", exitWaits, "approval_required")
		again()
		id := approvalID.FindString(s.approvals(t, "list"))
		s.approvals(t, "approve", id, "--as", "security-oncall@example.com", "--yes")
		again()
		s.purge(t, "after the yes", exitAllow, "ok_approved")
		again()
		want[id] = []string{"requested", "approved", "consumed"}
	}
	if len(want) != 3 {
		t.Fatalf("approvals %v, want three", want)
	}
	h.set(false)
	for id, events := range want {
		h.told(t, id, events...)
	}
}
