package testkit

import (
	"testing"
	"testing/fstest"
)

func TestPortsFor(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, text string
		low, high  int
	}{
		{"not said", "", 20768, 32768},
		{"Linux", "32768\t60999\n", 20768, 32768},
		{"wide", "16000 65535", 4000, 16000},
		{"low", "1024 40000", 40001, 65536},
		{"rather wide", "9999 65000", 2000, 9999},
		{"everything", "1024 65535", 2000, 65536},
		{"not numbers", "a lot", 20768, 32768},
		{"the wrong way round", "60999 32768", 20768, 32768},
	} {
		files := fstest.MapFS{}
		if tt.text != "" {
			files["ip_local_port_range"] = &fstest.MapFile{Data: []byte(tt.text)}
		}
		if low, high := portsFor(files); low != tt.low || high != tt.high {
			t.Errorf("%s: from %d to %d, want %d to %d", tt.name, low, high, tt.low, tt.high)
		}
	}
}

// A lock is of the open file, so that a second one in this process is refused as that of another process is.
func TestPortIsGivenOnce(t *testing.T) {
	t.Parallel()
	const port = 1 // never drawn
	lock, err := lockPort(port)
	if err != nil || lock == nil {
		t.Fatalf("got %v, %v", lock, err)
	}
	if again, err := lockPort(port); again != nil || err != nil {
		t.Errorf("a port that is taken: got %v, %v", again, err)
	}
	lock.Close()
	again, err := lockPort(port)
	if err != nil || again == nil {
		t.Fatalf("a port that was given back: got %v, %v", again, err)
	}
	again.Close()
}
