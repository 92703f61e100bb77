package app

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/KimMachineGun/automemlimit/memlimit"

	"github.com/kelpie-authz/kelpie/internal/config"
)

// Serve is New and Run for a whole process: SIGTERM or SIGINT drains, a second
// one ends the drain at once, SIGHUP reloads. It sets the garbage collector's
// target, unless GOGC is set, and a memory limit taken from the cgroup, unless
// GOMEMLIMIT is set. ready, if not nil, is called once it serves.
func Serve(ctx context.Context, cfg *config.Config, deps Deps, ready func(*App)) error {
	if os.Getenv("GOGC") == "" && cfg.GCPercent > 0 {
		debug.SetGCPercent(cfg.GCPercent)
	}
	// A reader of the decision log that goes away must not end the process:
	// without the log no call is allowed, and the denials say why.
	signal.Ignore(syscall.SIGPIPE)
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)

	a, err := New(ctx, cfg, deps)
	if err != nil {
		return err
	}
	if _, err := memlimit.Set(); err != nil {
		a.log.Info("no memory limit is set", slog.Any("error", fmt.Errorf("read the cgroup: %w", err)))
	}
	ctx, drain := context.WithCancel(ctx)
	defer drain()
	ended := make(chan struct{})
	defer close(ended)
	go a.obey(ctx, signals, ended, drain)
	if ready != nil {
		ready(a)
	}
	return a.Run(ctx)
}

// obey does what signals ask for until ended is closed.
func (a *App) obey(ctx context.Context, signals <-chan os.Signal, ended <-chan struct{}, drain func()) {
	for {
		select {
		case <-ended:
			return
		case sig := <-signals:
			switch {
			case sig == syscall.SIGHUP:
				_ = a.Reload(ctx) // It logs and keeps its faults.
			case ctx.Err() == nil:
				drain()
			default:
				a.Abort()
			}
		}
	}
}
