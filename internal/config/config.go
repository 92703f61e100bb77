// Package config reads what `kelpie serve` is told besides the policy: a YAML
// file whose schema is kelpie.config.v1.Config, KELPIE_ environment variables,
// and flags. A flag beats the environment, which beats the file.
//
// It is not for the policy, nor for what a client command is told.
//
//	cfg, err := config.Load(config.Sources{
//		File:   "/etc/kelpie/config.yaml",
//		Lookup: os.LookupEnv,
//		Flags:  map[string]string{"grpc_addr": "127.0.0.1:7070"},
//	})
//	if err != nil {
//		return err // every fault of every source, one a line
//	}
package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	configv1 "github.com/kelpie-authz/kelpie/gen/kelpie/config/v1"
)

// Defaults of the fields that have one; Config holds them where nothing was said.
const (
	DefaultGRPCAddr     = "127.0.0.1:7070"
	DefaultAdminAddr    = "127.0.0.1:7072"
	DefaultHealthAddr   = "127.0.0.1:7073"
	DefaultState        = ".kelpie"
	DefaultMaxInFlight  = 4096
	DefaultMaxLimitKeys = 1_000_000
	DefaultDrainTimeout = 15 * time.Second
	DefaultGCPercent    = 400
	DefaultRedisPrefix  = "kelpie"
	DefaultRedisTimeout = 100 * time.Millisecond
)

// Config is the server's configuration with every default filled in. It is a
// value: nothing in it changes after Load. The zero value is not valid, see
// [Config.Validate]; [Default] is, once Policy is set.
type Config struct {
	// Policy is the directory of the policy documents.
	Policy string
	// GRPCAddr, AdminAddr and HealthAddr are host:port or unix:///path.
	GRPCAddr   string
	AdminAddr  string
	HealthAddr string
	// State is the directory of the server's own files.
	State string
	// TLSCert, TLSKey and ClientCA are PEM files; empty means no TLS, no mTLS.
	TLSCert  string
	TLSKey   string
	ClientCA string
	// Insecure listens off loopback without TLS and trusts every caller.
	Insecure bool
	LogLevel slog.Level
	// MaxInFlight is how many calls may be worked on at once.
	MaxInFlight int
	// MaxLimitKeys is how many buckets the in-process limiter may hold.
	MaxLimitKeys int
	// DrainDelay is how long to serve on after NOT_SERVING was reported.
	DrainDelay time.Duration
	// DrainTimeout is how long calls under way may take at shutdown.
	DrainTimeout time.Duration
	// GCPercent is the garbage collector's target, as GOGC.
	GCPercent int
	// Redis says where limits are shared by replicas.
	Redis Redis
	// Audit says how everything is recorded.
	Audit Audit
	// ApprovalsKeyFile is what approvals in Redis are sealed by; empty: each
	// replica keeps its own.
	ApprovalsKeyFile string
	// Approvers says how those who decide are known.
	Approvers Approvers
	// Webhooks are told what happens to approvals.
	Webhooks []Webhook
	// Slack is where cards of approvals are posted.
	Slack Slack
}

// Approvers is how those who decide approvals are known. The zero value is by the
// admin token alone.
type Approvers struct {
	// ClientCA is a PEM file of the authorities of their certificates.
	ClientCA string
	// OIDC is whose tokens name them; its Issuer is empty if there are none.
	OIDC OIDC
}

// OIDC is an identity provider. Empty names and a zero MaxAge are the defaults of
// package oidcid.
type OIDC struct {
	Issuer, Audience       string
	NameClaim, GroupsClaim string
	ACR                    []string
	MaxAge                 time.Duration
	// CA is a PEM file; empty: the system's authorities.
	CA string
}

// AuditMode says which records are on the disk before an answer leaves.
type AuditMode string

// The modes.
const (
	// AuditWrites: of every ALLOW but of plain reads, and of every change.
	AuditWrites AuditMode = "writes"
	// AuditAll: of everything.
	AuditAll AuditMode = "all"
	// AuditAsync: of nothing; a crash can cut what was answered last.
	AuditAsync AuditMode = "async"
	// AuditOff: there is no audit.
	AuditOff AuditMode = "off"
)

// Audit is how everything is recorded. The zero value is not valid; Default's is.
type Audit struct {
	Mode AuditMode
	// Dir and KeyFile are empty for audit and audit.key in the state directory.
	Dir, KeyFile string
	// KeepAge and KeepBytes bound what is kept; zero: they do not.
	KeepAge   time.Duration
	KeepBytes int64
}

