package app

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/kelpie-authz/kelpie/notify/sqliteoutbox"
	"github.com/kelpie-authz/kelpie/store/sqlitestore"
)

// filesEvery is how soon it is seen that a file is not there any more.
const filesEvery = time.Second

// stateFiles watches that the databases of the state directory stay where they are: one
// that is removed or replaced is written on unseen, and gone after the next start.
type stateFiles struct {
	opened map[string]os.FileInfo
	fault  atomic.Pointer[string]
}

// noteFiles remembers the databases that are open now.
func (a *App) noteFiles() {
	a.files.opened = map[string]os.FileInfo{}
	for name, open := range map[string]bool{
		sqlitestore.File: a.approvals.shared == nil, quotasFile: a.limits.kept != nil, sqliteoutbox.File: a.notices.outbox != nil,
	} {
		if !open {
			continue
		}
		path := filepath.Join(a.cfg.State, name)
		if info, err := os.Stat(path); err == nil {
			a.files.opened[path] = info
		}
	}
}

// check says which file is not the one that is open; "" if all are.
func (f *stateFiles) check() string {
	for path, was := range f.opened {
		if now, err := os.Stat(path); err != nil || !os.SameFile(was, now) {
			return path + " was removed or replaced while it is in use: what is written to it is lost at the next start; put nothing in its place, and restart the server"
		}
	}
	return ""
}

// watchFiles looks at the databases until ctx ends.
func (a *App) watchFiles(ctx context.Context) {
	tick := time.NewTicker(filesEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		text := a.files.check()
		if text == "" {
			a.files.fault.Store(nil)
			continue
		}
		if a.files.fault.Swap(&text) == nil {
			a.log.ErrorContext(ctx, "a database was taken away under the server", slog.String("key", "state"), slog.String("error", text))
		}
	}
}
