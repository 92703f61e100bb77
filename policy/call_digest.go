package policy

import (
	"crypto/sha256"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	// callDomain keeps these digests apart from every other SHA-256. What is
	// digested is part of the key of a bucket: a change needs a new version here.
	callDomain = "kelpie-call-v1\x00"
	// callDigestBytes is how much of the SHA-256 names a call. An agent that
	// finds two calls with equal digests has 2^64 of them to make, and then
	// shares a bucket with itself.
	callDigestBytes = 16
)

// callDigest names what is the same call again: action, resource, tool,
// subject and parameters. These count by their value, so that another order of
// their members or another spelling of a number is no other call; where they
// were not seen whole, by their state. What stands for a moment or a place
// (session, run, address, context, cost) is left out: a loop goes on through
// them.
func callDigest(c *Call) string {
	buf := append(make([]byte, 0, 512+len(c.Parameters.Raw)), callDomain...)
	for _, text := range [...]string{c.Action, c.Resource, c.Tool.Server, c.Tool.Name, c.Subject} {
		buf = appendKeyPart(buf, text)
	}
	buf = append(buf, byte(c.Parameters.State))
	if c.Parameters.State == ParametersComplete {
		value := jsontext.Value(append([]byte(nil), c.Parameters.Raw...))
		// What passed ParseParameters can be written canonically (RFC 8785); if it
		// could not, its own bytes would name it just as well.
		_ = value.Canonicalize()
		buf = append(buf, value...)
	}
	sum := sha256.Sum256(buf)
	return string(sum[:callDigestBytes])
}

// digestOf is callDigest, once for all limits of a call: most calls meet none
// that asks for it.
func (st *verdictState) digestOf(c *Call) string {
	if !st.digested {
		st.digest, st.digested = callDigest(c), true
	}
	return st.digest
}
