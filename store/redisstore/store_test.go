package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9/logging"
	"go.uber.org/goleak"

	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/limiter/redislimiter"
	"github.com/kelpie-authz/kelpie/store"
	"github.com/kelpie-authz/kelpie/store/redisstore"
	"github.com/kelpie-authz/kelpie/store/storetest"
)

func TestMain(m *testing.M) {
	logging.Disable() // the client tells its own log what it meets
	if url := os.Getenv(childEnv); url != "" {
		if err := child(url, os.Stdin, os.Stdout); err != nil {
			panic(err)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// full tells whether the proofs run at their stated counts.
func full() bool { return os.Getenv("KELPIE_PROOF") == "full" }

// patient bounds an exchange in tests that are not about being late.
const patient = 10 * time.Second

const secret = "0123456789abcdef0123456789abcdef"

var prefixes atomic.Int64

// freshPrefix is one that no other test has.
func freshPrefix() string { return fmt.Sprint("t", prefixes.Add(1)) }

// setting is how a test opens stores on one Redis.
type setting struct {
	options redislimiter.Options
	cfg     redisstore.Config
}

func at(url string) *setting {
	return &setting{
		options: redislimiter.Options{URL: url, Timeout: patient},
		cfg:     redisstore.Config{Key: []byte(secret), Prefix: freshPrefix(), Timeout: patient},
	}
}

// try opens a store.
func (s *setting) try(ctx context.Context) (*redisstore.Store, error) {
	client, err := redislimiter.NewClient(s.options)
	if err != nil {
		return nil, err
	}
	cfg := s.cfg
	cfg.Client = client
	return redisstore.Open(ctx, cfg)
}

// open opens a store that the test closes.
func (s *setting) open(tb testing.TB) *redisstore.Store {
	tb.Helper()
	st, err := s.try(context.Background())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := st.Close(); err != nil {
			tb.Error(err)
		}
	})
	return st
}

// base is what the names of the keys begin with.
func (s *setting) base() string { return s.cfg.Prefix + ":{" + s.cfg.Prefix + ":approvals}:" }

func conforms(t *testing.T, url string) {
	t.Helper()
	n := storetest.Run(t, func(t *testing.T) storetest.Opener {
		t.Helper()
		s := at(url)
		s.cfg.Alarm = func(name string, why error) { t.Errorf("alarm about %q: %v", name, why) }
		return func(t *testing.T) store.Approvals {
			t.Helper()
			return s.open(t)
		}
	})
	if n != storetest.Cases {
		t.Errorf("%d cases ran, want %d", n, storetest.Cases)
	}
}

func TestConforms(t *testing.T) {
	t.Parallel()
	conforms(t, testkit.StartRedis(t, testkit.RedisConfig{}).URL())
}

func TestConformsBySentinel(t *testing.T) {
	t.Parallel()
	conforms(t, testkit.StartRedisSentinel(t).URL())
}

func TestConformsInACluster(t *testing.T) {
	t.Parallel()
	c := testkit.StartRedisCluster(t)
	conforms(t, c.URL())
	for _, n := range c.Nodes {
		if fmt.Sprint(n.Do(t, "info", "errorstats")) != "" && strings.Contains(fmt.Sprint(n.Do(t, "info", "errorstats")), "CROSSSLOT") {
			t.Errorf("%s says CROSSSLOT", n.Addr)
		}
	}
}

// What was said in its user's rights, and with TLS, is enough.
func TestRights(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t)
	r := testkit.StartRedis(t, testkit.RedisConfig{User: "kelpie", Password: "pw", CA: ca})
	s := at(r.URL())
	s.options.TLS = r.TLS()
	s.options.Password = func() (string, error) { return "pw", nil }
	r.Do(t, "acl", "setuser", "kelpie", "resetkeys", "resetchannels", "~"+s.cfg.Prefix+":*", "&"+s.cfg.Prefix+":*")
	st := s.open(t)
	if _, opened, err := st.Open(t.Context(), pending("a"), store.OpenLimits{Now: time.Now()}); err != nil || !opened {
		t.Errorf("opened %v, %v", opened, err)
	}
	other := at(r.URL())
	other.options, other.cfg.Prefix = s.options, "another"
	if _, err := other.try(t.Context()); err == nil || !strings.Contains(err.Error(), "ACL SETUSER kelpie ~another:* &another:* (") {
		t.Errorf("with keys that it may not touch: %v", err)
	}
	r.Do(t, "acl", "setuser", "kelpie", "resetchannels")
	if _, err := s.try(t.Context()); err == nil || !strings.Contains(err.Error(), "ACL SETUSER kelpie &"+s.cfg.Prefix+":* (") {
		t.Errorf("with a channel that it may not use: %v", err)
	}
	r.Do(t, "acl", "setuser", "kelpie", "allchannels", "-info")
	if _, err := s.try(t.Context()); err == nil || !strings.Contains(err.Error(), "ACL SETUSER kelpie +info (") {
		t.Errorf("without INFO: %v", err)
	}
	r.Do(t, "acl", "setuser", "kelpie", "+info") // for the end of the test
}

