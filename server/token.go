package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// AdminTokenFile is the token's name in the state directory.
const AdminTokenFile = "admin.token"

const (
	stateMode  = 0o700
	tokenMode  = 0o600
	tokenBytes = 32
)

// AdminToken opens the admin listener to whoever can read the state directory.
// It is safe for concurrent use and never prints itself.
type AdminToken struct {
	digest [sha256.Size]byte
}

// String says nothing of the token.
func (*AdminToken) String() string { return "admin token" }

// LoadAdminToken reads the token from state/admin.token and makes both the
// directory (mode 0700) and the token (256 random bits, mode 0600) where they
// are missing. A directory that others may write to, or a token that others
// may read, is refused: what it protects is no longer protected.
func LoadAdminToken(state string) (*AdminToken, error) {
	if err := os.MkdirAll(state, stateMode); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	info, err := os.Stat(state)
	if err != nil {
		return nil, fmt.Errorf("look at the state directory: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return nil, fmt.Errorf("state directory %s has mode %#o: others may write to it; chmod 700 it", state, mode)
	}
	if err := ownedByUs(info, state); err != nil {
		return nil, err
	}
	path := filepath.Join(state, AdminTokenFile)
	text, err := readToken(path)
	if errors.Is(err, os.ErrNotExist) {
		if err := writeToken(state, path); err != nil {
			return nil, err
		}
		text, err = readToken(path)
	}
	if err != nil {
		return nil, err
	}
	return &AdminToken{digest: sha256.Sum256([]byte(text))}, nil
}

func readToken(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", fmt.Errorf("read the admin token: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("read the admin token: %w", err)
	}
	if mode := info.Mode().Perm(); !info.Mode().IsRegular() || mode&0o077 != 0 {
		return "", fmt.Errorf("admin token %s has mode %v: others may read it; remove it, and a new one is made at the next start",
			path, info.Mode())
	}
	if err := ownedByUs(info, path); err != nil {
		return "", err
	}
	data, err := io.ReadAll(io.LimitReader(f, 1024))
	if err != nil {
		return "", fmt.Errorf("read the admin token: %w", err)
	}
	text := strings.TrimSpace(string(data))
	if len(text) < base64.RawURLEncoding.EncodedLen(tokenBytes) {
		return "", fmt.Errorf("admin token %s is too short; remove it, and a new one is made at the next start", path)
	}
	return text, nil
}

// ownedByUs refuses what somebody else made: its owner can read it and change
// its mode at will.
func ownedByUs(info os.FileInfo, path string) error {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && int64(stat.Uid) != int64(os.Geteuid()) {
		return fmt.Errorf("%s belongs to user %d, and the server runs as user %d; remove it, or name another state directory",
			path, stat.Uid, os.Geteuid())
	}
	return nil
}

// writeToken puts a whole token at path or nothing: it is written under a name
// that only this process made, then linked, which fails if path exists. Losing
// that race to another server is no error, since its token is as good.
func writeToken(state, path string) error {
	raw := make([]byte, tokenBytes)
	if _, err := rand.Read(raw); err != nil {
		return fmt.Errorf("make the admin token: %w", err)
	}
	draft := filepath.Join(state, "."+AdminTokenFile+"."+rand.Text())
	f, err := os.OpenFile(draft, os.O_WRONLY|os.O_CREATE|os.O_EXCL, tokenMode)
	if err != nil {
		return fmt.Errorf("write the admin token: %w", err)
	}
	_, err = f.WriteString(base64.RawURLEncoding.EncodeToString(raw) + "\n")
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		if linkErr := os.Link(draft, path); linkErr != nil && !errors.Is(linkErr, os.ErrExist) {
			err = linkErr
		}
	}
	if err = errors.Join(err, os.Remove(draft)); err != nil {
		return fmt.Errorf("write the admin token: %w", err)
	}
	return nil
}

// Check says whether the call carries the token; the error is UNAUTHENTICATED.
func (t *AdminToken) Check(ctx context.Context) error {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) != 1 {
		return status.Error(codes.Unauthenticated,
			"the admin API needs one `authorization: Bearer TOKEN`; the token is in the server's state directory, "+AdminTokenFile)
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	digest := sha256.Sum256([]byte(strings.TrimSpace(token)))
	if subtle.ConstantTimeCompare(digest[:], t.digest[:]) != 1 || !strings.EqualFold(scheme, "bearer") {
		return status.Error(codes.Unauthenticated,
			"this is not the admin token; read it anew from the server's state directory, "+AdminTokenFile)
	}
	return nil
}

// Unary is an interceptor that demands the token of every call.
func (t *AdminToken) Unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := t.Check(ctx); err != nil {
		return nil, err
	}
	return next(ctx, req)
}

// Stream is an interceptor that demands the token of every stream.
func (t *AdminToken) Stream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := t.Check(stream.Context()); err != nil {
		return err
	}
	return next(srv, stream)
}
