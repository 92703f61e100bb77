package redislimiter

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// words say what to do about an error of the first contact.
type words struct {
	t       *target
	timeout time.Duration
	prefix  string
	// plain is that the server answers without TLS, where TLS was asked for.
	plain bool
}

// fault is an answer of Redis, by a text in it, and what to do about it.
type fault struct{ text, words string }

//nolint:gochecknoglobals // A constant table; Go has no constant slices.
var faults = []fault{
	{"WRONGPASS", "it refuses the user or the password; see the user in redis, and redis_password_file or KELPIE_REDIS_PASSWORD"},
	{"invalid password", "it refuses the user or the password; see the user in redis, and redis_password_file or KELPIE_REDIS_PASSWORD"},
	{"NOAUTH", "it asks for a password; put it into a file that redis_password_file names, or into KELPIE_REDIS_PASSWORD"},
	{"cluster support disabled", "it is no cluster; write redis:// in place of redis-cluster://"},
	{"MOVED", "it is a node of a cluster; write redis-cluster:// in place of redis://, with several nodes"},
	{"CLUSTERDOWN", "its cluster is down; see CLUSTER INFO on each node"},
	{"READONLY", errReplica.Error()},
	{"DB index is out of range", "it has no database of this number; see the end of redis, and databases in its configuration"},
	{"LOADING", "it is still loading its data; start when it has"},
}

//nolint:gochecknoglobals // A constant table; Go has no constant slices.
var sentinelFaults = []fault{
	{"WRONGPASS", "the sentinels refuse the password; see redis_sentinel_password_file or KELPIE_REDIS_SENTINEL_PASSWORD"},
	{"NOAUTH", "the sentinels ask for a password; put it into a file that redis_sentinel_password_file names, or into KELPIE_REDIS_SENTINEL_PASSWORD"},
	{"unknown command", "what redis names are no sentinels; write their hosts and ports, 26379 unless set otherwise, or redis:// for a server"},
	{"redis: nil", "the sentinels know no master of this name; see the name behind the hosts in redis, and sentinel monitor in their configuration"},
}

const noSentinel = "all sentinels specified in configuration are unreachable"

func (w *words) of(err error) error {
	text := err.Error()
	if strings.Contains(text, noSentinel) {
		return w.ofSentinels(err)
	}
	for _, f := range faults {
		if strings.Contains(text, f.text) {
			return errors.New(f.words)
		}
	}
	if r := (&rights{prefix: w.prefix}); r.note(err) {
		return w.ofRights(r)
	}
	return w.ofNetwork(err)
}

// ofRights says which rights a user lacks, and how to give them.
func (w *words) ofRights(r *rights) error {
	return fmt.Errorf("its user may not do what limits need; grant it on each server: %s (docs/operations.md has the whole line, and ACL LOG lists what was refused)", r.grant(w.t.user))
}

func (w *words) ofSentinels(err error) error {
	for _, f := range sentinelFaults {
		if strings.Contains(err.Error(), f.text) {
			return errors.New(f.words)
		}
	}
	return w.ofNetwork(err)
}

func (w *words) ofNetwork(err error) error {
	var (
		verification *tls.CertificateVerificationError
		record       tls.RecordHeaderError
		lookup       *net.DNSError
		dial         *net.OpError
	)
	switch {
	case errors.As(err, &verification):
		return fmt.Errorf("its certificate is not trusted (%w); name its authority by redis_ca, and in redis a host that is in the certificate", err)
	case w.plain, errors.As(err, &record):
		return fmt.Errorf("it does not speak TLS (%w); write %s in place of %s, or name the port on which it speaks TLS", err, w.t.scheme(false), w.t.scheme(true))
	case isTimeout(err) && w.t.secure:
		return fmt.Errorf("it did not answer in time (%w); see whether it is well, whether it speaks TLS on this port (if not, write %s in place of %s), and redis_timeout, which is %v", err, w.t.scheme(false), w.t.scheme(true), w.timeout)
	case isTimeout(err):
		return fmt.Errorf("it did not answer in time (%w); see whether it is well, whether a firewall is between, and redis_timeout, which is %v", err, w.timeout)
	case errors.As(err, &lookup):
		return fmt.Errorf("it cannot be reached (%w): no such host is known; see the host in redis, and the name service of this machine", err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("it cannot be reached (%w): nothing listens there; start it, or see the host and port in redis (%s unless said)", err, w.t.port())
	case w.t.network == "unix" && errors.As(err, &dial) && dial.Op == "dial":
		return fmt.Errorf("it cannot be reached (%w); see the socket's path in redis, unixsocket in its configuration, and whether this user may open it", err)
	case errors.As(err, &dial) && dial.Op == "dial":
		return fmt.Errorf("it cannot be reached (%w); see the hosts and ports in redis, and whether it runs", err)
	case strings.Contains(err.Error(), "invalid reply"), strings.Contains(err.Error(), "can't parse"):
		return fmt.Errorf("what answers there does not speak as Redis does (%w); see the host and port in redis (%s unless said)", err, w.t.port())
	case closed(err) && w.t.secure:
		return fmt.Errorf("it closed the connection (%w); if it wants to see a certificate, set redis_cert and redis_key", err)
	case closed(err):
		return fmt.Errorf("it closed the connection (%w); if it speaks TLS, write rediss in place of redis", err)
	default:
		return err
	}
}

// scheme is how the URL begins, with or without TLS.
func (t *target) scheme(secure bool) string {
	name := map[form]string{formServer: "redis", formSentinel: "redis-sentinel", formCluster: "redis-cluster"}[t.form]
	if secure {
		name = strings.Replace(name, "redis", "rediss", 1)
	}
	return name + "://"
}

// closed tells whether the other side ended the connection.
func closed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		strings.Contains(err.Error(), "certificate required")
}

// isTimeout tells whether there was no answer in time.
func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || (errors.As(err, &timeout) && timeout.Timeout())
}
