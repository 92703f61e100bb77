package redisstore

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// rights are what a user turned out not to have.
type rights struct {
	prefix string
	// keys is that it may not touch keys of the prefix, channel that it may not use
	// the channel, commands what it may not run.
	keys, channel bool
	commands      []string
}

func (r *rights) missing() bool { return r.keys || r.channel || len(r.commands) > 0 }

// take takes in what check.lua could not do.
func (r *rights) take(answer any) {
	names, _ := answer.([]any)
	for _, n := range names {
		if name, _ := n.(string); name == "&" {
			r.channel = true
		} else {
			r.commands = append(r.commands, name)
		}
	}
}

// deniedCommand is how Redis names a command that a user may not run.
var deniedCommand = regexp.MustCompile(`'([a-z_|]+)' command`)

// note takes in why something was refused. It is false if that was not for want of
// a right.
func (r *rights) note(err error) bool {
	if !redis.HasErrorPrefix(err, "NOPERM") {
		return false
	}
	text := err.Error()
	switch m := deniedCommand.FindStringSubmatch(text); {
	case m != nil:
		r.commands = append(r.commands, m[1])
	case strings.Contains(text, "channel"):
		r.channel = true
	case strings.Contains(text, "key"):
		r.keys = true
	default:
		return false
	}
	return true
}

// words say which rights a user lacks, and how to give them.
func (r *rights) words(user string) error {
	grant := []string{"ACL SETUSER", user}
	// Who may neither publish nor subscribe is not told whether he may use the channel.
	if slices.Contains(r.commands, "publish") && slices.Contains(r.commands, "subscribe") {
		r.channel = true
	}
	if r.keys {
		grant = append(grant, "~"+r.prefix+":*")
	}
	if r.channel {
		grant = append(grant, "&"+r.prefix+":*")
	}
	commands := slices.Clone(r.commands)
	slices.Sort(commands)
	for _, c := range slices.Compact(commands) {
		grant = append(grant, "+"+c)
	}
	return fmt.Errorf("its user may not do what approvals need; grant it on each server: %s (docs/approvals.md has the whole line, and ACL LOG lists what was refused)", strings.Join(grant, " "))
}

// userOf is whom a client logs in as.
func userOf(ctx context.Context, client redis.UniversalClient) string {
	var (
		name string
		says func(context.Context) (string, string, error)
	)
	switch c := client.(type) {
	case *redis.Client:
		name, says = c.Options().Username, c.Options().CredentialsProviderContext
	case *redis.ClusterClient:
		name, says = c.Options().Username, c.Options().CredentialsProviderContext
	}
	if says != nil {
		if said, _, err := says(ctx); err == nil {
			name = said
		}
	}
	if name == "" {
		return "default"
	}
	return name
}
