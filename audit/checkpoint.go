package audit

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Purpose says what a checkpoint vouches for, so that one cannot be taken for
// another.
type Purpose string

// The purposes.
const (
	// PurposeLine: of a line within the log.
	PurposeLine Purpose = "line"
	// PurposeHead: the log reached at least this line.
	PurposeHead Purpose = "head"
	// PurposeClosed: the log was closed, and this is its last line.
	PurposeClosed Purpose = "closed"
	// PurposeStart: what stands before Segment was removed on purpose; the line
	// is the last one that went.
	PurposeStart Purpose = "start"
)

// Checkpoint is a signed statement that line Seq of a chain, in or before
// segment Segment, has the hash Hash, and with it every line before it.
type Checkpoint struct { //nolint:recvcheck // Written by value too, as it is handed to a hook; read into its place.
	Purpose Purpose
	Chain   string
	Segment uint64
	Seq     uint64
	Hash    Hash
	// Time is when it was signed; it is kept in UTC.
	Time time.Time
	// Key names the key; see [KeyID]. Signature is Ed25519, over Message.
	Key       string
	Signature []byte
}

// KeyID names a public key: the first 8 bytes of its SHA-256 in hex.
func KeyID(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

// Message is what is signed: these lines, each ended by a line feed.
//
//	kelpie audit checkpoint 1
//	purpose: head
//	chain: 5f0c...
//	segment: 3
//	seq: 1200
//	hash: 9d1a...
//	time: 2026-06-17T12:00:00.25Z
func (c *Checkpoint) Message() []byte {
	b := append([]byte(nil), "kelpie audit checkpoint 1\npurpose: "...)
	b = append(append(b, c.Purpose...), "\nchain: "...)
	b = append(append(b, c.Chain...), "\nsegment: "...)
	b = append(strconv.AppendUint(b, c.Segment, 10), "\nseq: "...)
	b = append(strconv.AppendUint(b, c.Seq, 10), "\nhash: "...)
	b = append(c.Hash.append(b), "\ntime: "...)
	b = c.Time.UTC().AppendFormat(b, time.RFC3339Nano)
	return append(b, '\n')
}

// Sign fills in Key and Signature.
func (c *Checkpoint) Sign(key ed25519.PrivateKey) {
	public, _ := key.Public().(ed25519.PublicKey)
	c.Key, c.Signature = KeyID(public), ed25519.Sign(key, c.Message())
}

// ErrForged says that a checkpoint is not signed by the key that it should be.
var ErrForged = errors.New("the signature is not of this key")

// Verify checks the signature. The error is [ErrForged].
func (c *Checkpoint) Verify(key ed25519.PublicKey) error {
	if strings.ContainsAny(string(c.Purpose)+c.Chain, "\r\n") || len(key) != ed25519.PublicKeySize ||
		!ed25519.Verify(key, c.Message(), c.Signature) {
		return ErrForged
	}
	return nil
}

// checkpointText is a checkpoint as a file or a hook carries it.
type checkpointText struct {
	Purpose   Purpose   `json:"purpose"`
	Chain     string    `json:"chain"`
	Segment   uint64    `json:"segment"`
	Seq       uint64    `json:"seq"`
	Hash      string    `json:"hash"`
	Time      time.Time `json:"time"`
	Key       string    `json:"key"`
	Signature string    `json:"signature"`
}

// MarshalJSON implements json.Marshaler.
func (c Checkpoint) MarshalJSON() ([]byte, error) {
	raw, err := json.Marshal(checkpointText{
		c.Purpose, c.Chain, c.Segment, c.Seq, c.Hash.String(), c.Time.UTC(), c.Key,
		base64.StdEncoding.EncodeToString(c.Signature),
	})
	if err != nil {
		return nil, fmt.Errorf("write a checkpoint: %w", err)
	}
	return raw, nil
}

// UnmarshalJSON implements json.Unmarshaler. It does not check the signature.
func (c *Checkpoint) UnmarshalJSON(raw []byte) error {
	var text checkpointText
	if err := json.Unmarshal(raw, &text); err != nil {
		return fmt.Errorf("read a checkpoint: %w", err)
	}
	hash, err := ParseHash(text.Hash)
	if err != nil {
		return fmt.Errorf("read a checkpoint: %w", err)
	}
	signature, err := base64.StdEncoding.Strict().DecodeString(text.Signature)
	if err != nil {
		return fmt.Errorf("read the signature of a checkpoint: %w", err)
	}
	*c = Checkpoint{text.Purpose, text.Chain, text.Segment, text.Seq, hash, text.Time.UTC(), text.Key, signature}
	return nil
}

// appendSigned writes what a checkpoint's line holds besides chain, segment and time.
func (c *Checkpoint) appendSigned(b []byte) []byte {
	b = appendCount(b, `,"signed_seq":`, c.Seq)
	b = append(b, `,"signed_hash":"`...)
	b = c.Hash.append(b)
	b = appendText(append(b, '"'), `,"key":`, c.Key)
	b = append(b, `,"signature":"`...)
	b = base64.StdEncoding.AppendEncode(b, c.Signature)
	return append(b, '"')
}
