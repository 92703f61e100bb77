package archtest_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// pkg makes a node of a made-up graph.
func pkg(path string, imports ...string) node {
	return node{ImportPath: path, Name: path[strings.LastIndex(path, "/")+1:], Doc: "Package x is.", Imports: imports}
}

// TestImportsAreCaught breaks the table in every way and sees each one named.
func TestImportsAreCaught(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name string
		node node
		want string // part of the one finding; empty: none
	}{
		{"policy may read its own schema", pkg("policy", "./gen/kelpie/policy/v1", "net/netip", "io/fs"), ""},
		{"policy must not read another schema", pkg("policy", "./gen/kelpie/authz/v1"), "policy imports gen/kelpie/authz/v1"},
		{"policy must not open sockets", pkg("policy", "net"), "without I/O"},
		{"policy must not call procedures", pkg("policy", "net/rpc"), "without I/O"},
		{"policy must not send mail", pkg("policy", "net/smtp"), "without I/O"},
		{"policy must not load code", pkg("policy", "plugin"), "policy imports plugin"},
		{"policy must not step around types", pkg("policy", "unsafe"), "policy imports unsafe"},
		{"limiter must not open sockets", pkg("limiter", "net/http/httptrace"), "without I/O"},
		{"policy must not open files", pkg("policy", "os"), "policy imports os"},
		{"policy must not start programs", pkg("policy", "os/exec"), "policy imports os/exec"},
		{"policy must not log", pkg("policy", "log/slog"), "policy imports log/slog"},
		{"policy must not draw", pkg("policy", "math/rand/v2"), "same decision"},
		{"policy must not draw keys", pkg("policy", "crypto/rand"), "same decision"},
		{"limiter stands alone", pkg("limiter", "./policy"), "a root is understood alone"},
		{"roots do not know each other", pkg("audit", "./store"), "a root is understood alone"},
		{"limiter must not draw", pkg("limiter", "math/rand"), "limiter imports math/rand"},
		{"pdp composes", pkg("pdp", "./policy", "./limiter", "./store", "./audit", "./identity"), ""},
		{"pdp knows no driver", pkg("pdp", "./limiter/redislimiter"), "no door and no driver"},
		{"pdp knows no messages of ours", pkg("pdp", "./gen/kelpie/authz/v1"), "no door and no driver"},
		{"pdp knows no messages", pkg("pdp", "google.golang.org/protobuf/proto"), "stop at the adapters"},
		{"pdp knows no grpc", pkg("pdp", "google.golang.org/grpc"), "without gRPC"},
		{"pdp knows no status", pkg("pdp", "google.golang.org/grpc/status"), "without gRPC"},
		{"pdp makes no spans", pkg("pdp", "go.opentelemetry.io/otel/trace"), "which wraps the core"},
		{"limiter makes no spans", pkg("limiter", "go.opentelemetry.io/otel/trace"), "which wraps the core"},
		{"spans are made from outside", pkg("internal/obs", "./pdp", "./limiter", "go.opentelemetry.io/otel/trace"), ""},
		{"an adapter translates", pkg("server/grpcapi", "./pdp", "./gen/kelpie/authz/v1", "google.golang.org/grpc"), ""},
		{"an adapter does not decide", pkg("server/grpcapi", "./policy"), "never decides"},
		{"an adapter does not charge", pkg("server/extauthz", "./limiter"), "never decides"},
		{"an adapter knows no other", pkg("server/authzen", "./server/grpcapi"), "knows no other door"},
		{"the frame of the server does not decide", pkg("server", "./policy"), "never decides"},
		{"a driver knows its root", pkg("limiter/redislimiter", "./limiter"), ""},
		{"a driver knows no other root", pkg("limiter/redislimiter", "./store"), "its root"},
		{"the client is light", pkg("client", "./pdp"), "must not bring the server"},
		{"app wires", pkg("internal/app", "./limiter/redislimiter", "./server/grpcapi", "./policy"), ""},
		{"app exports spans", pkg("internal/app", "go.opentelemetry.io/otel/exporters/otlp/otlptrace"), ""},
		{"app links no gzip", pkg("internal/app", "go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"), "gRPC's gzip"},
		{"app has no suite", pkg("internal/app", "./limiter/limitertest"), whySuite},
		{"app has no test kit", pkg("internal/app", "./internal/testkit"), whySuite},
		{"app has no injected approvals", pkg("internal/app", "./internal/policytest"), "everything but"},
		{"main starts commands", pkg("cmd/kelpie", "./internal/cli"), ""},
		{"main does no more", pkg("cmd/kelpie", "./internal/app"), "nothing else"},
		{"a suite uses test libraries", pkg("limiter/limitertest", "./limiter", "testing", "pgregory.net/rapid"), ""},
		{"production does not", pkg("internal/obs", "testing"), "test runner"},
		{"production does not compare by go-cmp", pkg("policy", "github.com/google/go-cmp/cmp"), "tests only"},
		{"tools are not linked", pkg("internal/cli", "./internal/bench"), "run, not linked"},
		{"a new package needs a rule", pkg("internal/surprise"), "is in no rule"},
		{"a new package below a driver needs a rule", pkg("store/sqlitestore/pages"), "is in no rule"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			wantOne(t, judgeImports([]node{c.node}, house), c.want)
		})
	}
}

