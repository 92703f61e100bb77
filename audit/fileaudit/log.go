package fileaudit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/kelpie-authz/kelpie/audit"
)

// ErrInUse says that another process writes the directory.
var ErrInUse = errors.New("the audit is in use")

// Stats are counters since Open.
type Stats struct {
	// Sync and Async are the records taken, Refused those that were not, for
	// want of room or because the log could not be written.
	Sync, Async, Refused uint64
	// Stalled is how often a caller waited for room.
	Stalled uint64
	// Bytes is what was written, Writes and Fsyncs by how many of them.
	Bytes, Writes, Fsyncs uint64
	// Failures is how often writing began to fail, Segments how many were begun.
	Failures, Segments uint64
	// Removed is how many segments retention removed.
	Removed uint64
}

// Recovery is what Open found of the log before.
type Recovery struct {
	// Ended is how the last segment ended ([audit.EndedClosed], ...); "": there was none.
	Ended string
	// CutBytes is what a crash had left behind the last whole line.
	CutBytes int64
	// Adopted is how many whole lines stood behind the last one that was signed, and
	// were taken over. Who could write the files could have made them.
	Adopted uint64
	// LostFrom and LostTo are the numbers of lines that the signed head knew and
	// that are gone; zero: none. Somebody should look at that: see [Verify].
	LostFrom, LostTo uint64
}

// Log is an [audit.Sink] in a directory, and an [audit.Reader] of it. It is safe
// for concurrent use; its zero value is not usable.
type Log struct {
	*Reader

	q       *queue
	w       *writer
	archive *archiver
	keeper  *keeper
	found   Recovery
	lost    uint64

	headMu  sync.Mutex
	headErr error

	stop, done       chan struct{}
	unwatch, watched chan struct{}
	closing          sync.Once
	closeErr         error
}

var (
	_ audit.Sink   = (*Log)(nil)
	_ audit.Reader = (*Log)(nil)
)

// Open makes this process the writer of a directory, and signs what it holds
// before it returns. What a crash left half written is cut off, and the new
// segment says so. An error tells what a person has to do.
func Open(cfg Config) (*Log, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, dirMode); err != nil {
		return nil, fmt.Errorf("the audit's directory: %w", err)
	}
	held, err := hold(cfg.Dir)
	if err != nil {
		return nil, err
	}
	l, err := open(&cfg, held)
	if err != nil {
		return nil, errors.Join(err, held.close())
	}
	go l.loop()
	go l.watch()
	l.archive.start()
	l.keeper.start()
	return l, nil
}

func open(cfg *Config, held *holder) (*Log, error) {
	l := &Log{
		Reader: NewReader(cfg.Dir), q: newQueue(cfg),
		stop: make(chan struct{}), done: make(chan struct{}), unwatch: make(chan struct{}), watched: make(chan struct{}),
	}
	key, made, err := openKey(cfg.KeyFile)
	if err != nil {
		return nil, err
	}
	l.keeper = newKeeper(cfg)
	w := &writer{
		cfg: cfg, key: key, q: l.q, headFailed: l.setHeadErr, lock: held,
		reserve: reserve{path: filepath.Join(cfg.Dir, reserveName), create: cfg.reserve},
	}
	if err := w.recover(&l.found, made); err != nil {
		return nil, err
	}
	l.lost, w.before.Lost = held.lost, held.lost
	if err := publish(filepath.Join(cfg.Dir, publicName), w.public()); err != nil {
		return nil, err
	}
	if err := w.openSegment(); err != nil {
		return nil, fmt.Errorf("begin a segment of the audit: %w", err)
	}
	held.pledge(0) // The segment says it.
	if err := w.checkpoint(audit.PurposeHead); err != nil {
		return nil, errors.Join(fmt.Errorf("sign the audit: %w", err), w.seg.Close())
	}
	if err := l.headFault(); err != nil {
		return nil, errors.Join(err, w.seg.Close())
	}
	if err := w.reserve.keep(); err != nil {
		// It is tried again; that nothing is allowed until then is better than no answer.
		w.broken = true
		w.q.setFault(causeWrite, unavailable(err))
		cfg.Failed(err)
	}
	l.w = w
	l.archive = newArchiver(w)
	w.closed = l.archive.kick
	return l, nil
}

// Found is what Open found.
func (l *Log) Found() Recovery { return l.found }

// Lost is how many records the process before had taken without waiting and could
// not write. The log tells it where it goes on.
func (l *Log) Lost() uint64 { return l.lost }

