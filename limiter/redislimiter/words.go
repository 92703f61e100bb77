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
	if strings.HasPrefix(text, "NOPERM") || strings.Contains(text, "can't run this command") || strings.Contains(text, "ACL failure in script") {
		return fmt.Errorf("its user may not do what is needed (%w); docs/operations.md has the line for its ACL", err)
	}
	return w.ofNetwork(err)
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
	case errors.As(err, &record):
		return fmt.Errorf("it does not speak TLS (%w); write redis in place of rediss", err)
	case isTimeout(err) && w.t.secure:
		return fmt.Errorf("it did not answer in time (%w); see redis_timeout, which is %v, and whether it speaks TLS: if not, write redis in place of rediss", err, w.timeout)
	case isTimeout(err):
		return fmt.Errorf("it did not answer in time (%w); see whether it is well, and redis_timeout, which is %v", err, w.timeout)
	case errors.As(err, &lookup), errors.As(err, &dial) && dial.Op == "dial":
		return fmt.Errorf("it cannot be reached (%w); see the hosts and ports in redis, and whether it runs", err)
	case closed(err) && w.t.secure:
		return fmt.Errorf("it closed the connection (%w); if it wants to see a certificate, set redis_cert and redis_key", err)
	case closed(err):
		return fmt.Errorf("it closed the connection (%w); if it speaks TLS, write rediss in place of redis", err)
	default:
		return err
	}
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
