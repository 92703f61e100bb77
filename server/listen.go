// Package server holds what every door of Kelpie stands on: listeners, TLS
// with reload, the gRPC server with its bounds and interceptors, shedding,
// health, and the token of the admin listener.
//
// It is not for what is asked there: the adapters in its subpackages translate
// requests, and pdp decides.
//
//	lis, err := server.Listen(ctx, "127.0.0.1:7070")
//	...
//	srv, err := server.NewGRPC(server.GRPCConfig{Logger: log, Registry: reg, MaxInFlight: 4096})
//	...
//	authzv1.RegisterAuthorizationServiceServer(srv, api)
//	err = srv.Serve(lis)
package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// socketMode lets the owner and the group of a unix socket ask.
const socketMode = 0o660

// Listen opens addr: host:port, or unix:///path. A socket file that a dead
// process left behind is removed, one that somebody listens on is an error.
// The file is removed when the listener is closed. It is made with mode 0660.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	path, unix := strings.CutPrefix(addr, "unix://")
	if !unix {
		lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", addr, err)
		}
		return lis, nil
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	// The socket is made with the caller's umask applied to 0777, so it is
	// bound under a name that nobody asks for, narrowed, and only then moved.
	draft := fmt.Sprintf("%s.%d", path, os.Getpid())
	lis, err := (&net.ListenConfig{}).Listen(ctx, "unix", draft)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	ul, ok := lis.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("listen on %s: not a unix listener", addr), lis.Close())
	}
	ul.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(draft, socketMode), os.Rename(draft, path)); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, errors.Join(err, lis.Close(), os.Remove(draft)))
	}
	made, err := os.Lstat(path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, errors.Join(err, lis.Close()))
	}
	return &unixListener{Listener: lis, path: path, made: made}, nil
}

// removeStale removes the socket at path if nobody listens on it.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the socket: %w", err)
	}
	if info.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s exists and is not a socket; remove it or choose another path", path)
	}
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err == nil {
		return errors.Join(fmt.Errorf("somebody listens on %s already; stop them or choose another path", path), conn.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("cannot tell whether somebody listens on %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove the stale socket: %w", err)
	}
	return nil
}

// unixListener removes its socket when it is closed, unless another process
// has put its own there meanwhile.
type unixListener struct {
	net.Listener
	path string
	made os.FileInfo
}

// Addr tells the socket's path, not the name it was bound under.
func (l *unixListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close stops listening and removes the socket.
func (l *unixListener) Close() error {
	err := l.Listener.Close()
	if now, statErr := os.Lstat(l.path); statErr == nil && os.SameFile(now, l.made) {
		err = errors.Join(err, os.Remove(l.path))
	}
	if err != nil {
		return fmt.Errorf("close %s: %w", l.path, err)
	}
	return nil
}

// Local reports whether only this machine can reach the listener: it is a unix
// socket or bound to a loopback address.
func Local(addr net.Addr) bool {
	switch a := addr.(type) {
	case *net.UnixAddr:
		return true
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	default:
		return false
	}
}
