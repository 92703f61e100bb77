// Package policydir reads a policy directory, for the server and the command
// line alike, and watches files for changes.
//
// It is not for what the documents say: package policy compiles them.
//
//	dir, err := policydir.Read("/etc/kelpie/policy")
//	...
//	snap, err := policy.Compile(dir.Policy)
package policydir

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/kelpie-authz/kelpie/policy"
)

// TestSuffix ends the name of a file of policy tests.
const TestSuffix = "_test.yaml"

// maxBytes bounds all documents together; 100,000 agents are a tenth of it.
const maxBytes = 256 << 20

// Dir is what a policy directory holds, sorted by name.
type Dir struct {
	// Policy are the documents: *.yaml and *.yml. Their names hold the
	// directory, as it was given to Read.
	Policy []policy.Document
	// Tests are the files that end in [TestSuffix].
	Tests []policy.Document
}

// Read reads the documents of one directory. Subfolders are not read, nor are
// files whose name starts with a dot (locks and drafts of editors). A
// directory without a policy document is an error, because it is more likely a
// wrong path than a policy that grants nothing; write an empty policy as
// `agents: {}`.
func Read(dir string) (*Dir, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read the policy directory: %w", err)
	}
	out := &Dir{}
	room := int64(maxBytes)
	var faults []error
	for _, e := range entries {
		name := e.Name()
		ext := filepath.Ext(name)
		if strings.HasPrefix(name, ".") || (ext != ".yaml" && ext != ".yml") {
			continue
		}
		path := filepath.Join(dir, name)
		data, skip, err := readFile(path, room)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		if skip {
			continue
		}
		room -= int64(len(data))
		doc := policy.Document{Name: path, Data: data}
		if strings.HasSuffix(name, TestSuffix) {
			out.Tests = append(out.Tests, doc)
		} else {
			out.Policy = append(out.Policy, doc)
		}
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	if len(out.Policy) == 0 {
		return nil, fmt.Errorf("policy directory %s holds no policy document; put a *.yaml file there that does not end in %s", dir, TestSuffix)
	}
	return out, nil
}

// readFile skips folders. It opens only regular files: a pipe would block for ever.
func readFile(path string, room int64) (data []byte, skip bool, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, false, fmt.Errorf("read a policy document: %w", err)
	}
	if info.IsDir() {
		return nil, true, nil
	}
	if !info.Mode().IsRegular() {
		return nil, false, fmt.Errorf("read a policy document: %s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, false, fmt.Errorf("read a policy document: %w", err)
	}
	defer func() { _ = f.Close() }()
	data, err = io.ReadAll(io.LimitReader(f, room+1))
	if err != nil {
		return nil, false, fmt.Errorf("read a policy document: %w", err)
	}
	if int64(len(data)) > room {
		return nil, false, fmt.Errorf("read a policy document: %s: the directory holds more than %d bytes", path, maxBytes)
	}
	return data, false, nil
}

// Sum is a hash of names and contents of the policy documents; the tests take
// no part. Equal sums mean that there is nothing to load.
func (d *Dir) Sum() [sha256.Size]byte {
	h := sha256.New()
	var length [8]byte
	write := func(b []byte) {
		binary.BigEndian.PutUint64(length[:], uint64(len(b)))
		h.Write(length[:])
		h.Write(b)
	}
	for _, doc := range d.Policy {
		write([]byte(doc.Name))
		write(doc.Data)
	}
	var sum [sha256.Size]byte
	h.Sum(sum[:0])
	return sum
}
