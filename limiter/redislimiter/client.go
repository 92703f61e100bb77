package redislimiter

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	poolTimeout = 20 * time.Millisecond
	// Nobody waits for a connection longer than for an exchange. One that takes
	// longer to make serves whoever comes then.
	dialTimeout = 500 * time.Millisecond
	// How many connections there are follows from how many exchanges are under
	// way at once, and not from this. It is large because the client, once it has
	// failed to connect so many times, tries but once a second: a replica that
	// comes back later than the others puts back later what it knows.
	poolSize = 4096
	// A demoted or restarted node is noticed by the probe sooner than by this.
	reloadCluster = 10 * time.Second
)

// NewClient makes a client of Redis as a [Limiter] has it, without asking the
// server anything, for who keeps other things there: it retries nothing, and each
// exchange takes no longer than o.Timeout. The caller closes it.
func NewClient(o Options) (redis.UniversalClient, error) { return newClient(&o, defaultLanes) }

// newClient makes a client, without asking the server anything.
//
// Its settings keep a call from waiting for anything but one exchange: nothing
// is retried, a connection is dialled once, and no feature of the server may
// lengthen a timeout. The protocol is RESP 2, since nothing here is pushed.
func newClient(o *Options, lanes int) (redis.UniversalClient, error) {
	t, err := parseURL(o.URL)
	if err != nil {
		return nil, fmt.Errorf("the URL of Redis: %w", err)
	}
	if t.user != "" && o.Password == nil {
		return nil, errors.New("the URL of Redis names a user, but there is no password; put it into a file that redis_password_file names, or into KELPIE_REDIS_PASSWORD")
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	c := clientSettings{t: t, o: o, conns: 2 * lanes, dial: max(dialTimeout, o.Timeout), dialer: o.Dialer}
	if t.secure {
		if c.tls = o.TLS; c.tls == nil {
			c.tls = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		if o.Dialer != nil {
			// The client speaks TLS on connections of its own alone.
			c.dialer = secured(o.Dialer, c.tls)
		}
	}
	switch t.form {
	case formCluster:
		return redis.NewClusterClient(c.cluster()), nil
	case formSentinel:
		options, err := c.sentinel()
		if err != nil {
			return nil, err
		}
		return redis.NewFailoverClient(options), nil
	default:
		return redis.NewClient(c.server()), nil
	}
}

// clientSettings are what the clients of all forms have in common, though not in
// one type.
type clientSettings struct {
	t      *target
	o      *Options
	tls    *tls.Config
	conns  int
	dial   time.Duration
	dialer func(context.Context, string, string) (net.Conn, error)
}

func (c *clientSettings) server() *redis.Options {
	return &redis.Options{
		Network: c.t.network, Addr: c.t.addrs[0], DB: c.t.db, TLSConfig: c.tls, Dialer: c.dialer,
		CredentialsProviderContext: credentials(c.t, c.o), OnConnect: c.o.greet, Protocol: 2, DisableIdentity: true,
		MaxRetries: -1, DialerRetries: 1, DialTimeout: c.dial, ReadTimeout: c.o.Timeout, WriteTimeout: c.o.Timeout,
		ContextTimeoutEnabled: true, PoolTimeout: poolTimeout, PoolSize: poolSize, PipelinePoolSize: poolSize, MaxConcurrentDials: c.conns,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
}

func (c *clientSettings) cluster() *redis.ClusterOptions {
	return &redis.ClusterOptions{
		Addrs: c.t.addrs, TLSConfig: c.tls, Dialer: c.dialer, ClusterStateReloadInterval: reloadCluster,
		CredentialsProviderContext: credentials(c.t, c.o), OnConnect: c.o.greet, Protocol: 2, DisableIdentity: true,
		MaxRetries: -1, DialerRetries: 1, DialTimeout: c.dial, ReadTimeout: c.o.Timeout, WriteTimeout: c.o.Timeout,
		ContextTimeoutEnabled: true, PoolTimeout: poolTimeout, PoolSize: poolSize, PipelinePoolSize: poolSize, MaxConcurrentDials: c.conns,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
}

// sentinel has no notifications to switch off: its client never asks for them.
func (c *clientSettings) sentinel() (*redis.FailoverOptions, error) {
	options := &redis.FailoverOptions{
		MasterName: c.t.master, SentinelAddrs: c.t.addrs, DB: c.t.db, TLSConfig: c.tls, Dialer: c.dialer,
		CredentialsProviderContext: credentials(c.t, c.o), OnConnect: c.o.greet, Protocol: 2, DisableIdentity: true,
		MaxRetries: -1, DialerRetries: 1, DialTimeout: c.dial, ReadTimeout: c.o.Timeout, WriteTimeout: c.o.Timeout,
		ContextTimeoutEnabled: true, PoolTimeout: poolTimeout, PoolSize: poolSize, PipelinePoolSize: poolSize, MaxConcurrentDials: c.conns,
	}
	if c.o.SentinelPassword != nil {
		var err error
		if options.SentinelPassword, err = c.o.SentinelPassword(); err != nil {
			return nil, fmt.Errorf("the password of the sentinels: %w", err)
		}
	}
	return options, nil
}

// secured speaks TLS on the connections of a dialer.
func secured(dial func(context.Context, string, string) (net.Conn, error), config *tls.Config) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		raw, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		own := config.Clone()
		if own.ServerName == "" {
			if own.ServerName, _, err = net.SplitHostPort(addr); err != nil {
				raw.Close()
				return nil, fmt.Errorf("the address of Redis: %w", err)
			}
		}
		conn := tls.Client(raw, own)
		if err := conn.HandshakeContext(ctx); err != nil {
			raw.Close()
			return nil, fmt.Errorf("speak TLS with Redis: %w", err)
		}
		return conn, nil
	}
}

// credentials asks for the password at every connection.
func credentials(t *target, o *Options) func(context.Context) (string, string, error) {
	if o.Password == nil {
		return nil
	}
	return func(context.Context) (string, string, error) {
		password, err := o.Password()
		if err != nil {
			return "", "", fmt.Errorf("the password of Redis: %w", err)
		}
		return t.user, password, nil
	}
}
