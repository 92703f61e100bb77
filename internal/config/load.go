package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	yaml "go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	configv1 "github.com/kelpie-authz/kelpie/gen/kelpie/config/v1"
)

// EnvPrefix starts the name of every environment variable; the rest is the key
// in upper case: KELPIE_GRPC_ADDR. KELPIE_CONFIG names the file itself.
const EnvPrefix = "KELPIE_"

// maxFileBytes bounds the configuration file, which is a dozen lines.
const maxFileBytes = 1 << 20

// Sources say where a configuration comes from. The zero value has nothing in
// it, and Load then fails for want of a policy.
type Sources struct {
	// File is the YAML file; empty means KELPIE_CONFIG, or none.
	File string
	// Lookup finds an environment variable, as os.LookupEnv; nil means no
	// environment. A variable that is set to nothing counts as not set, since
	// deployment tools leave such behind.
	Lookup func(name string) (string, bool)
	// Flags are the flags that were given, by key ([Key.Name]), as text. An
	// empty or zero one means the default, as everywhere.
	Flags map[string]string
}

// Key is one setting: a key of the file, a flag and an environment variable.
type Key struct {
	// Name is the key in the file: grpc_addr.
	Name string
	// Flag is the flag's name without dashes: grpc-addr.
	Flag string
	// Env is the environment variable: KELPIE_GRPC_ADDR.
	Env string
	// Bool says that the flag needs no value.
	Bool bool
	// Default is what holds when nothing is said, as text; it may be empty.
	Default string
	// Usage says in a sentence what it is.
	Usage string
}

// Keys lists all settings in the order of the schema but those that the file
// alone can have, see [FileKeys], so that a command line can make its flags from them.
func Keys() []Key {
	fields := (&configv1.Config{}).ProtoReflect().Descriptor().Fields()
	keys := make([]Key, 0, fields.Len())
	for i := range fields.Len() {
		f := fields.Get(i)
		if fileOnly(f) {
			continue
		}
		name := string(f.Name())
		about := usages[name]
		keys = append(keys, Key{
			Name:    name,
			Flag:    strings.ReplaceAll(name, "_", "-"),
			Env:     EnvPrefix + strings.ToUpper(name),
			Bool:    f.Kind() == protoreflect.BoolKind,
			Default: about.fallback,
			Usage:   about.usage,
		})
	}
	return keys
}

// usages are beside the schema because generated code keeps no comments; a
// test demands an entry per field.
//
//nolint:gochecknoglobals // A constant table; Go has no constant maps.
var usages = map[string]struct{ fallback, usage string }{
	"policy":                       {"", "directory of the policy documents (needed)"},
	"grpc_addr":                    {DefaultGRPCAddr, "where gateways ask over gRPC: host:port or unix:///path"},
	"admin_addr":                   {DefaultAdminAddr, "where administrators ask over gRPC: host:port or unix:///path"},
	"health_addr":                  {DefaultHealthAddr, "where probes and Prometheus ask over plain HTTP"},
	"state":                        {DefaultState, "directory of the server's own files (admin.token)"},
	"tls_cert":                     {"", "PEM file of the server's certificate chain; read again when it changes"},
	"tls_key":                      {"", "PEM file of the certificate's private key; read again when it changes"},
	"client_ca":                    {"", "PEM file of the authorities of client certificates; turns mTLS on"},
	"insecure":                     {"", "listen off loopback without TLS and trust every caller; for tests and closed networks only"},
	"log_level":                    {"info", "debug, info, warn or error; decisions are always recorded"},
	"max_in_flight":                {strconv.Itoa(DefaultMaxInFlight), "calls worked on at once; those beyond are shed"},
	"max_limit_keys":               {strconv.Itoa(DefaultMaxLimitKeys), "buckets that the in-process limiter may hold"},
	"drain_delay":                  {"0s", "how long to serve on after NOT_SERVING was reported"},
	"drain_timeout":                {DefaultDrainTimeout.String(), "how long calls under way may take to finish at shutdown"},
	"redis":                        {"", "where replicas share limits: redis://HOST:PORT; docs/operations.md has the other forms"},
	"redis_password_file":          {"", "file with the password of Redis; KELPIE_REDIS_PASSWORD holds the password itself"},
	"redis_sentinel_password_file": {"", "file with the password of the sentinels; KELPIE_REDIS_SENTINEL_PASSWORD holds the password itself"},
	"redis_ca":                     {"", "PEM file of the authorities of Redis's certificate"},
	"redis_cert":                   {"", "PEM file of the certificate that is shown to Redis"},
	"redis_key":                    {"", "PEM file of that certificate's private key"},
	"redis_prefix":                 {DefaultRedisPrefix, "what every key in Redis begins with"},
	"redis_timeout":                {DefaultRedisTimeout.String(), "how long one exchange with Redis may take"},
	"redis_coalescing":             {"on", "on or off: calls that come at the same time go to Redis together"},
	"redis_deny_cache":             {"on", "on or off: a call that was just denied is denied from memory for up to a second"},
	"redis_leases":                 {"on", "on or off: of limits that say lease: true, units are taken ahead"},
	"audit":                        {string(AuditWrites), "which records are on the disk before an answer leaves: writes, all, async, or off for no audit"},
	"audit_dir":                    {"STATE/audit", "directory of the audit"},
	"audit_key_file":               {"STATE/audit.key", "file with the key that signs the audit; made where it is missing"},
	"audit_keep_age":               {"", "how long closed segments of the audit are kept; default for ever"},
	"audit_keep_mib":               {"", "how large closed segments of the audit may be together; default no bound"},
	"approvals_key_file":           {"", "file with the key that approvals in Redis are sealed by, the same on every replica; needs redis"},
	"approver_client_ca":           {"", "PEM file of the authorities of approvers' certificates on the admin listener; needs tls_cert"},
	"approver_oidc_issuer":         {"", "issuer of the identity provider whose tokens name approvers"},
	"approver_oidc_audience":       {"", "audience that those tokens must be made for"},
	"approver_oidc_name_claim":     {"email", "claim that names the approver"},
	"approver_oidc_groups_claim":   {"groups", "claim that lists the approver's groups"},
	"approver_oidc_acr":            {"", "values of acr, separated by commas, that are strong enough; default any"},
	"approver_oidc_max_age":        {"12h", "for how long a log-in is good"},
	"approver_oidc_ca":             {"", "PEM file of the authorities of the identity provider's certificate; default the system's"},
	"gc_percent":                   {strconv.Itoa(DefaultGCPercent), "the garbage collector's target percentage, unless GOGC is set"},
}