// Who may do what limits need and no more is told all that approvals need besides,
// as what to say to Redis; and that is enough.
func TestMissingRightsAreNamed(t *testing.T) {
	t.Parallel()
	r := testkit.StartRedis(t, testkit.RedisConfig{})
	s := at("redis://kelpie@" + r.Addr)
	s.options.Password = func() (string, error) { return "pw", nil }
	r.Do(t, words("acl setuser kelpie reset on >pw ~"+s.cfg.Prefix+":*", documented(t, "operations.md", limitsLine, "\n"))...)
	named := func() string {
		t.Helper()
		_, err := s.try(t.Context())
		if err == nil {
			t.Fatal("it opened without the rights that approvals need")
		}
		_, rest, found := strings.Cut(err.Error(), "its user may not do what approvals need; grant it on each server: ")
		rule, _, whole := strings.Cut(rest, " (docs/approvals.md has the whole line, and ACL LOG lists what was refused)")
		if !found || !whole || strings.Contains(err.Error(), "@user_script") {
			t.Fatalf("it says %q", err)
		}
		return rule
	}
	rule, want := named(), "ACL SETUSER kelpie &"+s.cfg.Prefix+":* "+documented(t, "approvals.md", approvalsLine, "`")
	if got := strings.Fields(rule); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(strings.Fields(want)))) {
		t.Errorf("it names  %s\nwant      %s", rule, want)
	}
	r.Do(t, words(rule)...)
	s.open(t)

	// One by one, whatever else there is.
	for _, right := range strings.Fields(rule)[3:] {
		if right[0] == '&' {
			r.Do(t, "acl", "setuser", "kelpie", "resetchannels")
		} else {
			r.Do(t, "acl", "setuser", "kelpie", "-"+right[1:])
		}
		if got := named(); got != "ACL SETUSER kelpie "+right {
			t.Errorf("without %s it names %q", right, got)
		}
		r.Do(t, "acl", "setuser", "kelpie", right)
	}
	r.Do(t, "acl", "setuser", "kelpie", "resetkeys", "~other:*")
	if got, want := named(), "ACL SETUSER kelpie ~"+s.cfg.Prefix+":*"; got != want {
		t.Errorf("without its keys it names %q, want %q", got, want)
	}
	r.Do(t, "acl", "setuser", "kelpie", "~"+s.cfg.Prefix+":*", "-eval", "-evalsha")
	if got := named(); got != "ACL SETUSER kelpie +eval +evalsha" {
		t.Errorf("without scripts it names %q", got)
	}
	r.Do(t, "acl", "setuser", "kelpie", "+eval", "+evalsha")
}

// The check tries every command of the scripts.
func TestCheckTriesAll(t *testing.T) {
	t.Parallel()
	tried := redisstore.CheckText()
	for name, text := range redisstore.ScriptTexts() {
		for _, m := range regexp.MustCompile(`call\('([A-Z]+)'`).FindAllStringSubmatch(text, -1) {
			if !strings.Contains(tried, "try('"+m[1]+"'") {
				t.Errorf("%s uses %s, which the check does not try", name, m[1])
			}
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*redisstore.Config){
		"no client":    func(c *redisstore.Config) { c.Client = nil },
		"a short key":  func(c *redisstore.Config) { c.Key = c.Key[1:] },
		"a bad prefix": func(c *redisstore.Config) { c.Prefix = "a{b}" },
	} {
		s := at("redis://" + testkit.FreeAddr(t))
		client, err := redislimiter.NewClient(s.options)
		if err != nil {
			t.Fatal(err)
		}
		cfg := s.cfg
		cfg.Client = client
		change(&cfg)
		if _, err := redisstore.Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "redisstore") {
			t.Errorf("%s: %v", name, err)
		}
		_ = client.Close()
	}
	gone := at("redis://" + testkit.FreeAddr(t))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := gone.try(ctx); err == nil {
		t.Error("it opened where nothing listens")
	}
}

func TestReadKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := dir + "/" + name
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if key, err := redisstore.ReadKey(write("good", secret+"\n", 0o400)); err != nil || string(key) != secret {
		t.Errorf("%q, %v", key, err)
	}
	for path, want := range map[string]string{
		write("short", secret[1:]+"\n\n", 0o600): "openssl rand",
		write("open", secret, 0o640):             "chmod 600",
		dir + "/missing":                         "openssl rand",
	} {
		if _, err := redisstore.ReadKey(path); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secret[1:]) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// Pending ones are opened, used ones consumed, as the desk does.

func pending(id string) *store.Approval {
	now := time.Now()
	return &store.Approval{
		ID: id, Digest: "digest of " + id, Agent: "bot", Action: "delete", Resource: "x", OpenedAt: now, ExpiresAt: now.Add(time.Hour),
	}
}

// approved opens an approval and lets humans say yes.
func approved(tb testing.TB, s store.Approvals, id string) *store.Approval {
	tb.Helper()
	a, opened, err := s.Open(tb.Context(), pending(id), store.OpenLimits{Now: time.Now()})
	if err != nil || !opened {
		tb.Fatalf("open %s: opened %v, %v", id, opened, err)
	}
	a.State, a.UseBy = store.Approved, time.Now().Add(time.Hour)
	if err := s.Swap(tb.Context(), a); err != nil {
		tb.Fatal(err)
	}
	return a
}

// errNotUsable says that an approval cannot be used as it stands.
var errNotUsable = errors.New("it cannot be used")

// consume does to an approval what lets one call through; nil: it is this call.
func consume(ctx context.Context, s store.Approvals, id, call string) error {
	a, err := s.Get(ctx, id)
	if err != nil {
		return err
	}
	if a.State != store.Approved || a.Unsure {
		return errNotUsable
	}
	a.State, a.EndedAt, a.Used = store.Consumed, time.Now(), &store.Use{DecisionID: call, At: time.Now()}
	return s.Swap(ctx, a)
}

// Where the documents name rights.
const (
	limitsLine    = "ACL SETUSER kelpie on >PASSWORD ~kelpie:* "
	approvalsLine = "`ACL SETUSER kelpie &kelpie:* "
)

// documented is what a page says between two texts.
func documented(t *testing.T, page, from, to string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(testkit.Root(t), "docs", page))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), from)
	part, _, ended := strings.Cut(rest, to)
	if !found || !ended {
		t.Fatalf("%s names no rights", page)
	}
	return part
}

// words are those of a command.
func words(texts ...string) (out []any) {
	for w := range strings.FieldsSeq(strings.Join(texts, " ")) {
		out = append(out, w)
	}
	return out
}

// The rights that docs/approvals.md names, with those that limits need, are enough
// for everything.
func TestDocumentedRights(t *testing.T) {
	t.Parallel()
	r := testkit.StartRedis(t, testkit.RedisConfig{})
	s := at("redis://kelpie@" + r.Addr)
	s.options.Password = func() (string, error) { return "pw", nil }
	rights := words(documented(t, "operations.md", limitsLine, "\n"), documented(t, "approvals.md", approvalsLine, "`"))
	r.Do(t, append(words("acl setuser kelpie reset on >pw ~"+s.cfg.Prefix+":* &"+s.cfg.Prefix+":*"), rights...)...)
	st := s.open(t)
	approved(t, st, "yes")
	if err := consume(t.Context(), st, "yes", "d"); err != nil {
		t.Error(err)
	}
	if _, _, err := st.List(t.Context(), store.Filter{}); err != nil {
		t.Error(err)
	}
	if n, err := st.Prune(t.Context(), time.Now().Add(time.Hour)); err != nil || n != 1 {
		t.Errorf("%d removed, %v", n, err)
	}
	if len(rights) < 30 {
		t.Errorf("only %q", rights)
	}
}
