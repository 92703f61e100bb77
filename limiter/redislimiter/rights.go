package redislimiter

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// rightsText runs every command of the scripts once and returns those that the
// user may not run. All go to one string that is gone in a second: a command that
// is for another type is refused too, but only after the user's rights were
// looked at, and so leaves nothing behind.
const rightsText = `#!lua
local lacks, fault = {}, nil
local function try(name, ...)
  local r = redis.pcall(name, ...)
  if type(r) ~= 'table' or not r.err then
    return true
  end
  if string.find(r.err, "can't run this command", 1, true) or string.find(r.err, 'NOPERM', 1, true) then
    lacks[#lacks + 1] = string.lower(name)
  elseif not string.find(r.err, 'WRONGTYPE', 1, true) then
    fault = fault or r.err
  end
  return false
end
try('TIME')
local set = try('SET', KEYS[1], '', 'PX', 1000)
local made = try('PSETEX', KEYS[1], 1000, '') or set
try('GET', KEYS[1])
try('MGET', KEYS[1])
try('HGET', KEYS[1], 'a')
try('HEXISTS', KEYS[1], 'a')
try('ZREM', KEYS[1], 'a')
try('ZREMRANGEBYSCORE', KEYS[1], '-inf', '+inf')
try('ZCARD', KEYS[1])
if made then
  try('HSETNX', KEYS[1], 'a', '')
  try('ZADD', KEYS[1], 1, 'a')
end
try('PEXPIRE', KEYS[1], 1)
if fault then
  return redis.error_reply(fault)
end
return lacks`

// emptyText is what the read-only ways of running a script are tried with.
const emptyText = "#!lua flags=no-writes\nreturn 1"

// mostTags bounds how many names are looked at to find one for each master.
const mostTags = 4096

// rights are what a user turned out not to have.
type rights struct {
	prefix string
	// keys is that it may not touch keys of the prefix, commands what it may not
	// run.
	keys     bool
	commands []string
	// full is that the memory is, so that not all could be tried.
	full bool
}

// missing tells whether something is.
func (r *rights) missing() bool { return r.keys || len(r.commands) > 0 }

// grant is what to say to Redis.
func (r *rights) grant(user string) string {
	if user == "" {
		user = "default"
	}
	words := []string{"ACL SETUSER", user}
	if r.keys {
		words = append(words, "~"+r.prefix+":*")
	}
	commands := slices.Clone(r.commands)
	slices.Sort(commands)
	for _, c := range slices.Compact(commands) {
		words = append(words, "+"+c)
	}
	return strings.Join(words, " ")
}

// deniedCommand is how Redis names a command that a user may not run.
var deniedCommand = regexp.MustCompile(`'([a-z_|]+)' command`)

// note takes in why something was refused. It is false if that was not for want
// of a right.
func (r *rights) note(err error) bool {
	text := err.Error()
	if !strings.HasPrefix(text, "NOPERM") {
		return false
	}
	if m := deniedCommand.FindStringSubmatch(text); m != nil {
		r.commands = append(r.commands, m[1])
		return true
	}
	if strings.Contains(text, "key") {
		r.keys = true
		return true
	}
	return false
}

// checkRights tries what the user may do, on each master: each has its own users.
func checkRights(ctx context.Context, client redis.UniversalClient, prefix string) (*rights, error) {
	r := &rights{prefix: prefix}
	tags, err := tagsOf(ctx, client)
	if err != nil {
		return nil, err
	}
	for _, tag := range tags {
		if err := r.tryScripts(ctx, client, tag); err != nil {
			return nil, err
		}
	}
	if err := r.tryScan(ctx, client); err != nil {
		return nil, err
	}
	return r, nil
}

// tagsOf are names of which each master has one.
func tagsOf(ctx context.Context, client redis.UniversalClient) ([]string, error) {
	cluster, ok := client.(*redis.ClusterClient)
	if !ok {
		return []string{"check"}, nil
	}
	var (
		mu      sync.Mutex
		masters int
	)
	err := patiently(ctx, func() error {
		mu.Lock()
		masters = 0
		mu.Unlock()
		return cluster.ForEachMaster(ctx, func(context.Context, *redis.Client) error {
			mu.Lock()
			defer mu.Unlock()
			masters++
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	var tags []string
	seen := map[string]bool{}
	for i := 0; i < mostTags && len(tags) < masters; i++ {
		tag := "check" + strconv.Itoa(i)
		node, err := cluster.MasterForKey(ctx, tag)
		if err != nil {
			return nil, err //nolint:wrapcheck // The caller puts it into words.
		}
		if addr := node.Options().Addr; !seen[addr] {
			seen[addr] = true
			tags = append(tags, tag)
		}
	}
	return tags, nil
}

// tryScripts runs scripts in each way there is, over a key of each kind.
func (r *rights) tryScripts(ctx context.Context, client redis.UniversalClient, tag string) error {
	var keys []string
	for _, kind := range []string{"", ":ledger", ":replicas"} {
		keys = append(keys, string(appendHome(nil, r.prefix+kind, []byte(tag), 0, 0)))
	}
	empty := newScript(emptyText)
	for _, run := range []func() *redis.Cmd{
		func() *redis.Cmd { return client.Eval(ctx, rightsText, keys) },
		func() *redis.Cmd { return client.EvalSha(ctx, empty.sha, keys) },
		func() *redis.Cmd { return client.EvalRO(ctx, empty.text, keys) },
		func() *redis.Cmd { return client.EvalShaRO(ctx, empty.sha, keys) },
	} {
		var cmd *redis.Cmd
		err := patiently(ctx, func() error { cmd = run(); return cmd.Err() })
		switch {
		case err == nil:
			if lacks, listed := cmd.Val().([]any); listed {
				for _, name := range lacks {
					text, _ := name.(string)
					r.commands = append(r.commands, text)
				}
			}
		case redis.HasErrorPrefix(err, "NOSCRIPT"): // it may, and that is all
		case redis.HasErrorPrefix(err, "OOM"):
			r.full = true
		case !r.note(err):
			return err
		}
	}
	return nil
}

// tryScan tries what `kelpie limits` does besides.
func (r *rights) tryScan(ctx context.Context, client redis.UniversalClient) error {
	var mu sync.Mutex
	scan := func(ctx context.Context, node redis.Cmdable) error {
		err := node.Scan(ctx, 0, escapePattern(r.prefix)+":*", 1).Err()
		mu.Lock()
		defer mu.Unlock()
		if err != nil && r.note(err) {
			return nil
		}
		return err
	}
	return patiently(ctx, func() error {
		if cluster, ok := client.(*redis.ClusterClient); ok {
			return cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { return scan(ctx, node) })
		}
		return scan(ctx, client)
	})
}

// answersPlainly tells whether a server answers without TLS. It says nothing that
// is secret.
func answersPlainly(ctx context.Context, t *target, o *Options) bool {
	plain := *t
	plain.secure = false
	bare := *o
	bare.Password, bare.SentinelPassword, bare.greet, bare.TLS = nil, nil, nil, nil
	settings := clientSettings{t: &plain, o: &bare, conns: 1, dial: o.Timeout, dialer: o.Dialer}
	node := settings.server()
	client := redis.NewClient(node)
	defer func() { _ = client.Close() }()
	err := client.Ping(ctx).Err()
	_, reply := errors.AsType[redis.Error](err)
	return err == nil || reply
}
