package testkit

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Secret is a part of every secret that a test hands to Kelpie (a password, a
// token, a parameter that is one), so that it can be looked for in whatever
// Kelpie wrote: that is done at the end of each process and of each embedded server.
const Secret = "hunter2"

// NoSecrets fails the test if a text that Kelpie wrote has [Secret] in it, or one
// of more.
func NoSecrets(tb testing.TB, where, text string, more ...string) {
	tb.Helper()
	for _, secret := range append(more, Secret) {
		if at := strings.Index(text, secret); at >= 0 {
			tb.Errorf("a secret stands in %s, behind %q", where, text[max(0, at-80):at])
		}
	}
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
