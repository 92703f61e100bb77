package fileaudit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/kelpie-authz/kelpie/audit"
)

// tidyEvery is how often the age of segments is looked at.
const tidyEvery = time.Minute

// archiver compresses closed segments and removes old ones, beside the writer.
type archiver struct {
	w    *writer
	cfg  *Config
	work chan struct{}
	stop context.CancelFunc
	done chan struct{}
}

func newArchiver(w *writer) *archiver {
	return &archiver{w: w, cfg: w.cfg, work: make(chan struct{}, 1), done: make(chan struct{})}
}

// kick tells that a segment was closed.
func (a *archiver) kick() { signal(a.work) }

func (a *archiver) start() {
	ctx, stop := context.WithCancel(context.Background())
	a.stop = stop
	a.kick()
	go a.loop(ctx)
}

func (a *archiver) close() {
	a.stop()
	<-a.done
}

func (a *archiver) loop(ctx context.Context) {
	defer close(a.done)
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.work:
		case <-tick.C:
		}
		if err := a.pass(ctx); err != nil && ctx.Err() == nil {
			a.cfg.Failed(err)
		}
	}
}

// pass compresses what can be, and then removes what is too old or too much.
func (a *archiver) pass(ctx context.Context) error {
	segments, err := list(a.cfg.Dir)
	if err != nil {
		return err
	}
	if segments, err = a.leftOver(segments); err != nil {
		return err
	}
	open := a.w.closedBelow.Load()
	for i, s := range segments {
		if s.gz || s.number >= open {
			continue
		}
		size, err := compress(ctx, s.path)
		if err != nil {
			return fmt.Errorf("compress %s: %w", s.name(), err)
		}
		segments[i].gz, segments[i].path, segments[i].size = true, s.path+gzSuffix, size
	}
	return a.retain(ctx, segments, open)
}

// leftOver removes what a crash kept retention from removing.
func (a *archiver) leftOver(segments []segment) ([]segment, error) {
	start, err := readCheckpoint(filepath.Join(a.cfg.Dir, startName))
	if err != nil || start == nil || start.Purpose != audit.PurposeStart || !isSigned(start, a.w.public()) {
		return segments, nil //nolint:nilerr // Whoever verifies the log is told.
	}
	for len(segments) > 0 && segments[0].number < start.Segment {
		if err := os.Remove(segments[0].path); err != nil {
			return nil, fmt.Errorf("remove old segments of the audit: %w", err)
		}
		segments = segments[1:]
	}
	return segments, nil
}

// compress replaces a segment by its compressed form; there is always at least
// one of them whole.
func compress(ctx context.Context, path string) (int64, error) {
	in, err := os.Open(path)
	if err != nil {
		return 0, err //nolint:wrapcheck // It names the operation and the file.
	}
	defer in.Close() //nolint:errcheck // It was only read.
	tmp := path + gzSuffix + tmpSuffix
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, fileMode)
	if err != nil {
		return 0, err //nolint:wrapcheck // It names the operation and the file.
	}
	z, err := gzip.NewWriterLevel(out, gzip.BestSpeed) // Decisions need the processor more than the disk needs the room.
	if err != nil {
		return 0, errors.Join(err, out.Close(), removeIfThere(tmp))
	}
	_, err = io.Copy(z, &until{ctx, in})
	if err = errors.Join(err, z.Close()); err == nil {
		err = out.Sync()
	}
	var size int64
	if info, statErr := out.Stat(); statErr == nil {
		size = info.Size()
	}
	if err = errors.Join(err, out.Close()); err == nil {
		err = os.Rename(tmp, path+gzSuffix)
	}
	if err != nil {
		return 0, errors.Join(err, removeIfThere(tmp))
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return 0, err
	}
	return size, removeIfThere(path)
}

// until is a reader that ends by a context.
type until struct {
	ctx context.Context //nolint:containedctx // It lives as long as one call.
	in  io.Reader
}

// Read implements io.Reader.
func (u *until) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.in.Read(p) //nolint:wrapcheck // io.EOF has to stay what it is.
}

// retain removes the oldest closed segments. What says that it was meant is
// signed and on the disk before the first one goes.
func (a *archiver) retain(ctx context.Context, segments []segment, open uint64) error {
	n, first, err := a.tooMany(segments, open)
	if err != nil || n == 0 {
		return err
	}
	last := first.Seq - 1
	start := audit.Checkpoint{
		Purpose: audit.PurposeStart, Chain: first.Note.Chain, Segment: first.Note.Segment,
		Seq: last, Hash: first.Note.Prev, Time: a.w.now(),
	}
	start.Sign(a.w.key)
	if err := writeCheckpoint(filepath.Join(a.cfg.Dir, startName), &start); err != nil {
		return fmt.Errorf("remove old segments of the audit: %w", err)
	}
	note := audit.Note{Chain: start.Chain, Segment: start.Segment, RemovedSeq: last}
	for _, s := range segments[:n] {
		if err := os.Remove(s.path); err != nil {
			return fmt.Errorf("remove old segments of the audit: %w", err)
		}
		note.Removed++
		note.RemovedBytes += s.size
	}
	a.w.q.count(func(s *Stats) { s.Removed += uint64(n) }) //nolint:gosec // A length.
	body := audit.AppendRecord(nil, &audit.Record{Time: start.Time, Kind: audit.KindRetention, Note: &note})
	if _, err := a.w.q.add(ctx, body, entry{at: start.Time, note: true}); err != nil {
		return fmt.Errorf("note the removal of old segments of the audit: %w", err)
	}
	return syncDir(a.cfg.Dir)
}

// tooMany returns how many segments have to go, and the first line of the
// oldest one that stays.
func (a *archiver) tooMany(segments []segment, open uint64) (int, header, error) {
	var total int64
	for _, s := range segments {
		total += s.size
	}
	n, stays := 0, header{}
	for ; n+1 < len(segments) && segments[n].number < open; n++ {
		next, err := readHeader(a.cfg.Dir, segments[n+1].number)
		if err != nil || !next.there {
			return n, stays, err
		}
		newest := next.Note.PrevTo
		if newest.IsZero() {
			newest = next.Time
		}
		old := a.cfg.KeepAge > 0 && a.w.now().Sub(newest) > a.cfg.KeepAge
		if !old && (a.cfg.KeepBytes == 0 || total <= a.cfg.KeepBytes) {
			break
		}
		total -= segments[n].size
		stays = next
	}
	return n, stays, nil
}
