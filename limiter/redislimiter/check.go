package redislimiter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// oldestMajor is the first version whose scripts may say that they write.
const oldestMajor = 7

// checkServer asks the server, or each master of a cluster, whether it can keep
// limits: by its version, its settings, and what the user may do with keys of
// the prefix. Warnings are about what will lose limits some day; the error says
// what to do.
func checkServer(ctx context.Context, client redis.UniversalClient, o *Options, prefix string) (warnings []string, err error) {
	t, err := parseURL(o.URL)
	if err != nil {
		return nil, err
	}
	w := words{t: t, timeout: o.Timeout, prefix: prefix}
	if cluster, ok := client.(*redis.ClusterClient); ok {
		warnings, err = checkCluster(ctx, cluster)
	} else {
		warnings, err = checkNode(ctx, client)
	}
	if err != nil && t.secure && isTimeout(err) {
		// TLS waits for an answer that a server without it never gives.
		plainly, cancel := context.WithTimeout(context.WithoutCancel(ctx), dialTimeout)
		defer cancel()
		w.plain = answersPlainly(plainly, t, o)
	}
	if err != nil {
		return nil, w.of(err)
	}
	r, err := checkRights(ctx, client, prefix)
	if err != nil {
		return nil, w.of(err)
	}
	if r.missing() {
		return nil, w.ofRights(r)
	}
	if r.full { // it may pass
		warnings = append(warnings, memoryFull)
	}
	return warnings, nil
}

func checkCluster(ctx context.Context, cluster *redis.ClusterClient) ([]string, error) {
	var (
		mu  sync.Mutex
		all []string
	)
	err := patiently(ctx, func() error {
		return cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
			found, err := checkNode(ctx, node)
			mu.Lock()
			defer mu.Unlock()
			for _, f := range found {
				if !slices.Contains(all, f) {
					all = append(all, f)
				}
			}
			return err
		})
	})
	return all, err
}

func checkNode(ctx context.Context, node redis.Cmdable) (warnings []string, err error) {
	var text string
	err = patiently(ctx, func() error {
		var err error
		text, err = node.Info(ctx).Result()
		return err //nolint:wrapcheck // The caller puts it into words.
	})
	if err != nil {
		return nil, err
	}
	return judgeInfo(text)
}

// judgeInfo judges the answer to INFO.
func judgeInfo(text string) (warnings []string, err error) {
	info := parseInfo(text)
	if info["redis_mode"] == "sentinel" {
		return nil, errors.New("it is a sentinel; write redis-sentinel://HOST:PORT,.../MASTER in redis, with all sentinels")
	}
	version := info["redis_version"]
	major, _, _ := strings.Cut(version, ".")
	if n, err := strconv.Atoi(major); err != nil || n < oldestMajor {
		return nil, fmt.Errorf("it is Redis %q, and limits need version 7.0 or later, or Valkey; upgrade it", version)
	}
	if info["role"] == "slave" {
		return nil, errReplica
	}
	policy := info["maxmemory_policy"]
	switch {
	case info["maxmemory"] == "0" || policy == "" || policy == "noeviction" || policy == "volatile-ttl":
	default:
		warnings = append(warnings, fmt.Sprintf("maxmemory-policy is %s: when its memory is full Redis forgets limits, which admits too much; set maxmemory-policy noeviction", policy))
	}
	return warnings, nil
}

var errReplica = errors.New("it is a replica, which takes no writes; name its primary in redis, or the sentinels by redis-sentinel://")

const memoryFull = "its memory is full, and it refuses to keep what is charged until there is room: limits are judged as their on_unavailable says; raise maxmemory (INFO memory tells what is used)"

// patiently asks again while ctx allows it if there was no answer in time: the
// first exchange makes the connection, and a decision waits for none of this.
func patiently(ctx context.Context, ask func() error) error {
	for {
		err := ask()
		if err == nil || !isTimeout(err) || ctx.Err() != nil {
			return err
		}
	}
}

func parseInfo(text string) map[string]string {
	info := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, value, found := strings.Cut(strings.TrimSpace(line), ":"); found {
			info[name] = value
		}
	}
	return info
}
