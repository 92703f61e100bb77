package archtest_test

import "slices"

// rule says what the packages matching `of` may import. The first rule that
// matches a package is the one that applies, so the exact ones stand before the
// patterns. In patterns, `a/*` is one level below a and `a/**` any level below it.
type rule struct {
	of        string
	mayImport []string // packages of ours, by path within the module
	mayNot    []ban    // packages of others
	clock     clock    // how far it may look at the clock itself
	tests     bool     // for _test files, other test packages and tools alone
	tool      bool     // run by developers, never linked into kelpie
	why       string   // printed with each violation of mayImport
}

// clock says where a package may name the clock of package time.
type clock int

const (
	ownClock     clock = iota // anywhere
	defaultClock              // as the default that a constructor fills in; otherwise it is handed in
	noClock                   // nowhere: even the time is an argument
)

// ban is a package of others, or a pattern of such, and why it stays out.
type ban struct {
	what string
	why  string
}

// noSideEffects keeps a package a function of its arguments.
var noSideEffects = []ban{
	{"net", "a decision is made without I/O; net/netip is the pure part"},
	{"net/http", "a decision is made without I/O"},
	{"net/url", "a decision is made on names, not on addresses of servers"},
	{"net/http/**", "a decision is made without I/O"},
	{"net/rpc/**", "a decision is made without I/O"},
	{"net/rpc", "a decision is made without I/O"},
	{"net/smtp", "a decision is made without I/O"},
	{"net/mail", "a decision is made on names, not on mail"},
	{"net/textproto", "a decision is made without I/O"},
	{"plugin", "a decision is made by the code that was reviewed"},
	{"unsafe", "the core has no need to step around the type system"},
	{"C", "the core is Go alone"},
	{"io/ioutil", "documents come in as bytes or an fs.FS"},
	{"os", "documents come in as bytes or an fs.FS, so that a test and a server compile alike"},
	{"os/**", "a decision is made without I/O"},
	{"syscall", "a decision is made without I/O"},
	{"log", "the core returns what happened; who called it logs it, once"},
	{"log/**", "the core returns what happened; who called it logs it, once"},
	{"math/rand", "the same request and snapshot must give the same decision"},
	{"math/rand/**", "the same request and snapshot must give the same decision"},
	{"crypto/rand", "the same request and snapshot must give the same decision"},
}

// noWire keeps protobuf and gRPC out: messages stop at the adapters.
var noWire = []ban{
	{"google.golang.org/grpc", "the core reads without gRPC; adapters translate"},
	{"google.golang.org/grpc/**", "the core reads without gRPC; adapters translate"},
	{"google.golang.org/protobuf", "messages stop at the adapters"},
	{"google.golang.org/protobuf/**", "messages stop at the adapters"},
	{"net/http", "the core reads without HTTP; adapters translate"},
}

// noCallers is what policy, which does read protobuf for its documents, has no use for.
var noCallers = []ban{
	{"google.golang.org/grpc", "policy knows documents, not callers"},
	{"google.golang.org/grpc/**", "policy knows documents, not callers"},
}

// noTraces keeps the core free of spans: internal/obs wraps it from outside, so
// that a server without traces has nothing of them in its way.
var noTraces = []ban{
	{"go.opentelemetry.io/**", "spans are made by internal/obs, which wraps the core"},
}

// noGzip keeps gRPC's gzip out of the server: it is registered for the whole
// process, and every caller could then send 8 MiB as 8 KiB.
var noGzip = []ban{
	{"google.golang.org/grpc/encoding/gzip", "every caller could send 8 MiB as 8 KiB"},
	{"go.opentelemetry.io/otel/exporters/otlp/otlptrace/**", "it brings gRPC's gzip along; internal/app has a client of its own"},
}

// noFiles keeps what every way of keeping records shares apart from each of them.
var noFiles = []ban{
	{"os", "the audit's root opens no file: a driver does"},
	{"net", "the audit's root opens no connection: a driver does"},
}