// Load reads the sources, lays them over each other, fills in the defaults and
// validates. The error holds every fault that was found, each with its place:
// file:line:column, the variable's or the flag's name.
func Load(src Sources) (*Config, error) {
	lookup := src.Lookup
	if lookup == nil {
		lookup = func(string) (string, bool) { return "", false }
	}
	file := src.File
	if file == "" {
		file, _ = lookup(EnvPrefix + "CONFIG")
	}
	msg := &configv1.Config{}
	var faults []error
	if file != "" {
		if err := readFile(file, msg); err != nil {
			faults = append(faults, err)
		}
	}
	faults = append(faults, overlay(msg, lookup, src.Flags)...)
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	cfg := fromProto(msg)
	// Passwords are neither flags, which other users of the machine see, nor
	// keys of the file, which is copied around.
	if secret, ok := lookup(EnvPrefix + "REDIS_PASSWORD"); ok {
		cfg.Redis.Password = Secret(secret)
	}
	if secret, ok := lookup(EnvPrefix + "REDIS_SENTINEL_PASSWORD"); ok {
		cfg.Redis.SentinelPassword = Secret(secret)
	}
	if err := errors.Join(cfg.Validate(), aimless(msg, &cfg.Redis)); err != nil {
		return nil, err
	}
	return cfg, nil
}

// aimless refuses what is said about Redis where nothing says that there is one:
// a replica that counts by itself unnoticed admits the limit once more.
func aimless(msg *configv1.Config, r *Redis) error {
	if r.URL != "" {
		return nil
	}
	var faults []error
	add := func(name string) {
		faults = append(faults, fmt.Errorf("%s: is set, but redis is not, so each replica would count by itself; name where Redis is (--redis, KELPIE_REDIS), or leave this out", name))
	}
	m := msg.ProtoReflect()
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		if f := fields.Get(i); strings.HasPrefix(string(f.Name()), "redis_") && m.Has(f) {
			add(string(f.Name()))
		}
	}
	if msg.GetApprovalsKeyFile() != "" {
		faults = append(faults, errors.New("approvals_key_file: is set, but redis is not, so each replica would keep approvals by itself; name where Redis is (--redis, KELPIE_REDIS), or leave this out"))
	}
	if r.Password != "" {
		add(EnvPrefix + "REDIS_PASSWORD")
	}
	if r.SentinelPassword != "" {
		add(EnvPrefix + "REDIS_SENTINEL_PASSWORD")
	}
	return errors.Join(faults...)
}