// TestPathsAreCaught sees a way through others.
func TestPathsAreCaught(t *testing.T) {
	t.Parallel()
	graph := []node{pkg("internal/app", "./server"), pkg("server", "./internal/obs"), pkg("internal/obs", "./internal/policytest"), pkg("internal/policytest")}
	wantOne(t, judgePaths(graph), "internal/app -> server -> internal/obs -> internal/policytest: ")
	wantOne(t, judgePaths(graph[:2]), "")
	loop := []node{pkg("internal/app", "./server"), pkg("server", "./internal/app")}
	wantOne(t, judgePaths(loop), "")
}

// TestSourcesAreCaught plants what the syntax must not hold.
func TestSourcesAreCaught(t *testing.T) {
	t.Parallel()
	const core = "package x\nimport \"" + module + "/pdp\"\n"
	const imports = "package x\nimport \"time\"\n"
	cases := []struct {
		name, pkg, file, content, want string
	}{
		{"now", "policy", "a.go", imports + "func f() time.Time { return time.Now() }\n", "policy/a.go uses time.Now"},
		{"since", "limiter", "a.go", imports + "func f(t time.Time) time.Duration { return time.Since(t) }\n", "uses time.Since"},
		{"sleep", "pdp", "a.go", imports + "func f() { time.Sleep(1) }\n", "uses time.Sleep"},
		{"renamed", "policy", "a.go", "package x\nimport clock \"time\"\nvar now = clock.Now\n", "uses time.Now"},
		{"dotted", "policy", "a.go", "package x\nimport . \"time\"\nvar now = Now\n", "with a dot"},
		{"a variable", "limiter", "a.go", imports + "var now = time.Now\n", "uses time.Now"},
		{"the default of a constructor", "limiter", "a.go", imports + "func NewMemory() func() time.Time { return time.Now }\n", ""},
		{"a sleep in a constructor", "limiter", "a.go", imports + "func NewMemory() { time.Sleep(1) }\n", "uses time.Sleep"},
		{"a method is no constructor", "limiter", "a.go", imports + "type m struct{}\nfunc (m) NewX() time.Time { return time.Now() }\n", "uses time.Now"},
		{"not even a default in policy", "policy", "a.go", imports + "func New() func() time.Time { return time.Now }\n", "uses time.Now"},
		{"a duration", "policy", "a.go", imports + "const d = time.Second\n", ""},
		{"a test", "policy", "a_test.go", imports + "func f() time.Time { return time.Now() }\n", ""},
		{"not a package of the core", "internal/app", "a.go", imports + "func f() time.Time { return time.Now() }\n", ""},
		{"init", "server", "a.go", "package x\nfunc init() {}\n", "server/a.go has an init function"},
		{"a method called init", "server", "a.go", "package x\ntype y struct{}\nfunc (y) init() {}\n", ""},
		{"a long file", "server", "a.go", "package x\n" + strings.Repeat("\n", maxFileLines), "more than 600"},
		{"a file just short enough", "server", "a.go", "package x\n" + strings.Repeat("\n", maxFileLines-1), ""},
		{"a long main", "cmd/kelpie", "main.go", "package x\n" + strings.Repeat("\n", maxMainLines), "more than 59"},
		{"injected approvals in serve", "internal/cli", "serve.go", "package x\nimport _ \"" + module + "/internal/policytest\"\n", "no other command"},
		{"injected approvals in test", "internal/cli", "testcmd.go", "package x\nimport _ \"" + module + "/internal/policytest\"\n", ""},
		{"approvals made up by a server", "internal/app", "a.go", core + "var c = pdp.Config{Policy: p, Approvals: yes}\n", "only internal/policytest may"},
		{"approvals without a name", "internal/app", "a.go", core + "var c = pdp.Config{p, l, r, yes}\n", "only internal/policytest may"},
		{"approvals set later", "internal/app", "a.go", core + "func f(c *pdp.Config) { c.Approvals = yes }\n", "only internal/policytest may"},
		{"the desk's approvals", "internal/app", "a.go", core + "var c = pdp.Config{Policy: p, Approvals: a.approvals.desk}\n", ""},
		{"the desk's approvals elsewhere", "internal/cli", "a.go", core + "var c = pdp.Config{Policy: p, Approvals: a.approvals.desk}\n", "only internal/policytest may"},
		{"the desk's approvals set later", "internal/app", "a.go", core + "func f(c *pdp.Config) { c.Approvals = a.approvals.desk }\n", "only internal/policytest may"},
		{"approvals of policy tests", "internal/policytest", "a.go", core + "var c = pdp.Config{Approvals: yes}\n", ""},
		{"a server without approvals", "internal/app", "a.go", core + "var c = pdp.Config{Policy: p}\n", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, err := parse(c.pkg, "/somewhere/"+c.file, []byte(c.content))
			if err != nil {
				t.Fatal(err)
			}
			wantOne(t, slices.Concat(judgeClock(s, house), judgeInit(s), judgeSize(s), judgeOnlyFrom(s, module), judgeSeams(s, module)), c.want)
		})
	}
}

