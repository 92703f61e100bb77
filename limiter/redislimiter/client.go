package redislimiter

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	poolTimeout = 20 * time.Millisecond
	// A demoted or restarted node is noticed by the probe sooner than by this.
	reloadCluster = 10 * time.Second
)

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
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	var tlsConfig *tls.Config
	if t.secure {
		tlsConfig = o.TLS
		if tlsConfig == nil {
			tlsConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		}
	}
	switch t.form {
	case formCluster:
		return redis.NewClusterClient(&redis.ClusterOptions{
			Addrs: t.addrs, TLSConfig: tlsConfig, Dialer: o.Dialer, CredentialsProviderContext: credentials(t, o),
			Protocol: 2, MaxRetries: -1, DialerRetries: 1, DialTimeout: o.Timeout, ReadTimeout: o.Timeout, WriteTimeout: o.Timeout,
			ContextTimeoutEnabled: true, PoolTimeout: poolTimeout, PoolSize: 2 * lanes, PipelinePoolSize: 2 * lanes,
			DisableIdentity: true, ClusterStateReloadInterval: reloadCluster,
			MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		}), nil
	case formSentinel:
		fo := &redis.FailoverOptions{
			MasterName: t.master, SentinelAddrs: t.addrs, DB: t.db, TLSConfig: tlsConfig, Dialer: o.Dialer,
			CredentialsProviderContext: credentials(t, o),
			Protocol:                   2, MaxRetries: -1, DialerRetries: 1, DialTimeout: o.Timeout, ReadTimeout: o.Timeout, WriteTimeout: o.Timeout,
			ContextTimeoutEnabled: true, PoolTimeout: poolTimeout, PoolSize: 2 * lanes, PipelinePoolSize: 2 * lanes,
			DisableIdentity: true,
		}
		if o.SentinelPassword != nil {
			if fo.SentinelPassword, err = o.SentinelPassword(); err != nil {
				return nil, fmt.Errorf("the password of the sentinels: %w", err)
			}
		}
		return redis.NewFailoverClient(fo), nil
	default:
		return redis.NewClient(&redis.Options{
			Network: t.network, Addr: t.addrs[0], DB: t.db, TLSConfig: tlsConfig, Dialer: o.Dialer,
			CredentialsProviderContext: credentials(t, o),
			Protocol:                   2, MaxRetries: -1, DialerRetries: 1, DialTimeout: o.Timeout, ReadTimeout: o.Timeout, WriteTimeout: o.Timeout,
			ContextTimeoutEnabled: true, PoolTimeout: poolTimeout, PoolSize: 2 * lanes, PipelinePoolSize: 2 * lanes,
			DisableIdentity:          true,
			MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		}), nil
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