// Append implements [audit.Sink]. Records that wait for the same fsync share it.
// It ends by itself where the disk does not answer: see [Config.Stall].
func (l *Log) Append(ctx context.Context, r *audit.Record, d audit.Durability) error {
	if err := audit.Check(r); err != nil {
		return err
	}
	buf, _ := bodies.Get().(*[]byte)
	defer bodies.Put(buf)
	*buf = audit.AppendRecord((*buf)[:0], r)
	if err := audit.CheckSize(*buf); err != nil {
		return err
	}
	b, err := l.q.add(ctx, *buf, entry{at: r.Time, waited: d != audit.Async})
	if err != nil || d == audit.Async {
		return err
	}
	over := ctx.Done()
	if over == nil {
		<-b.done // Cheaper than a select, and every caller of a batch comes through here.
		return b.err
	}
	select {
	case <-b.done:
		return b.err
	case <-over:
		return unavailable(ctx.Err())
	}
}

// bodies are buffers for records on their way to the queue.
//
//nolint:gochecknoglobals // Memory that any log can use again.
var bodies = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// Err says why records are refused, or why what is written cannot be signed;
// nil: all is well.
func (l *Log) Err() error {
	if err := l.q.err(); err != nil {
		return err
	}
	return l.headFault()
}

func (l *Log) headFault() error {
	l.headMu.Lock()
	defer l.headMu.Unlock()
	return l.headErr
}

func (l *Log) setHeadErr(err error) {
	l.headMu.Lock()
	defer l.headMu.Unlock()
	l.headErr = err
}

// Stats returns the counters.
func (l *Log) Stats() Stats {
	l.q.mu.Lock()
	defer l.q.mu.Unlock()
	return l.q.stats
}

// Close writes and signs what was taken, and gives the directory to the next
// process. The error says that the end is not what it should be. A disk that does
// not answer is not waited for longer than [Config.CloseWithin]; the directory is
// kept until it does, or the process ends.
func (l *Log) Close() error {
	l.closing.Do(func() {
		l.q.close()
		ended := make(chan error, 1)
		go func() {
			l.archive.close()
			close(l.stop)
			<-l.done
			err := l.w.close()
			l.keeper.close()
			ended <- errors.Join(err, l.w.lock.close())
		}()
		timer := time.NewTimer(l.w.cfg.CloseWithin)
		defer timer.Stop()
		select {
		case l.closeErr = <-ended:
		case <-timer.C:
			l.closeErr = fmt.Errorf("close the audit: for %v %w", l.w.cfg.CloseWithin, errStalled)
			if lost := l.q.unsafe(); lost > 0 {
				l.closeErr = fmt.Errorf("%w; %w: up to %d of them, unless it answers before the process ends", l.closeErr, errLost, lost)
			}
		}
		close(l.unwatch)
		<-l.watched
		l.q.abandon(unavailable(errStalled)) // Those who still wait for such a disk; else there are none.
	})
	return l.closeErr
}

// watch sees to it that nobody waits for a disk that does not answer. It never
// asks the disk itself.
func (l *Log) watch() {
	defer close(l.watched)
	tick := time.NewTicker(l.w.cfg.watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-l.unwatch:
			return
		case <-tick.C:
			if err := l.q.look(); err != nil {
				l.w.cfg.Failed(err)
			}
		}
	}
}

// loop is where all writing is done, by one goroutine: what comes while it is
// busy with the disk is the next batch.
func (l *Log) loop() {
	defer close(l.done)
	// A little earlier than is promised, since the disk takes its time.
	tick := time.NewTicker(max(1, l.w.cfg.CheckpointEvery*8/10))
	defer tick.Stop()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	broken := false
	if l.w.broken {
		broken = true
		timer.Reset(l.w.cfg.RetryEvery)
	}
	for {
		select {
		case <-l.stop:
			return
		case <-l.q.lazy:
			if !broken {
				timer.Reset(l.w.cfg.FlushEvery)
			}
			continue
		case <-l.q.now:
			l.busy(l.w.flush)
		case <-tick.C:
			l.busy(l.w.tick)
		case <-timer.C:
			if broken = false; l.w.broken {
				l.busy(l.w.retry)
			} else {
				l.busy(l.w.flush)
			}
		}
		if l.w.broken && !broken {
			broken = true
			timer.Reset(l.w.cfg.RetryEvery)
		}
	}
}

// busy does something that asks the disk, and lets it be seen that it does.
func (l *Log) busy(do func()) {
	l.q.busy.Store(l.q.looks.Load() + 1)
	do()
	l.q.busy.Store(0)
}
