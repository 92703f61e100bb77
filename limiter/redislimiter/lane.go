package redislimiter

import (
	"sync"
	"time"

	"github.com/kelpie-authz/kelpie/limiter"
)

// job is one caller's business with the store: a call to be taken, which may go
// along with others', or a request of its own.
type job struct {
	call *limiter.Call

	own    *parcel
	answer string

	err error
	// queued is when it began to wait.
	queued time.Time
	// wake tells the waiting caller to go on: with the batch that it is to send
	// as the next leader, or nil if its own job is done.
	wake chan []*job
}

// mostTogether bounds a batch, whose first job is answered with its last.
const mostTogether = 256

// lane sends jobs to one server. While few batches are under way a job goes at
// once, in the goroutine of its caller; else it waits, and all that wait go
// together as soon as one of those under way is back. So nothing is delayed by a
// timer, an idle lane adds nothing, and a busy one needs few round trips.
type lane struct {
	// send does the jobs of a batch.
	send func(batch []*job)
	// width is how many batches may be under way at once, length how many jobs
	// may wait, and patience how long one may.
	width, length int
	patience      time.Duration

	mu     sync.Mutex
	busy   int
	queue  []*job
	closed error // set: nothing is sent any more, and this is why
}

// do does one job and returns its error.
func (l *lane) do(j *job) error {
	l.mu.Lock()
	switch {
	case l.closed != nil:
		err := l.closed
		l.mu.Unlock()
		return err
	case l.busy < l.width:
		l.busy++
		l.mu.Unlock()
		l.lead([]*job{j})
		return j.err
	case len(l.queue) >= l.length:
		l.mu.Unlock()
		return errQueue
	}
	j.queued = time.Now()
	l.queue = append(l.queue, j)
	l.mu.Unlock()
	if batch := <-j.wake; batch != nil {
		l.lead(batch)
	}
	return j.err
}

// lead sends a batch of which the first job is the caller's own, and tells the
// others.
func (l *lane) lead(batch []*job) {
	sent := false
	defer func() {
		if !sent {
			// A panic, which goes on in the leader. Nobody may wait for it for ever.
			for _, j := range batch[1:] {
				j.err = errPanic
				j.wake <- nil
			}
			l.handOn()
		}
	}()
	l.send(batch)
	sent = true
	for _, j := range batch[1:] {
		j.wake <- nil
	}
	l.handOn()
}

// handOn lets the first of those that wait lead the next batch.
func (l *lane) handOn() {
	l.mu.Lock()
	l.dropLate()
	if len(l.queue) == 0 {
		l.busy--
		l.mu.Unlock()
		return
	}
	n := min(len(l.queue), mostTogether)
	next := l.queue[:n:n]
	l.queue = l.queue[n:]
	l.mu.Unlock()
	next[0].wake <- next
}

// dropLate ends jobs that have waited for too long, which happens where a server
// is slow and yet answers in time. They are the first in the queue.
func (l *lane) dropLate() {
	if len(l.queue) == 0 || l.patience <= 0 {
		return
	}
	late, limit := 0, time.Now().Add(-l.patience)
	for late < len(l.queue) && l.queue[late].queued.Before(limit) {
		l.queue[late].err = errQueue
		l.queue[late].wake <- nil
		late++
	}
	l.queue = l.queue[late:]
}

// stop makes every job that waits, and each that comes, end with err unsent; nil
// lets jobs go again.
func (l *lane) stop(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = err
	if err == nil {
		return
	}
	for _, j := range l.queue {
		j.err = err
		j.wake <- nil
	}
	l.queue = nil
}