// TestDocsAreCaught judges comments and names of packages.
func TestDocsAreCaught(t *testing.T) {
	t.Parallel()
	mute := pkg("policy")
	mute.Doc = ""
	wantOne(t, judgeDoc(mute), "no package comment")
	wantOne(t, judgeDoc(pkg("policy")), "")
	for _, name := range vagueNames {
		wantOne(t, judgeDoc(pkg("internal/"+name)), "says nothing")
	}
}

// TestDecodeGraph reads the form that `go list -json` prints.
func TestDecodeGraph(t *testing.T) {
	t.Parallel()
	const listed = `{"ImportPath":"log"}
{"ImportPath":"example.com/m/policy","Imports":["log","example.com/m/gen/x","example.org/log"],"Module":{"Path":"example.com/m","Main":true}}
{"ImportPath":"example.org/log","Module":{"Path":"example.org"}}`
	nodes, err := decodeGraph(strings.NewReader(listed))
	if err != nil {
		t.Fatal(err)
	}
	if len(nodes) != 1 || nodes[0].ImportPath != "policy" || fmt.Sprint(nodes[0].Imports) != "[log ./gen/x example.org/log]" {
		t.Errorf("got %+v, want the package of the main module alone, its own imports marked", nodes)
	}
	if _, err := decodeGraph(strings.NewReader("{")); err == nil {
		t.Error("half an answer was taken for a whole one")
	}
}

// TestMatches is the meaning of the patterns.
func TestMatches(t *testing.T) {
	t.Parallel()
	cases := []struct {
		pattern, path string
		want          bool
	}{
		{"a", "a", true},
		{"a", "a/b", false},
		{"a", "ab", false},
		{"a/*", "a/b", true},
		{"a/*", "a", false},
		{"a/*", "a/b/c", false},
		{"a/*", "ab/c", false},
		{"a/**", "a/b", true},
		{"a/**", "a/b/c", true},
		{"a/**", "a", false},
		{"a/**", "ab/c", false},
		{"**", "anything/at/all", true},
	}
	for _, c := range cases {
		if got := matches(c.pattern, c.path); got != c.want {
			t.Errorf("matches(%q, %q) = %t, want %t", c.pattern, c.path, got, c.want)
		}
	}
}

// wantOne wants exactly one finding that holds want, or none if want is empty.
func wantOne(t *testing.T, found []string, want string) {
	t.Helper()
	switch {
	case want == "" && len(found) > 0:
		t.Errorf("found %q, want nothing", found)
	case want != "" && (len(found) != 1 || !strings.Contains(found[0], want)):
		t.Errorf("found %q, want one finding with %q", found, want)
	}
}
