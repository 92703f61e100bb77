package redisstore

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/kelpie-authz/kelpie/store"
)

// What is kept is
//
//	1 byte    the envelope, 1
//	2 bytes   the schema of the content, the high byte first
//	32 bytes  HMAC-SHA256 over label, key, schema and content
//	          the content
//
// The envelope stays as it is, so that a release can tell a content of a later one
// from a forged one.
const (
	envelope   = 1
	schemaEnd  = 3
	headSize   = schemaEnd + sha256.Size
	macLabel   = "kelpie-redisstore-record-v1"
	keyPurpose = "kelpie-redisstore-mac-key-v1"
)

// errForged says that what is in Redis was not written by a holder of the key, or
// not there.
var errForged = errors.New("its MAC is wrong: it was written by hand, moved from elsewhere, or by a replica whose approvals_key_file is another")

// errForm says that what is in Redis is no record at all.
var errForm = errors.New("it is no record: it was written by hand, or damaged")

// sealer seals records of any kind under one key. A record is bound to the name
// that it is kept under, and with that to its kind, id and deployment.
type sealer struct {
	key []byte
}

func newSealer(secret []byte) (*sealer, error) {
	key, err := hkdf.Key(sha256.New, secret, nil, keyPurpose, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("redisstore: make the key of the MAC: %w", err)
	}
	return &sealer{key: key}, nil
}

// mac binds a content to its schema and name. Each part tells its length, so that
// no two are the same bytes.
func (s *sealer) mac(name string, schema uint16, content []byte) []byte {
	m := hmac.New(sha256.New, s.key)
	var size [8]byte
	for _, part := range []string{macLabel, name} {
		binary.BigEndian.PutUint64(size[:], uint64(len(part)))
		m.Write(size[:])
		m.Write([]byte(part))
	}
	m.Write(binary.BigEndian.AppendUint16(nil, schema))
	m.Write(content)
	return m.Sum(nil)
}

// seal makes of a content what is kept under a name.
func (s *sealer) seal(name string, schema uint16, content []byte) string {
	raw := make([]byte, 0, headSize+len(content))
	raw = append(raw, envelope)
	raw = binary.BigEndian.AppendUint16(raw, schema)
	raw = append(raw, s.mac(name, schema, content)...)
	return string(append(raw, content...))
}

// open returns the content of what is kept under a name. The error is errForm or
// errForged, or [store.ErrSchema] if it is true but of a later release.
func (s *sealer) open(name string, schema uint16, raw string) ([]byte, error) {
	if len(raw) < headSize || raw[0] != envelope {
		return nil, errForm
	}
	is, content := binary.BigEndian.Uint16([]byte(raw[1:schemaEnd])), []byte(raw[headSize:])
	if !hmac.Equal([]byte(raw[schemaEnd:headSize]), s.mac(name, is, content)) {
		return nil, errForged
	}
	if is > schema {
		return nil, fmt.Errorf("a record has schema %d, and this release knows %d: %w", is, schema, store.ErrSchema)
	}
	return content, nil
}

// head is the part of a record that no other one has in common with it.
func head(raw string) string { return raw[:min(len(raw), headSize)] }
