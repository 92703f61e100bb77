package cli

import (
	"bytes"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/pdp"
)

// The enums convert by number, so each number must mean the same on both sides.
func TestEnumsStandInTheOrderOfTheWire(t *testing.T) {
	t.Parallel()
	type pair struct {
		core int
		wire protoreflect.Enum
		name string
	}
	pairs := []pair{
		{int(pdp.VerdictNone), authzv1.Decision(0), "DECISION_UNSPECIFIED"},
		{int(pdp.Allow), authzv1.Decision(0), "DECISION_ALLOW"},
		{int(pdp.Deny), authzv1.Decision(0), "DECISION_DENY"},
		{int(pdp.RequireApproval), authzv1.Decision(0), "DECISION_REQUIRE_APPROVAL"},
		{int(pdp.NextUnspecified), authzv1.NextAction(0), "NEXT_ACTION_UNSPECIFIED"},
		{int(pdp.NextNone), authzv1.NextAction(0), "NEXT_ACTION_NONE"},
		{int(pdp.NextRetry), authzv1.NextAction(0), "NEXT_ACTION_RETRY"},
		{int(pdp.NextRequest), authzv1.NextAction(0), "NEXT_ACTION_REQUEST"},
		{int(pdp.NextWait), authzv1.NextAction(0), "NEXT_ACTION_WAIT"},
		{int(pdp.ApprovalUnspecified), authzv1.ApprovalState(0), "APPROVAL_STATE_UNSPECIFIED"},
		{int(pdp.ApprovalPending), authzv1.ApprovalState(0), "APPROVAL_STATE_PENDING"},
		{int(pdp.ApprovalApproved), authzv1.ApprovalState(0), "APPROVAL_STATE_APPROVED"},
		{int(pdp.ApprovalDenied), authzv1.ApprovalState(0), "APPROVAL_STATE_DENIED"},
		{int(pdp.ApprovalExpired), authzv1.ApprovalState(0), "APPROVAL_STATE_EXPIRED"},
		{int(pdp.ApprovalConsumed), authzv1.ApprovalState(0), "APPROVAL_STATE_CONSUMED"},
		{int(pdp.CheckUnspecified), authzv1.CheckOutcome(0), "CHECK_OUTCOME_UNSPECIFIED"},
		{int(pdp.CheckPass), authzv1.CheckOutcome(0), "CHECK_OUTCOME_PASS"},
		{int(pdp.CheckDeny), authzv1.CheckOutcome(0), "CHECK_OUTCOME_DENY"},
		{int(pdp.CheckRequireApproval), authzv1.CheckOutcome(0), "CHECK_OUTCOME_REQUIRE_APPROVAL"},
		{int(pdp.CheckSkipped), authzv1.CheckOutcome(0), "CHECK_OUTCOME_SKIPPED"},
		{int(pdp.ParametersUnspecified), authzv1.ParametersState(0), "PARAMETERS_STATE_UNSPECIFIED"},
		{int(pdp.ParametersComplete), authzv1.ParametersState(0), "PARAMETERS_STATE_COMPLETE"},
		{int(pdp.ParametersTruncated), authzv1.ParametersState(0), "PARAMETERS_STATE_TRUNCATED"},
		{int(pdp.ParametersNotSeen), authzv1.ParametersState(0), "PARAMETERS_STATE_NOT_SEEN"},
	}
	named := map[protoreflect.FullName]int{}
	for _, p := range pairs {
		named[p.wire.Descriptor().FullName()]++
		v := p.wire.Descriptor().Values().ByName(protoreflect.Name(p.name))
		if v == nil || int(v.Number()) != p.core {
			t.Errorf("%s is %d in the core and %v on the wire", p.name, p.core, v)
		}
	}
	for _, p := range pairs {
		if n, all := named[p.wire.Descriptor().FullName()], p.wire.Descriptor().Values().Len(); n != all {
			t.Errorf("%s: %d of %d values are checked", p.wire.Descriptor().FullName(), n, all)
		}
	}
	for _, r := range pdp.AllReasons() {
		if wire := reasonToProto(r); wire == authzv1.Reason_REASON_UNSPECIFIED || reasonText(wire) != string(r) {
			t.Errorf("reason %q becomes %v", r, wire)
		}
	}
}

