package fileaudit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
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

	// sizes are of closed segments that were verified.
	sizes map[uint64]surveyed

	mu    sync.Mutex
	worry error
}

func newArchiver(w *writer) *archiver {
	return &archiver{
		w: w, cfg: w.cfg, work: make(chan struct{}, 1), done: make(chan struct{}),
		sizes: map[uint64]surveyed{},
	}
}

// Worry says why closed segments are not compressed or removed as they should be;
// nil: they are. Records are kept all the same, so it is no [Log.Err].
func (l *Log) Worry() error {
	l.archive.mu.Lock()
	defer l.archive.mu.Unlock()
	return l.archive.worry
}

func (a *archiver) setWorry(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.worry = err
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
		err := a.pass(ctx)
		if ctx.Err() != nil {
			return
		}
		a.setWorry(err)
		if err != nil {
			a.cfg.Failed(err)
		}
	}
}

// pass compresses what can be, and then removes what is too old or too much. What
// cannot be compressed does not keep retention from making room.
func (a *archiver) pass(ctx context.Context) error {
	segments, err := list(a.cfg.Dir)
	if err != nil {
		return err
	}
	segments, failed := a.leftOver(ctx, segments)
	tampered := failed != nil
	open := a.w.closedBelow.Load()
	for i, s := range segments {
		if s.gz || s.number >= open {
			continue
		}
		size, err := a.pack(ctx, &s)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("compress %s: %w", s.name(), err))
			continue
		}
		segments[i].gz, segments[i].path, segments[i].size = true, s.path+gzSuffix, size
	}
	if tampered {
		return failed
	}
	return errors.Join(failed, a.retain(ctx, segments, open))
}

// leftOver removes what a crash kept retention from removing, and returns the rest.
func (a *archiver) leftOver(ctx context.Context, segments []segment) ([]segment, error) {
	start, err := a.started()
	if err != nil || start == nil {
		return segments, nil //nolint:nilerr // Retention tells it, when it has something to remove.
	}
	n := 0
	for n < len(segments) && segments[n].number < start.Segment {
		n++
	}
	if n == 0 {
		return segments, nil
	}
	if n == len(segments) || segments[n].number != start.Segment {
		return segments, fmt.Errorf("%w: %s says that all before segment %d was removed, and that segment is not there", errTampered, startName, start.Segment)
	}
	first, err := readHeader(a.cfg.Dir, start.Segment)
	if err != nil || !first.there || first.Seq != start.Seq+1 || first.Note.Prev != start.Hash || first.Note.Segment != start.Segment {
		return segments, errors.Join(err, fmt.Errorf("%w: the first line of %s is not the one that %s tells of", errTampered, segments[n].name(), startName))
	}
	return segments[n:], a.remove(ctx, segments[:n], start)
}

// started is what the log says, signed, of where it starts now; nil: it was not removed from.
func (a *archiver) started() (*audit.Checkpoint, error) {
	start, err := readCheckpoint(filepath.Join(a.cfg.Dir, startName))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", startName, err)
	}
	if start != nil && (start.Purpose != audit.PurposeStart || start.Chain != a.w.chain || !isSigned(start, a.w.public())) {
		return nil, fmt.Errorf("%s is not what this log signed", startName)
	}
	return start, nil
}

