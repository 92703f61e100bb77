package app

import (
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// ownProcess fits the process to a server: the garbage collector's target,
// unless GOGC is set; a memory limit taken from the cgroup, unless GOMEMLIMIT
// is set; and life without a reader of the decision log, because a server that
// denies everything and says why is better than none.
func (a *App) ownProcess() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(a.cfg.GCPercent)
	}
	signal.Ignore(syscall.SIGPIPE)
	limit, err := memlimit.Set()
	if err != nil {
		a.log.Info("no memory limit is set", slog.Any("error", err))
		return
	}
	a.log.Debug("memory limit", slog.Int64("bytes", limit))
}
