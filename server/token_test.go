package server_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kelpie-authz/kelpie/server"
)

func withToken(values ...string) context.Context {
	md := metadata.MD{}
	md.Append("authorization", values...)
	return metadata.NewIncomingContext(context.Background(), md)
}

func TestAdminToken(t *testing.T) {
	t.Parallel()
	state := filepath.Join(t.TempDir(), "state")
	token, err := server.LoadAdminToken(state)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(state, server.AdminTokenFile)
	for file, want := range map[string]os.FileMode{state: 0o700, path: 0o600} {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %v", file, got)
		}
	}
	if entries, _ := os.ReadDir(state); len(entries) != 1 {
		t.Errorf("the state directory holds %v", entries)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	secret := strings.TrimSpace(string(text))
	if len(secret) != 43 {
		t.Errorf("a token of %d characters is not 256 bits", len(secret))
	}
	for name, tc := range map[string]struct {
		ctx  context.Context
		want codes.Code
	}{
		"right":          {withToken("Bearer " + secret), codes.OK},
		"lower case":     {withToken("bearer " + secret), codes.OK},
		"none":           {context.Background(), codes.Unauthenticated},
		"empty":          {withToken(""), codes.Unauthenticated},
		"bearer only":    {withToken("Bearer "), codes.Unauthenticated},
		"wrong":          {withToken("Bearer " + strings.Repeat("A", 43)), codes.Unauthenticated},
		"a part":         {withToken("Bearer " + secret[:42]), codes.Unauthenticated},
		"more":           {withToken("Bearer " + secret + "A"), codes.Unauthenticated},
		"other scheme":   {withToken("Basic " + secret), codes.Unauthenticated},
		"no scheme":      {withToken(secret), codes.Unauthenticated},
		"two, one right": {withToken("Bearer "+secret, "Bearer wrong"), codes.Unauthenticated},
	} {
		if got := status.Code(token.Check(tc.ctx)); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
	if shown := fmt.Sprintf("%v %s", token, token); strings.Contains(shown, secret) {
		t.Errorf("the token prints itself: %s", shown)
	}
	again, err := server.LoadAdminToken(state)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Check(withToken("Bearer " + secret)); err != nil {
		t.Errorf("a restart changed the token: %v", err)
	}
}

func TestAdminTokenRefusesOpenFiles(t *testing.T) {
	t.Parallel()
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660, 0o601} {
		state := filepath.Join(t.TempDir(), "state")
		if _, err := server.LoadAdminToken(state); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(state, server.AdminTokenFile), mode); err != nil {
			t.Fatal(err)
		}
		if _, err := server.LoadAdminToken(state); err == nil || !strings.Contains(err.Error(), "others may read it") {
			t.Errorf("mode %v: %v", mode, err)
		}
	}
	for _, mode := range []os.FileMode{0o770, 0o702, 0o777} {
		state := t.TempDir()
		if err := os.Chmod(state, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := server.LoadAdminToken(state); err == nil || !strings.Contains(err.Error(), "others may write to it") {
			t.Errorf("directory of mode %v: %v", mode, err)
		}
	}
}

func TestAdminTokenRefusesWeakFile(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	if err := os.Chmod(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(state, server.AdminTokenFile), []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := server.LoadAdminToken(state); err == nil {
		t.Error("an empty token was taken")
	}
}

// Servers that start at once on one directory agree on one token.
func TestAdminTokenRace(t *testing.T) {
	t.Parallel()
	state := filepath.Join(t.TempDir(), "state")
	tokens := make([]*server.AdminToken, 8)
	var wg sync.WaitGroup
	for i := range tokens {
		wg.Go(func() {
			var err error
			if tokens[i], err = server.LoadAdminToken(state); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	text, err := os.ReadFile(filepath.Join(state, server.AdminTokenFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range tokens {
		if err := token.Check(withToken("Bearer " + strings.TrimSpace(string(text)))); err != nil {
			t.Error(err)
		}
	}
}

// What somebody else made, or points elsewhere, is not ours to trust.
func TestAdminTokenRefusesForeignFiles(t *testing.T) {
	t.Parallel()
	elsewhere, state := filepath.Join(t.TempDir(), "state"), filepath.Join(t.TempDir(), "state")
	if _, err := server.LoadAdminToken(elsewhere); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(elsewhere, server.AdminTokenFile), filepath.Join(state, server.AdminTokenFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := server.LoadAdminToken(state); err == nil {
		t.Error("a token behind a symbolic link was taken")
	}
	fifo := filepath.Join(t.TempDir(), "state")
	if err := errors.Join(os.Mkdir(fifo, 0o700), syscall.Mkfifo(filepath.Join(fifo, server.AdminTokenFile), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := server.LoadAdminToken(fifo); err == nil {
		t.Error("a pipe was taken for a token")
	}
	if os.Geteuid() != 0 {
		return // Only root can give files away.
	}
	for _, path := range []string{filepath.Join(elsewhere, server.AdminTokenFile), elsewhere} {
		if err := os.Chown(path, 65534, -1); err != nil {
			t.Fatal(err)
		}
		if _, err := server.LoadAdminToken(elsewhere); err == nil || !strings.Contains(err.Error(), "belongs to user 65534") {
			t.Errorf("%s of another user: %v", path, err)
		}
		if err := os.Chown(path, 0, -1); err != nil {
			t.Fatal(err)
		}
	}
}
