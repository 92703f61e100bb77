package testkit_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// telling keeps what a test would have failed of.
type telling struct {
	testing.TB

	said []string
}

func (t *telling) Errorf(format string, args ...any) {
	t.said = append(t.said, fmt.Sprintf(format, args...))
}
func (t *telling) Error(args ...any) { t.said = append(t.said, fmt.Sprint(args...)) }

func TestSecretsAreFound(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write([]byte("in a segment: " + testkit.Secret)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	testkit.WriteFile(t, filepath.Join(dir, "packed.gz"), packed.Bytes())
	testkit.WriteFile(t, filepath.Join(dir, "plain"), []byte("x"+testkit.Secret+"x"))
	testkit.WriteFile(t, filepath.Join(dir, "other"), []byte("a token of this run"))
	testkit.WriteFile(t, filepath.Join(dir, "key"), []byte(testkit.Secret))
	testkit.WriteFile(t, filepath.Join(dir, "clean"), []byte("nothing"))
	all := &telling{TB: t}
	testkit.NoSecretsUnder(all, dir, []string{"key"}, "token of this")
	found := strings.Join(all.said, "\n")
	if len(all.said) != 3 || !strings.Contains(found, "packed.gz") || !strings.Contains(found, "plain") || !strings.Contains(found, "other") {
		t.Errorf("found:\n%s", found)
	}
	if strings.Contains(found, testkit.Secret) {
		t.Error("the secret that was found is told")
	}
	none := &telling{TB: t}
	testkit.NoSecretsUnder(none, filepath.Join(dir, "nowhere"), nil)
	testkit.NoSecrets(none, "a text", "nothing")
	if len(none.said) != 0 {
		t.Errorf("found: %q", none.said)
	}
}

// Base64 is looked into wherever the secret stands in what was encoded, and nothing
// else is taken for a secret.
func TestSecretsInBase64AreFound(t *testing.T) {
	t.Parallel()
	// Its encodings differ between the alphabets at every place.
	odd := strings.Repeat("~?>", 4)
	for name, encoding := range map[string]*base64.Encoding{
		"standard": base64.StdEncoding, "standard without padding": base64.RawStdEncoding, "URL": base64.URLEncoding, "URL without padding": base64.RawURLEncoding,
	} {
		for before := range 7 {
			for after := range 4 {
				for _, secret := range []string{testkit.Secret, odd} {
					text := "whsec_" + encoding.EncodeToString([]byte("\xff\x00{\"a\":\""[:before]+secret+"\"}\xff"[:after]))
					got := &telling{TB: t}
					testkit.NoSecrets(got, "a record", "x"+text+"x", odd)
					if len(got.said) != 1 {
						t.Errorf("%s, %d bytes before and %d behind: told %q of %s", name, before, after, got.said, text)
					}
					other := []byte(secret)
					other[len(other)/2]++
					none := &telling{TB: t}
					testkit.NoSecrets(none, "a record", encoding.EncodeToString(other), odd)
					if len(none.said) != 0 {
						t.Errorf("%s: told %q of %q", name, none.said, other)
					}
				}
			}
		}
	}
	// Short ones could stand anywhere by chance.
	none := &telling{TB: t}
	testkit.NoSecrets(none, "a record", base64.StdEncoding.EncodeToString([]byte("xab")), "ab", "b")
	if len(none.said) != 0 {
		t.Errorf("found: %q", none.said)
	}
}

// Whatever type of value Redis keeps a secret in, the end of the test finds it.
func TestSecretsInRedisAreFound(t *testing.T) { //nolint:tparallel // What the end of each told is looked at behind it.
	t.Parallel()
	coded := base64.StdEncoding.EncodeToString([]byte("in a record: " + testkit.Secret))
	for name, tc := range map[string]struct {
		do      []any
		files   bool // it is killed, and what is on its disk has to tell
		nothing bool
	}{
		"a text":            {do: []any{"set", "k", "x" + testkit.Secret}},
		"a long text":       {do: []any{"set", "k", strings.Repeat("a", 5000) + testkit.Secret + strings.Repeat("a", 5000)}},
		"base64":            {do: []any{"set", "k", coded}},
		"a key":             {do: []any{"set", "k" + testkit.Secret, 1}},
		"a field":           {do: []any{"hset", "k", testkit.Secret, 1}},
		"a value":           {do: []any{"hset", "k", "f", testkit.Secret}},
		"a long value":      {do: []any{"hset", "k", "f", strings.Repeat("a", 5000) + coded}},
		"a list":            {do: []any{"rpush", "k", "a", testkit.Secret}},
		"a set":             {do: []any{"sadd", "k", "a", testkit.Secret}},
		"a sorted set":      {do: []any{"zadd", "k", 1, testkit.Secret}},
		"a stream":          {do: []any{"xadd", "k", "*", "f", testkit.Secret}},
		"one that expires":  {do: []any{"set", "k", testkit.Secret, "ex", 600}},
		"nothing":           {do: []any{"set", "k", "nothing"}, nothing: true},
		"killed":            {do: []any{"set", "k", testkit.Secret}, files: true},
		"killed and nobody": {do: []any{"set", "k", "nothing"}, files: true, nothing: true},
	} {
		told := &telling{}
		t.Run(name, func(t *testing.T) {
			told.TB = t
			r := testkit.StartRedis(told, testkit.RedisConfig{Password: "pw", AppendOnly: tc.files})
			r.Do(t, tc.do...)
			r.Do(t, "config", "set", "requirepass", "another") // Tests do that.
			if tc.files {
				r.Kill(t)
			}
		})
		found := strings.Join(told.said, "\n")
		if (found == "") != tc.nothing || strings.Contains(found, testkit.Secret) || strings.Contains(found, "wrote nothing") {
			t.Errorf("%s: told %q", name, found)
		}
	}
}
