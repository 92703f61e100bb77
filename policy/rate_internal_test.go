package policy

import (
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestParseRate(t *testing.T) {
	t.Parallel()
	good := map[string]struct {
		count  int64
		period time.Duration
	}{
		"1/second": {1, time.Second}, "60/minute": {60, time.Minute}, "5/hour": {5, time.Hour}, "1000000000/day": {1e9, 24 * time.Hour},
		"1000000/second": {1e6, time.Second},
	}
	for text, want := range good {
		if count, period, err := parseRate(text); err != nil || count != want.count || period != want.period {
			t.Errorf("parseRate(%q) = %d, %v, %v; want %v", text, count, period, err, want)
		}
	}
	refuse(t, func(s string) error { _, _, err := parseRate(s); return err },
		"", "60", "60/", "/minute", "60/minutes", "60/Minute", "60 / minute", "60/minute ", "0/minute", "-1/minute", "+1/minute", "060/minute",
		"6e1/minute", "6.0/minute", "60/1m", "60/week", "60/month", "60/minute/hour", "1000000001/day", "99999999999999999999/day", "1000001/second", "٣/minute")
}

func TestParseWindow(t *testing.T) {
	t.Parallel()
	good := map[string]struct {
		count int64
		span  time.Duration
	}{
		"100/1h": {100, time.Hour}, "1/1s": {1, time.Second}, "5/1h30m": {5, 90 * time.Minute}, "5/1.5h": {5, 90 * time.Minute}, "7/8784h": {7, 366 * 24 * time.Hour},
	}
	for text, want := range good {
		if count, span, err := parseWindow(text); err != nil || count != want.count || span != want.span {
			t.Errorf("parseWindow(%q) = %d, %v, %v; want %v", text, count, span, err, want)
		}
	}
	refuse(t, func(s string) error { _, _, err := parseWindow(s); return err },
		"", "100", "100/", "/1h", "100/hour", "100/1d", "100/0s", "100/0", "100/-1h", "100/+1h", "100/999ms", "100/8784h1s", "0/1h", "100/1h ", "100/1")
}

func TestParseQuota(t *testing.T) {
	t.Parallel()
	for _, unit := range []string{"second", "minute", "hour", "day", "week", "month"} {
		if count, got, err := parseQuota("5000/" + unit); err != nil || count != 5000 || got != unit {
			t.Errorf("parseQuota(5000/%s) = %d, %s, %v", unit, count, got, err)
		}
	}
	refuse(t, func(s string) error { _, _, err := parseQuota(s); return err },
		"", "5000", "5000/", "5000/year", "5000/days", "5000/1d", "0/day", "-1/day", "1000000001/month", " 5/day")
}

func refuse(t *testing.T, parse func(string) error, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if parse(text) == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

// FuzzRate asks that what is accepted is a plain count and unit, read as they
// stand, within the limiter's bounds.
func FuzzRate(f *testing.F) {
	for _, seed := range []string{"60/minute", "100/1h", "5000/month", "1/1.5h", "0/day", "1/1ns", "9999999999/second"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		rate, period, rateErr := parseRate(s)
		window, span, windowErr := parseWindow(s)
		quota, unit, quotaErr := parseQuota(s)
		text, rest, _ := strings.Cut(s, "/")
		for _, one := range []struct {
			count int64
			err   error
		}{{rate, rateErr}, {window, windowErr}, {quota, quotaErr}} {
			if one.err == nil && (strconv.FormatInt(one.count, 10) != text || one.count < 1 || one.count > 1e9) {
				t.Fatalf("%q counts %d", s, one.count)
			}
			if one.err != nil && one.count != 0 {
				t.Fatalf("%q is refused and counts %d", s, one.count)
			}
		}
		if rateErr == nil && (quotaErr != nil || rest != unit || float64(rate)/period.Seconds() > 1e6) {
			t.Fatalf("rate %q is %d per %v, as a quota %v", s, rate, period, quotaErr)
		}
		if quotaErr == nil && unit != rest {
			t.Fatalf("quota %q has the unit %q", s, unit)
		}
		if windowErr == nil && (quotaErr == nil || span < time.Second || span > 366*24*time.Hour) {
			t.Fatalf("window %q spans %v", s, span)
		}
	})
}
