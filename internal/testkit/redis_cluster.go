package testkit

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
)

// RedisCluster is a running cluster of three masters without replicas. As with
// [Redis], one goroutine at a time may call its methods; what clients do
// meanwhile is no concern of theirs.
type RedisCluster struct {
	// Nodes are the masters; the first has the lowest slots.
	Nodes []*Redis

	ids   []string
	buses []string // the ports by which nodes talk to each other
}

const (
	clusterMasters = 3
	clusterSlots   = 16384
)

// StartRedisCluster is [StartRedisClusterOf] with the zero configuration.
func StartRedisCluster(tb testing.TB) *RedisCluster {
	tb.Helper()
	return StartRedisClusterOf(tb, RedisConfig{})
}

// StartRedisClusterOf starts a cluster of nodes like cfg, which names no Addr, and
// waits until every node says that the cluster is well. A node that does not
// answer the others for two seconds is gone in their eyes, and then the whole
// cluster is down for as long, as by default.
func StartRedisClusterOf(tb testing.TB, cfg RedisConfig) *RedisCluster {
	tb.Helper()
	c := &RedisCluster{}
	for range clusterMasters {
		_, bus, err := net.SplitHostPort(FreeAddr(tb))
		if err != nil {
			tb.Fatal(err)
		}
		node := cfg
		node.Args = append([]string{
			"--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "2000", "--cluster-port", bus,
		}, cfg.Args...)
		if cfg.CA != nil {
			node.Args = append(node.Args, "--tls-cluster", "yes")
		}
		c.Nodes = append(c.Nodes, StartRedis(tb, node))
		c.buses = append(c.buses, bus)
	}
	for i, n := range c.Nodes {
		id, _ := n.Do(tb, "cluster", "myid").(string)
		c.ids = append(c.ids, id)
		n.Do(tb, "cluster", "set-config-epoch", i+1)
		n.Do(tb, "cluster", "addslotsrange", clusterSlots*i/clusterMasters, clusterSlots*(i+1)/clusterMasters-1)
		if i > 0 {
			host, port, err := net.SplitHostPort(n.Addr)
			if err != nil {
				tb.Fatal(err)
			}
			c.Nodes[0].Do(tb, "cluster", "meet", host, port, c.buses[i])
		}
	}
	c.AwaitOK(tb)
	return c
}

// AwaitOK waits until every node says that the cluster is well and knows all
// others.
func (c *RedisCluster) AwaitOK(tb testing.TB) {
	tb.Helper()
	for _, n := range c.Nodes {
		n.until(tb, "cluster_state:ok", func() bool {
			info, err := n.try(tb.Context(), "cluster", "info")
			return err == nil && fieldOf(info, "cluster_state") == "ok" &&
				fieldOf(info, "cluster_known_nodes") == strconv.Itoa(len(c.Nodes)) && fieldOf(info, "cluster_slots_ok") == strconv.Itoa(clusterSlots)
		})
	}
}

// Addrs are the addresses of all nodes.
func (c *RedisCluster) Addrs() []string {
	var addrs []string
	for _, n := range c.Nodes {
		addrs = append(addrs, n.Addr)
	}
	return addrs
}

// URL is the cluster's address as kelpie wants it.
func (c *RedisCluster) URL() string {
	scheme, _, _ := strings.Cut(c.Nodes[0].URL(), "://")
	user := ""
	if name := c.Nodes[0].cfg.User; name != "" {
		user = name + "@"
	}
	return scheme + "-cluster://" + user + strings.Join(c.Addrs(), ",")
}

// Slot is the slot of a key.
func (c *RedisCluster) Slot(tb testing.TB, key string) int {
	tb.Helper()
	slot, _ := c.Nodes[0].Do(tb, "cluster", "keyslot", key).(int64)
	return int(slot)
}

// Owner is the number in Nodes of the one that has a slot, in the eyes of the
// first.
func (c *RedisCluster) Owner(tb testing.TB, slot int) int {
	tb.Helper()
	ranges, _ := c.Nodes[0].Do(tb, "cluster", "slots").([]any)
	for _, r := range ranges {
		entry, _ := r.([]any)
		first, _ := entry[0].(int64)
		last, _ := entry[1].(int64)
		if int64(slot) < first || int64(slot) > last {
			continue
		}
		master, _ := entry[2].([]any)
		for i, id := range c.ids {
			if id == master[2] {
				return i
			}
		}
	}
	tb.Fatalf("no node has slot %d", slot)
	return 0
}

// MoveSlot gives a slot with all its keys from one node to another, by their
// numbers in Nodes, as an
// administrator would while clients go on: in between they are told ASK, and
// TRYAGAIN where they name keys that are apart. Each middle, if any, is called
// when the slot is open at both ends and before a key has moved.
func (c *RedisCluster) MoveSlot(tb testing.TB, slot, from, to int, middle ...func()) {
	tb.Helper()
	src, dst := c.Nodes[from], c.Nodes[to]
	dst.Do(tb, "cluster", "setslot", slot, "importing", c.ids[from])
	src.Do(tb, "cluster", "setslot", slot, "migrating", c.ids[to])
	for _, f := range middle {
		f()
	}
	for {
		keys, _ := src.Do(tb, "cluster", "getkeysinslot", slot, 100).([]any)
		if len(keys) == 0 {
			break
		}
		src.Do(tb, append(dst.migrate(tb), keys...)...)
	}
	// The new owner first: from then on no node sends clients to where the slot is not.
	order := []*Redis{dst, src}
	for i, n := range c.Nodes {
		if i != from && i != to {
			order = append(order, n)
		}
	}
	for _, n := range order {
		n.Do(tb, "cluster", "setslot", slot, "node", c.ids[to])
	}
}

// migrate is the command by which another node sends keys to this one, up to the
// keys.
func (r *Redis) migrate(tb testing.TB) []any {
	tb.Helper()
	host, port, err := net.SplitHostPort(r.Addr)
	if err != nil {
		tb.Fatal(err)
	}
	args := []any{"migrate", host, port, "", 0, patience.Milliseconds()}
	switch {
	case r.cfg.User != "":
		args = append(args, "auth2", r.cfg.User, r.cfg.Password)
	case r.cfg.Password != "":
		args = append(args, "auth", r.cfg.Password)
	}
	return append(args, "keys")
}

// Announce makes the cluster tell clients that the node with this number is at
// addr, a [CutProxy] before it, and waits until all nodes say so. Nodes go on
// talking to each other directly.
func (c *RedisCluster) Announce(tb testing.TB, node int, addr string) {
	tb.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		tb.Fatal(err)
	}
	c.Nodes[node].Do(tb, "config", "set", "cluster-announce-bus-port", c.buses[node])
	c.Nodes[node].Do(tb, "config", "set", "cluster-announce-port", port)
	for _, n := range c.Nodes {
		n.until(tb, "the new address of "+c.Nodes[node].Addr, func() bool {
			text, err := n.try(tb.Context(), "cluster", "nodes")
			return err == nil && strings.Contains(fmt.Sprint(text), fmt.Sprintf("%s %s@%s ", c.ids[node], addr, c.buses[node]))
		})
	}
}
