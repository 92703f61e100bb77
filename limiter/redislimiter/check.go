package redislimiter

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// oldestMajor is the first version whose scripts may say that they write.
const oldestMajor = 7

// checkServer asks the server, or each master of a cluster, whether it can keep
// limits. Warnings are about what will lose limits some day.
func checkServer(ctx context.Context, client redis.UniversalClient) (warnings []string, err error) {
	if cluster, ok := client.(*redis.ClusterClient); ok {
		all := make(chan string, 64)
		err := cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
			found, err := checkNode(ctx, node)
			for _, w := range found {
				all <- w
			}
			return err
		})
		close(all)
		for w := range all {
			warnings = append(warnings, w)
		}
		return warnings, inWords(err)
	}
	warnings, err = checkNode(ctx, client)
	return warnings, inWords(err)
}

func checkNode(ctx context.Context, node redis.Cmdable) ([]string, error) {
	text, err := node.Info(ctx).Result()
	if err != nil {
		return nil, err //nolint:wrapcheck // inWords does.
	}
	info := parseInfo(text)
	major, _, _ := strings.Cut(info["redis_version"], ".")
	if n, err := strconv.Atoi(major); err != nil || n < oldestMajor {
		return nil, fmt.Errorf("it is Redis %q, and limits need version 7.0 or later (or Valkey); upgrade it", info["redis_version"])
	}
	if info["role"] == "slave" {
		return nil, errors.New("it is a replica, which cannot be written; name its primary, or the sentinels")
	}
	var warnings []string
	if policy := info["maxmemory_policy"]; info["maxmemory"] != "0" && policy != "noeviction" && policy != "volatile-ttl" {
		warnings = append(warnings, fmt.Sprintf("maxmemory-policy is %s: when memory is full Redis forgets limits, which admits too much; set maxmemory-policy noeviction", policy))
	}
	return warnings, nil
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

// inWords says what to do about an error of the first exchange.
func inWords(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	switch {
	case strings.Contains(text, "WRONGPASS"), strings.Contains(text, "invalid password"):
		return errors.New("it refuses the user or password; see the user in the URL, and redis_password_file or KELPIE_REDIS_PASSWORD")
	case strings.HasPrefix(text, "NOAUTH"):
		return errors.New("it asks for a password; put it into a file and name it by redis_password_file, or set KELPIE_REDIS_PASSWORD")
	case strings.HasPrefix(text, "NOPERM"):
		return fmt.Errorf("its user may not do what is needed (%s); docs/limits.md lists the commands for the ACL", text)
	case strings.Contains(text, "cluster support disabled"):
		return errors.New("it is no cluster; write redis:// instead of redis-cluster://")
	case strings.HasPrefix(text, "MOVED"):
		return errors.New("it is a node of a cluster; write redis-cluster:// instead of redis://")
	case strings.Contains(text, "all sentinels specified in configuration are unreachable"):
		return fmt.Errorf("no sentinel names the master: %w", err)
	default:
		return err
	}
}
