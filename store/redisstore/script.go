package redisstore

import (
	"crypto/sha1" //nolint:gosec // Redis names scripts by it; nothing is protected by it.
	_ "embed"
	"encoding/hex"
)

// The scripts are put together from parts. They touch no keys but those that they
// are given, which are all in one slot. One that begins with a shebang is refused
// by Redis, where memory is full, before it has written anything.
//
//nolint:gochecknoglobals // Constants that are put together at the start.
var (
	//go:embed script/begin.lua
	beginText string
	//go:embed script/read.lua
	readText string
	//go:embed script/open.lua
	openText string
	//go:embed script/swap.lua
	swapText string
	//go:embed script/list.lua
	listText string
	//go:embed script/prune.lua
	pruneText string
	//go:embed script/check.lua
	checkText string

	readScript  = newScript("#!lua flags=no-writes\n", beginText, readText)
	openScript  = newScript("#!lua\n", beginText, openText)
	swapScript  = newScript("#!lua\n", beginText, swapText)
	listScript  = newScript("#!lua flags=no-writes\n", listText)
	pruneScript = newScript("#!lua\n", beginText, pruneText)
	checkScript = newScript("#!lua\n", beginText, checkText)
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