// testLibraries stay out of whatever is linked into kelpie.
var testLibraries = []ban{
	{"testing", "production code must not carry the test runner and its flags"},
	{"testing/**", "production code must not carry test support"},
	{"net/http/httptest", "production code must not carry test support"},
	{"pgregory.net/rapid", "a test library"},
	{"go.uber.org/goleak", "a test library"},
	{"github.com/google/go-cmp/**", "it panics where it does not understand a type; tests only"},
}

// whySuite is why only tests and tools import what is marked tests.
const whySuite = "test suites and test kits are never linked into production code"

// house is who may import whom.
var house = []rule{
	// The roots: nothing of ours, and not each other.
	{of: "limiter", mayNot: slices.Concat(noSideEffects, noWire, noTraces), clock: defaultClock, why: "a root is understood alone"},
	{of: "store", mayNot: noWire, clock: defaultClock, why: "a root is understood alone"},
	{of: "audit", mayNot: slices.Concat(noWire, noTraces, noFiles), clock: defaultClock, why: "a root is understood alone"},
	{of: "identity", mayNot: noWire, clock: defaultClock, why: "a root is understood alone"},
	{of: "notify", mayNot: noWire, clock: defaultClock, why: "a root is understood alone"},
	{of: "detect", mayNot: noWire, clock: defaultClock, why: "a root is understood alone"},

	// Conformance suites: their own root, and tests alone import them.
	{of: "limiter/limitertest", mayImport: []string{"limiter"}, tests: true, why: "a suite knows the contract, not a driver"},
	{of: "store/storetest", mayImport: []string{"store"}, tests: true, why: "a suite knows the contract, not a driver"},
	{of: "audit/audittest", mayImport: []string{"audit"}, tests: true, why: "a suite knows the contract, not a driver"},
	{of: "identity/identitytest", mayImport: []string{"identity"}, tests: true, why: "a suite knows the contract, not a driver"},
	{of: "server/servertest", mayImport: []string{"pdp", "server", "client", "gen/**"}, tests: true, why: "the parity of the doors is seen from outside"},

	// Drivers: their own root and their one library.
	{of: "limiter/*", mayImport: []string{"limiter"}, why: "a driver knows its root and its library"},
	{of: "store/*", mayImport: []string{"store"}, why: "a driver knows its root and its library"},
	{of: "audit/fileaudit", mayImport: []string{"audit"}, mayNot: slices.Concat(noWire, noTraces, []ban{{"net", "a log in files is kept and verified without a network"}}), why: "a driver knows its root and its library"},
	{of: "audit/*", mayImport: []string{"audit"}, why: "a driver knows its root and its library"},
	{of: "identity/*", mayImport: []string{"identity"}, why: "a driver knows its root and its library"},
	{of: "notify/*", mayImport: []string{"notify"}, why: "a driver knows its root and its library"},

	// The core.
	{of: "policy", mayImport: []string{"gen/kelpie/policy/v1"}, mayNot: slices.Concat(noSideEffects, noCallers, noTraces), clock: noClock, why: "policy is documents in, decision out; the schema of its documents is all that it needs"},
	{of: "pdp", mayImport: []string{"policy", "limiter", "store", "audit", "identity"}, mayNot: slices.Concat(noWire, noTraces), clock: defaultClock, why: "the use-cases compose the leaves and know no door and no driver"},

	// The doors. An adapter that reached policy or limiter could decide.
	{of: "server", mayImport: []string{"pdp", "identity", "gen/**"}, why: "a door translates, it never decides"},
	{of: "server/*", mayImport: []string{"pdp", "identity", "gen/**"}, why: "a door translates, it never decides, and knows no other door"},
	{of: "client", mayImport: []string{"gen/**"}, why: "users link the client: it must not bring the server along"},
	{of: "client/*", mayImport: []string{"client", "gen/**"}, why: "users link the client: it must not bring the server along"},
	{of: "gen/schema", why: "the schemas stand alone"},
	{of: "gen/**", mayImport: []string{"gen/**"}, why: "generated code knows generated code"},

	// Wiring. policytest answers approvals by itself: only `kelpie test` may hold it.
	{of: "internal/app", mayImport: []string{"policy", "pdp", "limiter", "limiter/*", "store", "store/*", "audit", "audit/*", "identity", "identity/*", "notify", "notify/*", "detect", "server", "server/*", "gen/**", "internal/config", "internal/obs", "internal/policydir"}, mayNot: noGzip, why: "app wires production: everything but commands and test support"},
	{of: "internal/cli", mayImport: []string{"policy", "pdp", "limiter", "audit", "audit/fileaudit", "client", "gen/**", "internal/app", "internal/config", "internal/obs", "internal/policydir", "internal/policytest"}, why: "a command parses, calls and prints"},
	{of: "internal/config", mayImport: []string{"gen/kelpie/config/v1"}, why: "the configuration is read before anything is built"},
	{of: "internal/obs", mayImport: []string{"pdp", "limiter"}, why: "logs, metrics and traces look at decisions and at what the limiter is asked, not at how it is done"},
	{of: "internal/policydir", mayImport: []string{"policy"}, why: "it finds the files of a policy on disk; policy itself reads no disk"},
	{of: "internal/policytest", mayImport: []string{"policy", "pdp", "limiter", "gen/kelpie/policy/v1"}, why: "policy tests ask the core that production asks"},
	{of: "cmd/kelpie", mayImport: []string{"internal/cli"}, why: "main starts the commands and nothing else"},

	// For developers.
	{of: "internal/testkit", mayImport: []string{"**"}, tests: true, why: whySuite},
	{of: "internal/archtest", tool: true, why: "it reads the graph, not the packages"},
	{of: "internal/envoytest", tool: true, why: "it asks from outside, through Envoy; its tests alone import anything"},
	{of: "internal/bench", mayImport: []string{"**"}, tool: true, why: "it measures whatever there is"},
	{of: "internal/mutants", tool: true, why: "it overlays source files and runs the go command"},
	{of: "examples/**", mayImport: []string{"client", "client/*", "gen/**"}, why: "an example uses what a user can"},
}

