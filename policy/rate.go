package policy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The bounds of counts and spans are those of the limiter, so that a policy
// that loads has limits that can be charged.
const (
	maxCount         = 1_000_000_000
	maxRatePerSecond = 1_000_000
	maxSlots         = 10_000
	minSpan          = time.Second
	maxSpan          = 366 * 24 * time.Hour
)

// parseRate reads "60/minute": a count and the period it is spread over, one
// second, minute, hour or day.
func parseRate(s string) (int64, time.Duration, error) {
	text, unit, err := splitCount(s, "60/minute")
	if err != nil {
		return 0, 0, err
	}
	count, err := parseCount(text)
	if err != nil {
		return 0, 0, err
	}
	var period time.Duration
	switch unit {
	case "second":
		period = time.Second
	case "minute":
		period = time.Minute
	case "hour":
		period = time.Hour
	case "day":
		period = 24 * time.Hour
	case "week", "month":
		return 0, 0, fmt.Errorf("a rate has no unit %s; write second, minute, hour or day, or make it a quota", unit)
	default:
		return 0, 0, fmt.Errorf("unknown unit %s; write second, minute, hour or day", quote(unit))
	}
	if count > maxRatePerSecond*int64(period/time.Second) {
		return 0, 0, fmt.Errorf("more than %d per second; write a lower count", maxRatePerSecond)
	}
	return count, period, nil
}

// parseWindow reads "100/1h": a count and the span in which at most so many
// are admitted, a duration in h, m and s.
func parseWindow(s string) (int64, time.Duration, error) {
	text, length, err := splitCount(s, "100/1h")
	if err != nil {
		return 0, 0, err
	}
	count, err := parseCount(text)
	if err != nil {
		return 0, 0, err
	}
	span, err := parseSpan(length)
	if err != nil {
		return 0, 0, err
	}
	if span < minSpan || span > maxSpan {
		return 0, 0, fmt.Errorf("the span %s is out of range; write 1s to %dh", quote(length), maxSpan/time.Hour)
	}
	return count, span, nil
}

// parseQuota reads "5000/day": a count and the unit of the calendar it holds
// for, from second to month.
func parseQuota(s string) (int64, string, error) {
	text, unit, err := splitCount(s, "5000/day")
	if err != nil {
		return 0, "", err
	}
	count, err := parseCount(text)
	if err != nil {
		return 0, "", err
	}
	switch unit {
	case "second", "minute", "hour", "day", "week", "month":
		return count, unit, nil
	default:
		return 0, "", fmt.Errorf("unknown unit %s; write second, minute, hour, day, week or month", quote(unit))
	}
}

// parseSpan reads a duration as people write it, "15m" or "1h30m". It takes
// what time.ParseDuration takes, without sign and without a bare 0.
func parseSpan(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || s == "" || s[0] == '+' || s[0] == '-' || s == "0" {
		return 0, fmt.Errorf("%s is not a duration; write a number with h, m or s, such as 15m or 1h30m", quote(s))
	}
	return d, nil
}

func splitCount(s, example string) (string, string, error) {
	count, unit, found := strings.Cut(s, "/")
	if !found || count == "" || unit == "" {
		return "", "", fmt.Errorf("%s is not a count per time; write it as %s", quote(s), example)
	}
	return count, unit, nil
}

var errCountRange = errors.New("the count is out of range; write 1 to " + strconv.Itoa(maxCount))

// parseCount reads decimal digits, so that no count can be misread: no sign,
// no leading zero, no exponent.
func parseCount(s string) (int64, error) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, fmt.Errorf("%s is not a count; write digits only, such as 60", quote(s))
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 1 || n > maxCount {
		return 0, errCountRange
	}
	if s[0] == '0' {
		return 0, fmt.Errorf("%s starts with a zero; leave it out", quote(s))
	}
	return n, nil
}

// quoteBytes bounds what a message repeats of a value.
const quoteBytes = 40

// quote shows the start of a value in a message, on one line.
func quote(s string) string {
	if len(s) <= quoteBytes {
		return strconv.Quote(s)
	}
	cut := quoteBytes
	for cut > quoteBytes-4 && s[cut]&0xc0 == 0x80 {
		cut--
	}
	return strconv.Quote(s[:cut]) + "…"
}
