package redislimiter

import (
	"context"
	"crypto/sha1" //nolint:gosec // Redis names scripts by it; nothing is protected by it.
	_ "embed"
	"encoding/hex"

	"github.com/redis/go-redis/v9"
)

// The scripts are put together from parts. One that begins with a shebang is
// refused by Redis, where memory is full, before it has written anything, and
// may touch no other keys than those it was given.
//
//nolint:gochecknoglobals // Constants that are put together at the start.
var (
	//go:embed script/short.lua
	shortText string
	//go:embed script/begin.lua
	beginText string
	//go:embed script/state.lua
	stateText string
	//go:embed script/long.lua
	longText string
	//go:embed script/refund.lua
	refundText string

	//go:embed script/keep.lua
	keepText string
	//go:embed script/look.lua
	lookText string
	//go:embed script/mark.lua
	markText string
	//go:embed script/member.lua
	memberText string
	//go:embed script/forget.lua
	forgetText string

	takeScript   = newScript("#!lua\n", shortText, stateText, longText)
	peekScript   = newScript("#!lua flags=no-writes\n", shortText, stateText, longText)
	refundScript = newScript("#!lua\n", beginText, stateText, refundText)
	forgetScript = newScript("#!lua\n", beginText, stateText, forgetText)
	keepScript   = newScript("#!lua\n", keepText)
	lookScript   = newScript("#!lua flags=no-writes\n", lookText)
	markScript   = newScript("#!lua\n", markText)
	memberScript = newScript("#!lua\n", memberText)
	// probeScript does nothing, but may only be run where it could write.
	probeScript = newScript("#!lua\nreturn 1")
)

// script is a text and the name that Redis knows it by.
type script struct {
	text, sha string
}

func newScript(parts ...string) *script {
	s := &script{}
	for _, p := range parts {
		s.text += p
	}
	sum := sha1.Sum([]byte(s.text)) //nolint:gosec // As above.
	s.sha = hex.EncodeToString(sum[:])
	return s
}

// alive tells why a server cannot run a script that may write, or nil. One that
// answers anything else is there.
func (s *script) alive(ctx context.Context, server redis.Scripter) error {
	if err := server.Eval(ctx, s.text, nil).Err(); err != nil && outage(err) {
		return err
	}
	return nil
}
