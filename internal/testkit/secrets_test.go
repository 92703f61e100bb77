package testkit_test

import (
	"bytes"
	"compress/gzip"
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