// pack compresses a segment, unless that was done and it is there twice.
func (a *archiver) pack(ctx context.Context, s *segment) (int64, error) {
	if err := unite(a.cfg.Dir, s.number, a.w.public()); err != nil {
		return 0, err
	}
	path := segmentPath(a.cfg.Dir, s.number)
	if info, err := os.Stat(path + gzSuffix); err == nil {
		return info.Size(), nil
	}
	return compress(ctx, path)
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

// errTampered says why retention removes nothing. It signs that a removal was meant,
// so that somebody who cannot sign must not be able to have it remove something.
var errTampered = errors.New("retention of the audit removes nothing, since what is there is not what was written (`kelpie audit verify` tells more)")

// retain removes the oldest closed segments. What says that it was meant is
// signed and on the disk before the first one goes.
func (a *archiver) retain(ctx context.Context, segments []segment, open uint64) error {
	closed := 0
	for closed < len(segments)-1 && segments[closed].number < open {
		closed++
	}
	if closed == 0 || (a.cfg.KeepAge == 0 && a.cfg.KeepBytes == 0) {
		return nil
	}
	segments = segments[:closed+1] // What can go, and one that stays.
	if err := a.measure(ctx, segments); err != nil {
		return err
	}
	// What the files say decides whether it is worth a look, and nothing more.
	n := a.due(segments, func(i int) *audit.Line {
		h, err := readHeader(a.cfg.Dir, segments[i].number)
		if err != nil || !h.there {
			return nil
		}
		return &h.Line
	})
	if n == 0 {
		return nil
	}
	found, err := a.prove(ctx, segments[:n+1], nil, &survey{until: n})
	if err != nil {
		return err
	}
	n = a.due(segments, func(i int) *audit.Line {
		if i >= len(found) || found[i].first.Note == nil {
			return nil
		}
		return &found[i].first
	})
	if n == 0 {
		return nil
	}
	stays := &found[n].first
	start := audit.Checkpoint{
		Purpose: audit.PurposeStart, Chain: a.w.chain, Segment: segments[n].number,
		Seq: stays.Seq - 1, Hash: stays.Note.Prev, Time: a.w.now(),
	}
	start.Sign(a.w.key)
	if err := writeCheckpoint(filepath.Join(a.cfg.Dir, startName), &start); err != nil {
		return fmt.Errorf("remove old segments of the audit: %w", err)
	}
	return a.remove(ctx, segments[:n], &start)
}

// remove removes segments that start says were meant to go, and notes it in the log.
func (a *archiver) remove(ctx context.Context, segments []segment, start *audit.Checkpoint) error {
	now := a.w.now()
	note := audit.Note{Chain: start.Chain, Segment: start.Segment, RemovedSeq: start.Seq}
	for _, s := range segments {
		if err := os.Remove(s.path); err != nil {
			return fmt.Errorf("remove old segments of the audit: %w", err)
		}
		delete(a.sizes, s.number)
		note.Removed++
		note.RemovedBytes += s.size
		a.w.q.count(func(s *Stats) { s.Removed++ })
	}
	body := audit.AppendRecord(nil, &audit.Record{Time: now, Kind: audit.KindRetention, Note: &note})
	if _, err := a.w.q.add(ctx, body, entry{at: now, note: true}); err != nil {
		return fmt.Errorf("note the removal of old segments of the audit: %w", err)
	}
	return syncDir(a.cfg.Dir)
}

// due returns how many of the oldest segments have to go; the last one given stays.
// first tells the first line of a segment; nil: nobody knows it, and the segment goes
// with the one before.
func (a *archiver) due(segments []segment, first func(i int) *audit.Line) int {
	total := a.total(segments[:len(segments)-1])
	n := 0
	for i := 1; i < len(segments); i++ {
		next := first(i)
		if next == nil {
			continue
		}
		newest := next.Note.PrevTo
		if newest.IsZero() {
			newest = next.Time
		}
		old := a.cfg.KeepAge > 0 && a.w.now().Sub(newest) > a.cfg.KeepAge
		if !old && (a.cfg.KeepBytes == 0 || total <= a.cfg.KeepBytes) {
			break
		}
		total -= a.total(segments[n:i])
		n = i
	}
	return n
}

// size is what was written of a segment; 0: nobody knows it for certain.
func (a *archiver) size(s segment) int64 {
	known := a.sizes[s.number]
	known.gz = s.gz
	return known.onDisk()
}

func (a *archiver) total(segments []segment) int64 {
	var sum int64
	for _, s := range segments {
		sum += a.size(s)
	}
	return sum
}

// measure makes the sizes of closed segments known where they seem to be too much
// together. All that was there before this process is read for that, once.
func (a *archiver) measure(ctx context.Context, segments []segment) error {
	closed := segments[:len(segments)-1]
	var sum int64
	known := 0
	for i, s := range closed {
		sum += s.size
		m, is := a.sizes[s.number]
		if is && m.gz == s.gz && m.size != s.size {
			return fmt.Errorf("%w: %s has %d bytes, and had %d when it was verified", errTampered, s.name(), s.size, m.size)
		}
		if is && known == i {
			known++
		}
	}
	if a.cfg.KeepBytes == 0 || sum <= a.cfg.KeepBytes || known == len(closed) {
		return nil
	}
	var from *surveyed
	if known > 0 {
		known-- // Where it ends, is where the next one begins.
		m := a.sizes[closed[known].number]
		from = &m
	}
	found, err := a.prove(ctx, segments[known:], from, &survey{until: len(closed) - known, measure: true})
	if err != nil {
		return err
	}
	for i := range len(found) - 1 { // The last one goes on.
		a.sizes[found[i].number] = found[i]
	}
	return nil
}

// prove verifies segments from the first one on, which begins where the log does, or
// as from says. It returns those that have a signature behind them, and the one where
// that stands. A fault that the log tells of itself is none here.
func (a *archiver) prove(ctx context.Context, segments []segment, from *surveyed, s *survey) ([]surveyed, error) {
	v := &verifier{
		dir: a.cfg.Dir, key: a.w.public(), survey: s,
		head: &audit.Checkpoint{Purpose: audit.PurposeHead, Chain: a.w.chain},
	}
	start, err := a.started()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errTampered, err)
	}
	v.start = start
	v.begin()
	if from != nil {
		v.at, v.number = from.from, from.number-1
	}
	if err := v.walk(ctx, segments); err != nil {
		return nil, err
	}
	for _, f := range v.out.Faults() {
		if f.Kind != audit.FaultLost {
			return nil, fmt.Errorf("%w: %s", errTampered, f.String())
		}
	}
	return s.found[:min(s.proved+1, len(s.found))], nil
}
