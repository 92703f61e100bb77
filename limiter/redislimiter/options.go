package redislimiter

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Options say how Redis is reached.
type Options struct {
	// URL is one of
	//
	//	redis://[USER@]HOST[:PORT][/DB]                       one server
	//	unix:///PATH[?db=DB]                                  one server, by its socket
	//	redis-sentinel://[USER@]HOST[:PORT],.../MASTER[?db=DB]  the master that the sentinels name
	//	redis-cluster://[USER@]HOST[:PORT],...                a cluster, by some of its nodes
	//
	// with rediss, rediss-sentinel and rediss-cluster for TLS. It holds no
	// password.
	URL string
	// Password returns the password of USER, or of the default user. It is asked
	// at every new connection, so that it can be changed. Nil: none.
	Password func() (string, error)
	// SentinelPassword is that of the sentinels. Nil: none.
	SentinelPassword func() (string, error)
	// TLS configures rediss. Nil: the system's authorities and no certificate.
	TLS *tls.Config
	// Timeout bounds one exchange with Redis, a new connection included. Zero:
	// 100 ms.
	Timeout time.Duration
	// Dialer makes connections, in tests. Nil: the net package's.
	Dialer func(ctx context.Context, network, addr string) (net.Conn, error)
}

const (
	defaultTimeout = 100 * time.Millisecond
	defaultPort    = "6379"
	sentinelPort   = "26379"
)

// form is what a URL can be about.
type form uint8

const (
	formServer form = iota + 1
	formSentinel
	formCluster
)

// target is a parsed URL.
type target struct {
	form    form
	secure  bool
	network string // tcp or unix
	addrs   []string
	user    string
	master  string
	db      int
}

var (
	errScheme   = errors.New("it begins with none of redis://, rediss://, unix://, redis-sentinel://, rediss-sentinel://, redis-cluster:// and rediss-cluster://")
	errPassword = errors.New("it has a password in it; put that into a file and name it by redis_password_file, or into KELPIE_REDIS_PASSWORD")
)

// CheckURL returns what is wrong with a URL, in words that say what to write,
// or nil. The error does not repeat what stands before an @.
func CheckURL(raw string) error {
	_, err := parseURL(raw)
	return err
}

func parseURL(raw string) (*target, error) {
	scheme, rest, found := strings.Cut(raw, "://")
	if !found {
		return nil, errScheme
	}
	t := &target{network: "tcp"}
	t.secure = strings.HasPrefix(scheme, "rediss")
	switch scheme {
	case "redis", "rediss":
		t.form = formServer
	case "unix":
		t.form, t.network = formServer, "unix"
	case "redis-sentinel", "rediss-sentinel":
		t.form = formSentinel
	case "redis-cluster", "rediss-cluster":
		t.form = formCluster
	default:
		return nil, errScheme
	}
	rest, query, _ := strings.Cut(rest, "?")
	if err := t.parseQuery(query); err != nil {
		return nil, err
	}
	if t.network == "unix" {
		if !strings.HasPrefix(rest, "/") {
			return nil, errors.New("the socket's path is missing; write unix:///run/redis/redis.sock")
		}
		t.addrs = []string{rest}
		return t, nil
	}
	if err := t.parseRest(rest); err != nil {
		return nil, err
	}
	return t, nil
}

// parseRest reads what stands between the scheme and the query.
func (t *target) parseRest(rest string) error {
	hosts, path, _ := strings.Cut(rest, "/")
	if at := strings.LastIndexByte(hosts, '@'); at >= 0 {
		user, _, withPassword := strings.Cut(hosts[:at], ":")
		if withPassword {
			return errPassword
		}
		name, err := url.PathUnescape(user)
		if err != nil {
			return errors.New("the user before the @ is not properly escaped")
		}
		t.user, hosts = name, hosts[at+1:]
	}
	if err := t.parseHosts(hosts); err != nil {
		return err
	}
	switch {
	case t.form == formSentinel && path == "":
		return errors.New("the master's name is missing; write redis-sentinel://HOST:26379,HOST:26379/MASTER")
	case t.form == formSentinel:
		t.master = path
	case t.form == formCluster && path != "" && path != "0":
		return errors.New("a cluster has no databases; leave out what stands behind the hosts")
	case path != "" && t.form == formServer:
		return t.setDB(path)
	}
	return nil
}

func (t *target) parseHosts(hosts string) error {
	port := defaultPort
	if t.form == formSentinel {
		port = sentinelPort
	}
	for host := range strings.SplitSeq(hosts, ",") {
		if host == "" || strings.HasPrefix(host, ":") {
			return errors.New("a host is missing; write HOST or HOST:PORT")
		}
		h, p, err := net.SplitHostPort(host)
		if err != nil {
			h, p = strings.Trim(host, "[]"), port
		}
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("the port %q is not a number from 1 to 65535", p)
		}
		t.addrs = append(t.addrs, net.JoinHostPort(h, p))
	}
	if t.form == formServer && len(t.addrs) > 1 {
		return errors.New("it names several hosts; write redis-cluster:// or redis-sentinel:// for those")
	}
	return nil
}

func (t *target) parseQuery(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("what stands behind the ? is not of the form name=value")
	}
	for name := range values {
		if name != "db" || t.form == formCluster {
			return fmt.Errorf("it has a parameter %q, which does nothing; only db does, for one server or sentinels", name)
		}
		if err := t.setDB(values.Get(name)); err != nil {
			return err
		}
	}
	return nil
}

func (t *target) setDB(text string) error {
	n, err := strconv.ParseUint(text, 10, 15)
	if err != nil {
		return fmt.Errorf("the database %q is not a number", text)
	}
	t.db = int(n)
	return nil
}