func overlay(msg *configv1.Config, lookup func(string) (string, bool), flags map[string]string) []error {
	var faults []error
	known := make(map[string]bool, len(flags))
	for _, key := range Keys() {
		known[key.Name] = true
		if text, ok := lookup(key.Env); ok && text != "" {
			if err := set(msg, key.Name, text); err != nil {
				faults = append(faults, fmt.Errorf("%s: %w", key.Env, err))
			}
		}
		if text, ok := flags[key.Name]; ok {
			if err := set(msg, key.Name, text); err != nil {
				faults = append(faults, fmt.Errorf("--%s: %w", key.Flag, err))
			}
		}
	}
	for name := range flags {
		if !known[name] {
			faults = append(faults, fmt.Errorf("flag for key %q: there is no such key", name))
		}
	}
	return faults
}

// set writes one field from text, as flags and environment variables have it, and
// holds it to the rules of the schema.
func set(msg *configv1.Config, name, text string) error {
	alone := &configv1.Config{}
	for _, m := range []*configv1.Config{alone, msg} {
		if err := parse(m, name, text); err != nil {
			return err
		}
	}
	return checkRules(alone, text)
}

// parse writes one field from text.
func parse(msg *configv1.Config, name, text string) error {
	m := msg.ProtoReflect()
	field := m.Descriptor().Fields().ByName(protoreflect.Name(name))
	switch field.Kind() {
	case protoreflect.StringKind:
		m.Set(field, protoreflect.ValueOfString(text))
	case protoreflect.BoolKind:
		v, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		m.Set(field, protoreflect.ValueOfBool(v))
	case protoreflect.Uint32Kind:
		v, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return fmt.Errorf("%q is not a whole number from 0 to 4294967295", text)
		}
		m.Set(field, protoreflect.ValueOfUint32(uint32(v)))
	case protoreflect.MessageKind:
		v, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is not a duration; write a number and its unit, such as 100ms, 15s or 2m", text)
		}
		m.Set(field, protoreflect.ValueOfMessage(durationpb.New(v).ProtoReflect()))
	default:
		return fmt.Errorf("no flag can set a field of kind %v", field.Kind())
	}
	return nil
}

func readFile(path string, msg *configv1.Config) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	if len(data) > maxFileBytes {
		return fmt.Errorf("read the configuration: %s is larger than %d bytes", path, maxFileBytes)
	}
	top, err := parseShape(path, data)
	if err != nil || top == nil {
		return err
	}
	var faults []error
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		if err := setNode(msg, key.Value, value); err != nil {
			faults = append(faults, fmt.Errorf("%s:%d:%d: %s: %w", path, value.Line, value.Column, key.Value, err))
		}
	}
	return errors.Join(faults...)
}

// setNode writes one field from a value of the file.
func setNode(msg *configv1.Config, name string, value *yaml.Node) error {
	if value.Kind == yaml.AliasNode {
		value = value.Alias
	}
	if field := msg.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(name)); fileOnly(field) {
		return setNested(msg.ProtoReflect(), field, value)
	}
	if value.Kind != yaml.ScalarNode {
		return errors.New("is not a single value; write one, without brackets and dashes")
	}
	text := value.Value
	switch msg.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(name)).Kind() {
	case protoreflect.BoolKind:
		if value.Tag != "!!bool" {
			return fmt.Errorf("%q is neither true nor false", text)
		}
	case protoreflect.Uint32Kind:
		var n uint32 // YAML has more ways to write one: 0x10, 1_000.
		if value.Decode(&n) == nil {
			text = strconv.FormatUint(uint64(n), 10)
		}
	default:
	}
	return set(msg, name, text)
}

// parseShape parses a file and refuses keys that are unknown, given twice or
// without a value, and more than one document. It returns the map of keys, or nil
// if there is none.
func parseShape(path string, data []byte) (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var root yaml.Node
	if err := dec.Decode(&root); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		return nil, fmt.Errorf("read the configuration: %s: %w", path, err)
	}
	var next yaml.Node
	if err := dec.Decode(&next); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: holds more than one YAML document; write one", path)
	}
	top := root.Content[0]
	if top.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s:%d:%d: is not a map of keys; write key: value lines", path, top.Line, top.Column)
	}
	var faults []error
	seen := make(map[string]*yaml.Node, len(top.Content)/2)
	fields := (&configv1.Config{}).ProtoReflect().Descriptor().Fields()
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		at := fmt.Sprintf("%s:%d:%d", path, key.Line, key.Column)
		if first, twice := seen[key.Value]; twice {
			faults = append(faults, fmt.Errorf("%s: %s is given twice, first in line %d; keep one", at, key.Value, first.Line))
		}
		seen[key.Value] = key
		if fields.ByName(protoreflect.Name(key.Value)) == nil {
			faults = append(faults, fmt.Errorf("%s: there is no key %q", at, key.Value))
		}
		if value.Kind == yaml.ScalarNode && (value.Tag == "!!null" || value.Value == "") {
			faults = append(faults, fmt.Errorf("%s: %s has no value; write one or leave the line out", at, key.Value))
		}
	}
	return top, errors.Join(faults...)
}