// unreachable are paths that may not exist even through others.
var unreachable = []struct {
	from, to, why string
}{
	{"internal/app", "internal/policytest", "a server that can be given approvals by a test file is a server that allows without a human"},
	{"internal/app", "internal/testkit", "test support must not reach a server"},
	{"client", "server", "users link the client: it must not bring the server along"},
	{"client", "pdp", "users link the client: it must not bring the server along"},
	{"client", "policy", "users link the client: it must not bring the server along"},
}

// onlyFrom are packages whose importer must keep the import in files of one name.
var onlyFrom = []struct {
	importer, imported, filePrefix, why string
}{
	{"internal/cli", "internal/policytest", "test", "approvals are injected by `kelpie test` and by no other command"},
}

// seams are fields of pdp.Config that only some packages may fill in, tests aside,
// and there by an expression of their own where one is named: the server's approvals
// are the desk's, where humans decide.
var seams = []struct {
	field, filledBy, why string
	// with is the expression, by package; "": any.
	with map[string]string
}{
	{
		"Approvals", "internal/policytest", "what answers approvals without a human belongs to `kelpie test` alone",
		map[string]string{"internal/app": "a.approvals.desk"},
	},
}

// Limits of size: what can be read in one sitting.
const (
	maxFileLines = 600
	maxMainLines = 59
)

// vagueNames say nothing about what a package is for, so they collect everything.
var vagueNames = []string{
	"util", "utils", "common", "helper", "helpers", "model", "models", "manager", "managers", "misc", "shared", "base",
}
