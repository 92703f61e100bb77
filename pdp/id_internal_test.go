package pdp

import (
	"regexp"
	"testing"
	"time"
)

// TestUUIDv7 pins the layout of RFC 9562: the milliseconds, the version with
// the fraction of the millisecond, the variant, and ids in the order of time.
func TestUUIDv7(t *testing.T) {
	t.Parallel()
	layout := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	// The instant of the RFC's own example, appendix A.6: 0x017F22E279B0 ms.
	start := time.UnixMilli(0x017F22E279B0)
	last := ""
	for _, tt := range []struct {
		after  time.Duration
		prefix string
	}{
		{0, "017f22e2-79b0-7000-"},
		{244, "017f22e2-79b0-7000-"},
		{245, "017f22e2-79b0-7001-"},
		{time.Millisecond / 2, "017f22e2-79b0-7800-"},
		{time.Millisecond - 1, "017f22e2-79b0-7fff-"},
		{time.Millisecond, "017f22e2-79b1-7000-"},
	} {
		id := newUUIDv7(start.Add(tt.after))
		if id[:19] != tt.prefix || !layout.MatchString(id) {
			t.Errorf("after %v: %s, want %s and the layout of version 7", tt.after, id, tt.prefix)
		}
		if id[:18] < last {
			t.Errorf("after %v: %s comes before %s", tt.after, id, last)
		}
		last = id[:18]
	}
	seen := map[string]bool{}
	for range 10_000 {
		id := newUUIDv7(start)
		if seen[id] {
			t.Fatalf("%s twice", id)
		}
		seen[id] = true
	}
}
