package notify

import "time"

// How a delivery is tried again.
const (
	// GiveUpAfter is how long a delivery is tried.
	GiveUpAfter = 24 * time.Hour

	firstWait = time.Second
	longest   = time.Hour
	// mostRefused is how often what the far end refuses for good is tried.
	mostRefused = 10
)

// Backoff is how long to wait after so many tries in vain, of which there is at
// least one: 1 s, 2 s, 4 s and so on up to an hour, times 0.5 to 1.5 by jitter,
// which is from 0 to 1, so that many that failed together do not come again together.
func Backoff(attempts int, jitter float64) time.Duration {
	wait := longest
	if n := max(attempts, 1) - 1; n < 12 { //nolint:mnd // 2 to the 12th is more than an hour of seconds.
		wait = min(firstWait<<n, longest)
	}
	return time.Duration(float64(wait) * (0.5 + min(max(jitter, 0), 1))) //nolint:mnd // As said.
}

// breaker leaves a channel alone that failed several times in a row, for longer
// and longer, so that many waiting deliveries do not all try a far end that is
// down. The zero value lets everything through.
type breaker struct {
	failures int
	span     time.Duration
	until    time.Time
}

const (
	breakAfter   = 5
	firstBreak   = 30 * time.Second
	longestBreak = 5 * time.Minute
)

// open is until when the channel is left alone; zero: it is not.
func (b *breaker) open(now time.Time) time.Time {
	if now.Before(b.until) {
		return b.until
	}
	return time.Time{}
}

func (b *breaker) succeeded() { *b = breaker{} }

// failed counts a failure. After the fifth in a row each one more opens it anew:
// one try is let through at a time.
func (b *breaker) failed(now time.Time) {
	b.failures++
	if b.failures < breakAfter {
		return
	}
	b.span = min(max(b.span*2, firstBreak), longestBreak) //nolint:mnd // Twice as long each time.
	b.until = now.Add(b.span)
}

// pause leaves the channel alone because the far end asked for it.
func (b *breaker) pause(until time.Time) {
	if b.until.Before(until) {
		b.until = until
	}
}
