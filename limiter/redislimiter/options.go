package redislimiter

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
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
	// at every new connection, by any goroutine, so that it can be changed. Nil:
	// none, and then there is no USER.
	Password func() (string, error)
	// SentinelPassword returns that of the sentinels, and is asked once. Nil:
	// none.
	SentinelPassword func() (string, error)
	// TLS configures rediss. Nil: the system's authorities and no certificate.
	TLS *tls.Config
	// Timeout bounds one exchange with Redis, a new connection included. Zero:
	// 100 ms.
	Timeout time.Duration
	// Dialer makes connections, in tests, on which TLS is then spoken if the URL
	// says so. Nil: the net package's.
	Dialer func(ctx context.Context, network, addr string) (net.Conn, error)

	// greet is told of every new connection.
	greet func(context.Context, *redis.Conn) error
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
	named   bool // db is
}

// What is wrong with a URL repeats none of it: a password may stand anywhere in
// one that is written wrong.
var (
	errScheme   = errors.New("it begins with none of redis://, rediss://, unix://, redis-sentinel://, rediss-sentinel://, redis-cluster:// and rediss-cluster://")
	errPassword = errors.New("it has a password in it, where others can read it; write USER@HOST alone, " +
		"and put the password into a file that redis_password_file names, or into KELPIE_REDIS_PASSWORD")
	errUser     = errors.New("the user before the @ is not properly escaped; write %25 for a percent sign")
	errHost     = errors.New("a host is missing; write HOST or HOST:PORT")
	errHostForm = errors.New("a host is neither a name nor an address; write HOST:PORT, with an IPv6 address in brackets, and commas without spaces between several")
	errPort     = errors.New("a port is not a number from 1 to 65535; write HOST:PORT")
	errHosts    = errors.New("it names several hosts; write redis-cluster:// or redis-sentinel:// for those")
	errMaster   = errors.New("the master's name is missing or has letters that sentinels do not take; write redis-sentinel://HOST:26379,HOST:26379/MASTER")
	errSocket   = errors.New("the socket's path is missing; write unix:///run/redis/redis.sock")
	errCluster  = errors.New("a cluster has no databases; leave out what stands behind the hosts")
	errDB       = errors.New("the database is not a number; write redis://HOST:PORT/0")
	errTwoDBs   = errors.New("the database is named twice; keep one")
	errQuery    = errors.New("behind the ? stands something other than db=NUMBER, for one server or sentinels; leave it out")
)

var (
	hostForm   = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)
	masterForm = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)
	secretName = regexp.MustCompile(`(?i)pass|auth|secret`)
)

// CheckURL returns what is wrong with a URL, in words that say what to write,
// or nil. The error repeats nothing of the URL, since a password may be in it.
func CheckURL(raw string) error {
	_, err := parseURL(raw)
	return err
}

func parseURL(raw string) (*target, error) {
	scheme, rest, found := strings.Cut(raw, "://")
	if !found {
		return nil, errScheme
	}
	t := &target{network: "tcp", secure: strings.HasPrefix(scheme, "rediss")}
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
	if at := strings.LastIndexByte(rest, '@'); t.network == "tcp" && at >= 0 && strings.Contains(rest[:at], ":") {
		return nil, errPassword // whatever else is in it that ends what comes before the @
	}
	rest, query, _ := strings.Cut(rest, "?")
	if t.network == "unix" {
		if len(rest) < 2 || rest[0] != '/' {
			return nil, errSocket
		}
		t.addrs = []string{rest}
	} else if err := t.parseRest(rest); err != nil {
		return nil, err
	}
	if err := t.parseQuery(query); err != nil {
		return nil, err
	}
	return t, nil
}

// parseRest reads what stands between the scheme and the query.
func (t *target) parseRest(rest string) error {
	hosts, path, _ := strings.Cut(rest, "/")
	if at := strings.LastIndexByte(hosts, '@'); at >= 0 {
		name, err := url.PathUnescape(hosts[:at])
		if err != nil {
			return errUser
		}
		t.user, hosts = name, hosts[at+1:]
	}
	if err := t.parseHosts(hosts); err != nil {
		return err
	}
	switch t.form {
	case formSentinel:
		if !masterForm.MatchString(path) {
			return errMaster
		}
		t.master = path
	case formCluster:
		if path != "" && path != "0" {
			return errCluster
		}
	case formServer:
		if path != "" {
			return t.setDB(path)
		}
	}
	return nil
}

func (t *target) parseHosts(hosts string) error {
	for text := range strings.SplitSeq(hosts, ",") {
		if text == "" || text[0] == ':' {
			return errHost
		}
		host, port, err := net.SplitHostPort(text)
		if err != nil {
			host, port = strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"), t.port()
		}
		if _, err := netip.ParseAddr(host); err != nil && !hostForm.MatchString(host) {
			return errHostForm
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return errPort
		}
		t.addrs = append(t.addrs, net.JoinHostPort(host, port))
	}
	if t.form == formServer && len(t.addrs) > 1 {
		return errHosts
	}
	return nil
}

// port is the one of a host without.
func (t *target) port() string {
	if t.form == formSentinel {
		return sentinelPort
	}
	return defaultPort
}

func (t *target) parseQuery(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errQuery
	}
	for name, texts := range values {
		switch {
		case secretName.MatchString(name):
			return errPassword
		case name != "db" || t.form == formCluster:
			return errQuery
		case len(texts) > 1 || t.named:
			return errTwoDBs
		}
		if err := t.setDB(texts[0]); err != nil {
			return err
		}
	}
	return nil
}

func (t *target) setDB(text string) error {
	n, err := strconv.ParseUint(text, 10, 15)
	if err != nil {
		return errDB
	}
	t.db, t.named = int(n), true
	return nil
}