// Redis is how the shared limits are reached. The zero value is that there are
// none.
type Redis struct {
	// URL is empty if limits are kept in this process.
	URL string
	// PasswordFile and SentinelPasswordFile hold passwords; Password and
	// SentinelPassword come from the environment alone. One of each pair is empty.
	PasswordFile         string
	SentinelPasswordFile string
	Password             Secret
	SentinelPassword     Secret
	// CA, Cert and Key are PEM files; empty: the system's authorities, no
	// certificate.
	CA, Cert, Key string
	Prefix        string
	Timeout       time.Duration
	// NoCoalescing, NoDenyCache and NoLeases switch off what saves exchanges.
	NoCoalescing bool
	NoDenyCache  bool
	NoLeases     bool
}

// Secret is a text that is not printed.
type Secret string

// String hides the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "(hidden)"
}

// GoString hides the secret.
func (s Secret) GoString() string { return s.String() }

// LogValue hides the secret.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText hides the secret.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Default returns the configuration of a server that was told nothing. Its
// Policy is empty, which Validate refuses.
func Default() *Config { return fromProto(&configv1.Config{}) }

// Validate returns every fault, joined, each naming its key and what to write
// instead; nil if there is none. It opens no file.
func (c *Config) Validate() error {
	var faults []error
	add := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }

	if c.Policy == "" {
		add("policy: no policy directory was named; write --policy DIR")
	}
	if c.State == "" {
		add("state: is empty; name a directory that the server may create")
	}
	for _, a := range []struct{ key, addr string }{
		{"grpc_addr", c.GRPCAddr}, {"admin_addr", c.AdminAddr}, {"health_addr", c.HealthAddr},
	} {
		if err := checkAddr(a.addr); err != nil {
			add("%s: %w", a.key, err)
		}
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		add("tls_cert, tls_key: one is set without the other; TLS needs both")
	}
	if c.ClientCA != "" && c.TLSCert == "" {
		add("client_ca: client certificates need TLS; set tls_cert and tls_key too")
	}
	for _, a := range []struct{ key, addr string }{{"grpc_addr", c.GRPCAddr}, {"admin_addr", c.AdminAddr}} {
		if !Local(a.addr) && c.TLSCert == "" && !c.Insecure && checkAddr(a.addr) == nil {
			add("%s: %s is not a loopback address, and TLS is off: set tls_cert and tls_key, listen on 127.0.0.1 "+
				"or a unix socket, or say insecure (for tests and closed networks only)", a.key, a.addr)
		}
	}
	faults = append(faults, c.checkApprovers()...)
	faults = append(faults, c.checkNumbers()...)
	faults = append(faults, c.checkRedis()...)
	faults = append(faults, c.checkWebhooks()...)
	faults = append(faults, c.checkSlack()...)
	return errors.Join(faults...)
}

// checkRedis checks what can be seen without asking Redis. The URL is read by
// whoever connects.
func (c *Config) checkRedis() []error {
	var faults []error
	r := &c.Redis
	if r.URL == "" {
		return nil // Load refuses what is said besides.
	}
	if (r.Cert == "") != (r.Key == "") {
		faults = append(faults, errors.New("redis_cert, redis_key: one is set without the other; set both or none"))
	}
	if secure := strings.HasPrefix(r.URL, "rediss"); !secure && (r.CA != "" || r.Cert != "") {
		faults = append(faults, errors.New("redis_ca, redis_cert: TLS is off; write rediss:// (or rediss-sentinel://, rediss-cluster://) in redis"))
	}
	if r.PasswordFile != "" && r.Password != "" {
		faults = append(faults, errors.New("redis_password_file: KELPIE_REDIS_PASSWORD is set too; keep one"))
	}
	if r.SentinelPasswordFile != "" && r.SentinelPassword != "" {
		faults = append(faults, errors.New("redis_sentinel_password_file: KELPIE_REDIS_SENTINEL_PASSWORD is set too; keep one"))
	}
	return faults
}

func (c *Config) checkApprovers() []error {
	var faults []error
	if c.Approvers.ClientCA != "" && c.TLSCert == "" {
		faults = append(faults, errors.New("approver_client_ca: certificates need TLS; set tls_cert and tls_key too"))
	}
	o := &c.Approvers.OIDC
	if o.Issuer != "" && o.Audience == "" {
		faults = append(faults, errors.New("approver_oidc_audience: is missing; name the client or API that only the log-ins of approvers are made for"))
	}
	if o.Issuer == "" && (o.Audience != "" || o.NameClaim != "" || o.GroupsClaim != "" || o.ACR != nil || o.MaxAge != 0 || o.CA != "") {
		faults = append(faults, errors.New("approver_oidc_issuer: is missing, and other approver_oidc keys are set; name the identity provider"))
	}
	return faults
}