// A field that pdp gains must not be lost on its way to the screen unnoticed.
func TestEveryFieldOfADecisionIsShown(t *testing.T) {
	t.Parallel()
	d := pdp.Decision{}
	v := reflect.ValueOf(&d).Elem()
	for field, value := range v.Fields() {
		before := proto.CloneOf(decisionToProto(&d))
		setNonZero(value)
		if proto.Equal(decisionToProto(&d), before) {
			t.Errorf("Decision.%s does not reach the response", field.Name)
		}
	}
}

func setNonZero(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString("ok")
	case reflect.Uint8:
		v.SetUint(1)
	case reflect.Int64, reflect.Int:
		v.SetInt(1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		setNonZero(v.Index(0))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	case reflect.Struct:
		for _, field := range v.Fields() {
			if field.CanSet() {
				setNonZero(field)
			}
		}
	default:
		panic("a kind of field that no Decision had so far: " + v.Kind().String())
	}
}

func TestColor(t *testing.T) {
	t.Parallel()
	for _, color := range []bool{false, true} {
		var out bytes.Buffer
		p := &printer{w: &out, color: color}
		p.decision(&authzv1.AuthorizeResponse{Decision: authzv1.Decision_DECISION_DENY}, "")
		p.table([][]cell{{{"A", dim}, {"B", dim}}, {{"wide cell", plain}, {"b", green}}, {{"a", red}, {"b", green}}})
		if strings.Contains(out.String(), "\x1b[") != color {
			t.Errorf("color %v: %q", color, out.String())
		}
	}
}

// Columns must line up whatever the colours, and nothing trails.
func TestTable(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	(&printer{w: &out}).table([][]cell{
		{{"A", dim}, {"UNUSED", dim}, {"B", dim}, {"C", dim}},
		{{"é", plain}, {"", plain}, {"", plain}, {"x", plain}},
		{{"abc", plain}, {"", plain}, {"bb", plain}, {"", plain}},
	})
	want := "A    B   C\né        x\nabc  bb\n"
	if out.String() != want {
		t.Errorf("got\n%q\nwant\n%q", out.String(), want)
	}
}

// Text from servers and files must not reach the terminal's controls.
func TestClean(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain é 日": "plain é 日", "a\nb": "a\uFFFDb", "\x1b[2J": "\uFFFD[2J", "a\u202Eb": "a\uFFFDb", "a\xffb": "a\uFFFDb",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestHints(t *testing.T) {
	t.Parallel()
	cfg := config.Default()
	cfg.Policy = "../../examples/revops"
	tcp := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7070}
	want := []string{
		"kelpie check --server 127.0.0.1:7070 --agent lead-router --action read --resource salesforce/leads/42 --ip 10.8.0.5",
		`grpcurl -plaintext -d '{"action":"read","agent":"lead-router","resource":"salesforce/leads/42","source_ip":"10.8.0.5"}' ` +
			"127.0.0.1:7070 kelpie.authz.v1.AuthorizationService/Authorize",
	}
	text := hints(cfg, tcp)
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("hints %q lack %q", text, w)
		}
	}
	cfg.Policy = "testdata/none"
	if text := hints(cfg, &net.UnixAddr{Net: "unix", Name: "/run/k.sock"}); !strings.Contains(text, "--server unix:///run/k.sock --agent AGENT") ||
		!strings.Contains(text, "grpcurl -plaintext -unix -d") {
		t.Errorf("hints over a socket: %q", text)
	}
	cfg.TLSCert, cfg.ClientCA = "c", "a"
	if text := hints(cfg, tcp); strings.Contains(text, "-plaintext") || !strings.Contains(text, "--tls-ca CA.pem --tls-cert CERT.pem") {
		t.Errorf("hints over TLS: %q", text)
	}
}

func TestTenths(t *testing.T) {
	t.Parallel()
	for in, want := range map[time.Duration]string{
		1094449301: "1.1s", time.Second: "1s", time.Second + 1: "1.1s", 1: "100ms", 61 * time.Second: "1m1s",
	} {
		if got := tenths(in).String(); got != want {
			t.Errorf("tenths(%d) = %s, want %s", in, got, want)
		}
	}
}

func TestQuote(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"a/b-1": "a/b-1", "": "''", "a b": "'a b'", "it's": `'it'\''s'`, "$(x)": "'$(x)'", "a*": "'a*'",
	} {
		if got := quote(in); got != want {
			t.Errorf("quote(%q) = %s, want %s", in, got, want)
		}
	}
}
