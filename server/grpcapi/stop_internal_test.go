package grpcapi

import (
	"testing"
	"testing/synctest"
	"time"
)

// A client that does not read its answers does not hold up a drain.
func TestStopDoesNotWaitForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var w streamWorker
		w.mu.Lock()
		before := time.Now()
		w.stop(stopPatience)
		if waited := time.Since(before); waited > stopPatience || !w.stopped.Load() {
			t.Errorf("waited %v, stopped %v", waited, w.stopped.Load())
		}
		w.mu.Unlock()
		before = time.Now()
		w.stop(stopPatience)
		if !time.Now().Equal(before) {
			t.Errorf("waited %v for nobody", time.Since(before))
		}
	})
}
