package policydir

import (
	"testing"

	"github.com/fsnotify/fsnotify"
)

// What goes on beside the directory holds up no reload.
func TestConcerns(t *testing.T) {
	t.Parallel()
	w := Watch{Dirs: []string{"/etc/kelpie/policy/", "tls"}}
	for name, want := range map[string]bool{
		"/etc/kelpie/policy":            true,
		"/etc/kelpie/policy/a.yaml":     true,
		"/etc/kelpie/policy/..data":     true,
		"./tls/server.pem":              true,
		"tls":                           true,
		"/etc/kelpie/server.log":        false,
		"/etc/kelpie/policy2/a.yaml":    false,
		"/etc/kelpie/policy/sub/a.yaml": false,
		"server.log":                    false,
	} {
		if got := w.concerns(fsnotify.Event{Name: name}); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}
