package policydir

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Watch says when to look at files again.
type Watch struct {
	// Dirs are the directories whose entries matter.
	Dirs []string
	// Poll is how often to look without being told, for network file systems
	// that tell nothing. Zero means 2s.
	Poll time.Duration
	// Quiet is how long the directories must be quiet after a change, so that
	// an editor's or a deployment's several steps are seen as one. Zero means 150ms.
	Quiet time.Duration
	// Changed is called when something may have changed, by one goroutine,
	// never twice at once. It decides by content whether it did.
	Changed func(ctx context.Context)
	// Failed is told when the system's own notices are not to be had; polling
	// goes on. Nil: not told.
	Failed func(error)
}

const (
	defaultPoll  = 2 * time.Second
	defaultQuiet = 150 * time.Millisecond
	// maxQuiet bounds how long a directory that is never quiet is waited for.
	maxQuiet = 10
)

// Run watches until ctx ends. A directory that is removed and made anew is
// watched again from the next poll on. Its parent is watched too, so that a
// directory or a link replaced as a whole is noticed at once.
func (w Watch) Run(ctx context.Context) {
	if w.Poll == 0 {
		w.Poll = defaultPoll
	}
	if w.Quiet == 0 {
		w.Quiet = defaultQuiet
	}
	if w.Failed == nil {
		w.Failed = func(error) {}
	}
	notifier, err := fsnotify.NewWatcher()
	if err != nil {
		w.Failed(err)
		w.loop(ctx, nil, nil, func() {})
		return
	}
	defer func() { _ = notifier.Close() }()
	add := func() {
		for _, dir := range w.Dirs {
			// A directory that is gone is found again by the next poll.
			_ = notifier.Add(dir)
			_ = notifier.Add(filepath.Dir(filepath.Clean(dir)))
		}
	}
	w.loop(ctx, notifier.Events, notifier.Errors, add)
}

func (w Watch) loop(ctx context.Context, events <-chan fsnotify.Event, faults <-chan error, add func()) {
	poll := time.NewTicker(w.Poll)
	defer poll.Stop()
	add()
	for {
		select {
		case <-ctx.Done():
			return
		case err, ok := <-faults:
			if !ok {
				faults = nil
				continue
			}
			// More events than fit: look, instead of knowing.
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				w.Failed(err)
			}
		case event, ok := <-events:
			if !ok {
				events = nil
				continue
			}
			if !w.concerns(event) {
				continue
			}
			if !w.settle(ctx, events) {
				return
			}
		case <-poll.C:
		}
		add()
		w.Changed(ctx)
	}
}

// concerns tells whether an event is of a directory or of something in it:
// what goes on beside it, such as a growing log, must not hold up a reload.
func (w Watch) concerns(event fsnotify.Event) bool {
	name := filepath.Clean(event.Name)
	return slices.ContainsFunc(w.Dirs, func(dir string) bool {
		dir = filepath.Clean(dir)
		return name == dir || filepath.Dir(name) == dir
	})
}

// settle waits until the directories are quiet; false if ctx ended first.
func (w Watch) settle(ctx context.Context, events <-chan fsnotify.Event) bool {
	quiet := time.NewTimer(w.Quiet)
	defer quiet.Stop()
	longest := time.NewTimer(maxQuiet * w.Quiet)
	defer longest.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-quiet.C:
			return true
		case <-longest.C:
			return true
		case event, ok := <-events:
			if !ok {
				return true
			}
			if w.concerns(event) {
				quiet.Reset(w.Quiet)
			}
		}
	}
}
