package audit_test

import (
	"testing"

	"github.com/kelpie-authz/kelpie/audit"
)

// A kind is a word, of this version or of a later one: readers print it as it is.
func TestDecodeTakesWordsAsKinds(t *testing.T) {
	t.Parallel()
	for kind, want := range map[string]bool{
		"decision": true, "approval_vote": true, "of_a_later_version": true,
		"": false, "Decision": false, "a b": false, `\u001b]0;owned`: false, `\u202e`: false, `deci\nsion`: false,
	} {
		r, err := audit.DecodeRecord([]byte(`{"time":"2026-06-17T12:00:00Z","kind":"` + kind + `"}`))
		if (err == nil) != want {
			t.Errorf("kind %q: %v, %v", kind, r.Kind, err)
		}
	}
	for _, kind := range append(audit.Kinds(), audit.KindSegment, audit.KindCheckpoint, audit.KindRetention) {
		r := audit.Record{Kind: kind}
		if kind.Note() {
			r.Note = &audit.Note{Checkpoint: &audit.Checkpoint{}}
		}
		if _, err := audit.DecodeRecord(audit.AppendRecord(nil, &r)); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}
