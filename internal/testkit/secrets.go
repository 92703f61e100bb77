package testkit

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Secret is a part of every secret that a test hands to Kelpie (a password, a
// token, a parameter that is one), so that it can be looked for in whatever
// Kelpie wrote: that is done at the end of each process and of each embedded server.
const Secret = "hunter2"

// NoSecrets fails the test if a text that Kelpie wrote has [Secret] in it, or one
// of more, as it is or within base64: stores keep much of an approval so.
func NoSecrets(tb testing.TB, where, text string, more ...string) {
	tb.Helper()
	for _, secret := range append(more, Secret) {
		for _, form := range forms(secret) {
			if at := strings.Index(text, form); at >= 0 {
				tb.Errorf("a secret stands in %s, behind %q", where, text[max(0, at-80):at])
				break
			}
		}
	}
}

// leastForm is how many characters of base64 tell a secret from chance.
const leastForm = 6

// forms are a secret as it is, and what base64 makes of it wherever it stands in
// what is encoded: three bytes become four characters, so that there are three
// ways, and of each those characters that what stands beside it cannot change.
func forms(secret string) []string {
	all := []string{secret}
	for before := range 3 {
		text := slices.Concat(make([]byte, before), []byte(secret))
		first, last := (8*before+5)/6, 8*len(text)/6
		if last-first < leastForm {
			continue
		}
		for _, alphabet := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			all = append(all, alphabet.EncodeToString(text)[first:last])
		}
	}
	return all
}

// NoSecretsUnder is [NoSecrets] of all files of a directory, unpacked where they
// are gzip; those of the names in but may hold any.
func NoSecretsUnder(tb testing.TB, dir string, but []string, more ...string) {
	tb.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // It was removed meanwhile, or never made.
		}
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		for _, name := range but {
			if entry.Name() == name {
				return nil
			}
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		NoSecrets(tb, path, string(unpacked(data)), more...)
		return nil
	})
	if err != nil {
		tb.Error(err)
	}
}

// unpacked is what a gzip file holds, as far as it can be read; other data as it is.
func unpacked(data []byte) []byte {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return data
	}
	text, _ := io.ReadAll(r) // One that a crash cut has a beginning that counts.
	return text
}
