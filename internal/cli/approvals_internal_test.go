package cli

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	approvalv1 "github.com/kelpie-authz/kelpie/gen/kelpie/approval/v1"
	"github.com/kelpie-authz/kelpie/pdp"
)

func TestVisible(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain é 日 😀": "plain é 日 😀", "a\nb\tc": `a\u000ab\u0009c`, "\x1b[2J\x7f": `\u001b[2J\u007f`,
		"a\u202eb\u2066c": `a\u202eb\u2066c`, "a\u200bb\u200dc\ufeff": `a\u200bb\u200dc\ufeff`, "a\xffb": `a\xffb`,
		"a\u00a0b\u3000c": `a\u00a0b\u3000c`, "x\ufe0f\U000e0041": `x\ufe0f\U000e0041`, "\u115f\u3164\uffa0\u2800": `\u115f\u3164\uffa0\u2800`,
		"\u00ad\u034f\u061c\u180e\u2028\u2029": `\u00ad\u034f\u061c\u180e\u2028\u2029`, "\ue000\ufffe": `\ue000\ufffe`, "a\ufffdb": "a\ufffdb", `a\b`: `a\b`,
	} {
		if got := visible(in); got != want {
			t.Errorf("visible(%q) = %s, want %s", in, got, want)
		}
		raw, err := json.Marshal(strings.ToValidUTF8(in, "\ufffd"))
		if err != nil {
			t.Fatal(err)
		}
		var back string
		shown := visibleJSON(string(raw))
		if err := json.Unmarshal([]byte(shown), &back); err != nil || back != strings.ToValidUTF8(in, "\ufffd") || strings.ContainsFunc(shown, func(r rune) bool { return !pdp.Seen(r) }) {
			t.Errorf("visibleJSON of %q is %s: %v", in, shown, err)
		}
	}
}

func TestFold(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		in   string
		want []string
	}{
		{"", []string{""}},
		{"abcd", []string{"abcd"}},
		{"abcde", []string{"abcd", "e"}},
		{"日本語", []string{"日本", "語"}},
		{"a日本", []string{"a日", "本"}},
		{"a bcd ef", []string{"a ", "bcd ", "ef"}},
		{"ab c defghi", []string{"ab ", "c ", "defg", "hi"}},
		{"      x", []string{"    ", "  x"}},
	} {
		if diff := cmp.Diff(tc.want, fold(tc.in, 4)); diff != "" {
			t.Errorf("fold(%q) (-want +got):\n%s", tc.in, diff)
		}
	}
}

func TestCutAndWord(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"日本語日本語": "日本語日本語", "日本語日本語日": "日本語...", "": ""} {
		if got := cutAt(in, 6); got != want {
			t.Errorf("cutAt(%q) = %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{"a/b": "a/b", "a  by ann": `"a  by ann"`, `a"b`: `"a\"b"`, "": ""} {
		if got := word(in); got != want {
			t.Errorf("word(%q) = %s, want %s", in, got, want)
		}
	}
	if got := whole(strings.Repeat("x", maxValue)); strings.Contains(got, "cut") {
		t.Error("a value that fits is cut")
	}
	long := "A" + strings.Repeat("日", maxValue) + "Z\n"
	want := "A" + strings.Repeat("日", 767) + " ... " + strings.Repeat("日", 254) + `Z\u000a (cut: 3 of 1027 characters are left out before the last 256; --json has all)`
	if got := whole(long); got != want {
		t.Errorf("cut: %s", got)
	}
}

func TestAlphabets(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"data-cleaner": "", "d\u0430ta": "Latin and Cyrillic", "\u0434\u0430": "", "\u03b1a\u0430": "Latin and Cyrillic and Greek", "日本 a": "", "42": "",
	} {
		if got := alphabets(in); got != want {
			t.Errorf("alphabets(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestLeft(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		14*time.Minute + 30*time.Second: "in 14m30s", time.Second: "in 1s", 400 * time.Millisecond: "in 400ms", 0: "now", -time.Hour: "now",
	} {
		if got := left(timestamppb.New(now.Add(d)), now); got != want {
			t.Errorf("left(%v) = %q, want %q", d, got, want)
		}
	}
	if left(nil, now) != "" {
		t.Error("no time has something left")
	}
}

// Each state has a word, a colour and something to say after a vote.
func TestStates(t *testing.T) {
	t.Parallel()
	for number := range approvalv1.ApprovalState_name {
		var out strings.Builder
		p := &printer{w: &out, color: true}
		s := approvalv1.ApprovalState(number)
		p.outcome(&approvalv1.Approval{State: s}, time.Now())
		if !strings.Contains(out.String(), strings.ToUpper(stateWord(s))) || !strings.HasPrefix(out.String(), "\x1b["+stateColor(s)+"m") {
			t.Errorf("%v: %q", s, out.String())
		}
	}
}