func (c *Config) checkNumbers() []error {
	var faults []error
	for _, n := range []struct {
		key string
		n   int
	}{
		{"max_in_flight", c.MaxInFlight}, {"max_limit_keys", c.MaxLimitKeys}, {"gc_percent", c.GCPercent},
	} {
		if n.n <= 0 {
			faults = append(faults, fmt.Errorf("%s: %d is not a positive number", n.key, n.n))
		}
	}
	if c.DrainDelay < 0 {
		faults = append(faults, fmt.Errorf("drain_delay: %v is negative", c.DrainDelay))
	}
	if c.DrainTimeout <= 0 {
		faults = append(faults, fmt.Errorf("drain_timeout: %v is not a positive duration", c.DrainTimeout))
	}
	return faults
}

// Local reports whether only this machine can reach addr: a unix socket, or a
// literal loopback address. A host name other than localhost is not local,
// because nothing says what it will resolve to.
func Local(addr string) bool {
	if strings.HasPrefix(addr, "unix:") {
		return true
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

func checkAddr(addr string) error {
	if rest, ok := strings.CutPrefix(addr, "unix:"); ok {
		path, ok := strings.CutPrefix(rest, "//")
		if !ok || !filepath.IsAbs(path) || path != filepath.Clean(path) {
			return fmt.Errorf("%q is not a unix address; write unix:///absolute/path", addr)
		}
		return nil
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is not an address; write host:port or unix:///path", addr)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n > 65535 {
		return fmt.Errorf("%q has no valid port; write a number from 0 to 65535", addr)
	}
	return nil
}

// fromProto fills the defaults in; m passed its rules.
func fromProto(m *configv1.Config) *Config {
	return &Config{
		Policy:       m.GetPolicy(),
		GRPCAddr:     or(m.GetGrpcAddr(), DefaultGRPCAddr),
		AdminAddr:    or(m.GetAdminAddr(), DefaultAdminAddr),
		HealthAddr:   or(m.GetHealthAddr(), DefaultHealthAddr),
		State:        or(m.GetState(), DefaultState),
		TLSCert:      m.GetTlsCert(),
		TLSKey:       m.GetTlsKey(),
		ClientCA:     m.GetClientCa(),
		Insecure:     m.GetInsecure(),
		LogLevel:     level(m.GetLogLevel()),
		MaxInFlight:  or(int(m.GetMaxInFlight()), DefaultMaxInFlight),
		MaxLimitKeys: or(int(m.GetMaxLimitKeys()), DefaultMaxLimitKeys),
		DrainDelay:   m.GetDrainDelay().AsDuration(),
		DrainTimeout: or(m.GetDrainTimeout().AsDuration(), DefaultDrainTimeout),
		GCPercent:    or(int(m.GetGcPercent()), DefaultGCPercent),
		Redis: Redis{
			URL:          m.GetRedis(),
			PasswordFile: m.GetRedisPasswordFile(), SentinelPasswordFile: m.GetRedisSentinelPasswordFile(),
			CA: m.GetRedisCa(), Cert: m.GetRedisCert(), Key: m.GetRedisKey(),
			Prefix:       or(m.GetRedisPrefix(), DefaultRedisPrefix),
			Timeout:      or(m.GetRedisTimeout().AsDuration(), DefaultRedisTimeout),
			NoCoalescing: m.GetRedisCoalescing() == "off",
			NoDenyCache:  m.GetRedisDenyCache() == "off",
			NoLeases:     m.GetRedisLeases() == "off",
		},
		Audit: Audit{
			Mode: AuditMode(or(m.GetAudit(), string(AuditWrites))), Dir: m.GetAuditDir(), KeyFile: m.GetAuditKeyFile(),
			KeepAge: m.GetAuditKeepAge().AsDuration(), KeepBytes: int64(m.GetAuditKeepMib()) << 20,
		},
		ApprovalsKeyFile: m.GetApprovalsKeyFile(),
		Approvers: Approvers{ClientCA: m.GetApproverClientCa(), OIDC: OIDC{
			Issuer: m.GetApproverOidcIssuer(), Audience: m.GetApproverOidcAudience(),
			NameClaim: m.GetApproverOidcNameClaim(), GroupsClaim: m.GetApproverOidcGroupsClaim(),
			ACR: words(m.GetApproverOidcAcr()), MaxAge: m.GetApproverOidcMaxAge().AsDuration(), CA: m.GetApproverOidcCa(),
		}},
		Webhooks: webhooksOf(m.GetWebhooks()),
		Slack:    slackOf(m.GetSlack()),
	}
}

// words are the parts of a list that commas separate; nil if there are none.
func words(list string) (out []string) {
	for part := range strings.SplitSeq(list, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

func or[T comparable](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return v
}

func level(name string) slog.Level {
	switch name {
	case "debug":
		return slog.LevelDebug
	case "warn":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	default:
		return slog.LevelInfo
	}
}
