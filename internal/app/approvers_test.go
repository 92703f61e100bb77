package app_test

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	adminv1 "github.com/kelpie-authz/kelpie/gen/kelpie/admin/v1"
	approvalv1 "github.com/kelpie-authz/kelpie/gen/kelpie/approval/v1"
	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/internal/app"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// twoPolicy needs two yeses for a delete: of people who are named, and of a group
// of the identity provider.
const twoPolicy = `
scopes:
  docs: {actions: [read], resources: ["docs/**"]}
  wipe: {actions: [delete], resources: ["docs/**"]}
networks: {here: {cidrs: [10.0.0.0/8]}}
agents: {writer: {owner: o@example.com, scopes: [docs, wipe], networks: [here]}}
approvers:
  sec: {members: [security-oncall@example.com, security-lead@example.com, "oidc-group:security", "spiffe://example.com/human/lead"]}
approvals:
  wipes: {match: {risk: [delete]}, approvers: [sec], quorum: 2}
limits: {calls: {rate: 1000/second, per: [agent]}}
`

// office is a server whose approvers are known by certificates and by tokens.
type office struct {
	*running

	provider  *testkit.Provider
	server    *testkit.CA // of the server's certificate
	approvers *testkit.CA
	gateways  *testkit.CA
	policy    string
	// approversFile is the file of the approvers' authority.
	approversFile string
}

func startOffice(t *testing.T, changes ...func(*config.Config)) *office {
	t.Helper()
	o := &office{
		provider: testkit.StartProvider(t), server: testkit.NewCA(t), approvers: testkit.NewCA(t), gateways: testkit.NewCA(t), policy: policyDir(t, twoPolicy),
	}
	dir := t.TempDir()
	o.approversFile = filepath.Join(dir, "approvers.pem")
	ca := func(name string, ca *testkit.CA) string {
		path := filepath.Join(dir, name)
		testkit.WriteFile(t, path, ca.PEM)
		return path
	}
	o.running = start(t, func(c *config.Config) {
		c.Policy = o.policy
		c.TLSCert, c.TLSKey = o.server.Issue(t, testkit.Leaf{Name: "kelpie", IPs: here}).Write(t, dir)
		c.ClientCA, c.Approvers.ClientCA = ca("gateways.pem", o.gateways), ca("approvers.pem", o.approvers)
		c.Approvers.OIDC = config.OIDC{Issuer: o.provider.Issuer, Audience: "kelpie"}
		for _, change := range changes {
			change(c)
		}
	})
	return o
}

// desk is the approvals as somebody sees them who shows a certificate, a token, or neither.
func (o *office) deskOf(t *testing.T, ca *testkit.CA, leaf testkit.Leaf, token string) (context.Context, approvalv1.ApprovalServiceClient) {
	t.Helper()
	var own *tls.Certificate
	if ca != nil {
		cert := ca.Issue(t, leaf).TLS(t)
		own = &cert
	}
	ctx := t.Context()
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	return ctx, approvalv1.NewApprovalServiceClient(dial(t, o.Addrs().Admin.String(), clientTLS(o.server, own)))
}

func (o *office) erase(t *testing.T) *authzv1.AuthorizeResponse {
	t.Helper()
	cert := o.gateways.Issue(t, testkit.Leaf{Name: "gateway"}).TLS(t)
	out, err := authzv1.NewAuthorizationServiceClient(dial(t, o.Addrs().GRPC.String(), clientTLS(o.server, &cert))).Authorize(t.Context(), &authzv1.AuthorizeRequest{
		Agent: "writer", Action: "delete", Resource: "docs/1", SourceIp: "10.1.1.1",
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (o *office) adminToken(t *testing.T) string {
	t.Helper()
	ctx, _ := o.admin(t)
	md, _ := metadata.FromOutgoingContext(ctx)
	return strings.TrimPrefix(md.Get("authorization")[0], "Bearer ")
}

// A browser sends an approver's certificate by itself, and no form of a page decides by
// it: gRPC needs a content type that forms cannot have, and scripts of other sites
// only where the server allows it when asked.
func TestFormsDecideNothing(t *testing.T) {
	t.Parallel()
	o := startOffice(t)
	id := o.erase(t).GetApproval().GetId()
	oncall := testkit.Leaf{Emails: []string{"security-oncall@example.com"}}
	message, err := proto.Marshal(&approvalv1.ApproveRequest{Id: id})
	if err != nil {
		t.Fatal(err)
	}
	frame := string(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))) + string(message)
	client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
		RootCAs: o.server.Pool(), MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{o.approvers.Issue(t, oncall).TLS(t)},
	}}}
	t.Cleanup(client.CloseIdleConnections)
	send := func(method, contentType string, want int) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "https://"+o.Addrs().Admin.String()+approvalv1.ApprovalService_Approve_FullMethodName, strings.NewReader(frame))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", contentType)
		req.Header.Set("Origin", "https://evil.example")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != want || resp.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s %s: %d %v", method, contentType, resp.StatusCode, resp.Header)
		}
	}
	votes := func() int {
		ctx, desk := o.deskOf(t, o.approvers, oncall, "")
		got, err := desk.Get(ctx, &approvalv1.GetRequest{Id: id})
		if err != nil {
			t.Fatal(err)
		}
		return len(got.GetApproval().GetVotes())
	}
	for _, form := range []string{"application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain", ""} {
		send(http.MethodPost, form, http.StatusUnsupportedMediaType)
	}
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodOptions} {
		send(method, "application/grpc", http.StatusMethodNotAllowed)
	}
	if n := votes(); n != 0 {
		t.Errorf("%d votes by forms", n)
	}
	// It is a yes but for the content type.
	send(http.MethodPost, "application/grpc", http.StatusOK)
	if n := votes(); n != 1 {
		t.Errorf("%d votes by gRPC", n)
	}
}

// Two humans, known in two ways, say yes; one human is one, however he is known.
func TestApproversAreKnown(t *testing.T) {
	t.Parallel()
	o := startOffice(t)
	id := o.erase(t).GetApproval().GetId()
	vote := func(who string, ca *testkit.CA, leaf testkit.Leaf, token, as string, want codes.Code) *approvalv1.Approval {
		t.Helper()
		ctx, desk := o.deskOf(t, ca, leaf, token)
		got, err := desk.Approve(ctx, &approvalv1.ApproveRequest{Id: id, As: as})
		if status.Code(err) != want {
			t.Errorf("%s: %v, want %v", who, err, want)
		}
		return got.GetApproval()
	}
	oncall := testkit.Leaf{Emails: []string{"security-oncall@example.com"}}
	vote("the local admin, where others are known better", nil, testkit.Leaf{}, o.adminToken(t), "security-oncall@example.com", codes.PermissionDenied)
	vote("a gateway", o.gateways, oncall, "", "", codes.Unavailable) // TLS refuses it.
	vote("nobody", nil, testkit.Leaf{}, "", "", codes.Unauthenticated)
	vote("a certificate of several", o.approvers, testkit.Leaf{Emails: []string{"security-oncall@example.com", "security-lead@example.com"}}, "", "", codes.Unauthenticated)
	vote("a certificate with a common name alone", o.approvers, testkit.Leaf{Name: "security-oncall@example.com"}, "", "", codes.Unauthenticated)
	vote("a stranger", o.approvers, testkit.Leaf{Emails: []string{"mallory@example.com"}}, "", "", codes.PermissionDenied)
	vote("a token of an agent", nil, testkit.Leaf{}, o.provider.Token(t, map[string]any{"aud": "agents"}), "", codes.Unauthenticated)
	vote("somebody in another's name", o.approvers, oncall, "", "security-lead@example.com", codes.InvalidArgument)
	vote("a name that reads as a group's", nil, testkit.Leaf{}, o.provider.Token(t, map[string]any{"email": "oidc-group:security"}), "", codes.PermissionDenied)
	if a := vote("by a certificate", o.approvers, oncall, "", "", codes.OK); a.GetState() != approvalv1.ApprovalState_APPROVAL_STATE_PENDING {
		t.Errorf("after one: %v", a)
	}
	if a := vote("the same human by a token", nil, testkit.Leaf{}, o.provider.Token(t, nil), "", codes.OK); a.GetState() != approvalv1.ApprovalState_APPROVAL_STATE_PENDING || len(a.GetVotes()) != 1 {
		t.Errorf("after the same one again: %v", a)
	}
	ann := o.provider.Token(t, map[string]any{"email": "ann@example.com", "groups": []string{"staff", "security"}})
	if a := vote("one of the group", nil, testkit.Leaf{}, ann, "", codes.OK); a.GetState() != approvalv1.ApprovalState_APPROVAL_STATE_APPROVED {
		t.Errorf("after two: %v", a)
	}
	if out := o.erase(t); out.GetReason() != authzv1.Reason_REASON_OK_APPROVED {
		t.Errorf("after two: %v", out)
	}
}

// Who is known by a token needs no certificate, least of all one of gateways.
func TestTokensNeedNoCertificate(t *testing.T) {
	t.Parallel()
	o := startOffice(t, func(c *config.Config) { c.Approvers.ClientCA = "" })
	id := o.erase(t).GetApproval().GetId()
	ctx, desk := o.deskOf(t, nil, testkit.Leaf{}, o.provider.Token(t, nil))
	if _, err := desk.Approve(ctx, &approvalv1.ApproveRequest{Id: id}); err != nil {
		t.Error(err)
	}
	ctx, desk = o.deskOf(t, o.gateways, testkit.Leaf{Emails: []string{"security-lead@example.com"}}, "")
	if _, err := desk.Approve(ctx, &approvalv1.ApproveRequest{Id: id}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a gateway: %v", err)
	}
}

// A yes by a group counts as long as the policy says that the group may.
func TestGroupThatMayNoMore(t *testing.T) {
	t.Parallel()
	o := startOffice(t)
	id := o.erase(t).GetApproval().GetId()
	ann := o.provider.Token(t, map[string]any{"email": "ann@example.com", "groups": []string{"security"}})
	ctx, desk := o.deskOf(t, nil, testkit.Leaf{}, ann)
	if _, err := desk.Approve(ctx, &approvalv1.ApproveRequest{Id: id}); err != nil {
		t.Fatal(err)
	}
	uri, desk2 := o.deskOf(t, o.approvers, testkit.Leaf{URI: "spiffe://example.com/human/lead"}, "")
	if a, err := desk2.Approve(uri, &approvalv1.ApproveRequest{Id: id}); err != nil || a.GetApproval().GetState() != approvalv1.ApprovalState_APPROVAL_STATE_APPROVED {
		t.Fatalf("%v, %v", a, err)
	}
	testkit.WriteFile(t, filepath.Join(o.policy, "policy.yaml"), []byte(strings.Replace(twoPolicy, `"oidc-group:security", `, "", 1)))
	if err := o.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out := o.erase(t); out.GetDecision() == authzv1.Decision_DECISION_ALLOW {
		t.Errorf("a yes of a group that may no more: %v", out)
	}
	if _, err := desk.List(ctx, &approvalv1.ListRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("one of it lists approvals: %v", err)
	}
}

// No credential of an agent or of a gateway opens any route of the admin listener,
// and an approver's opens the approvals alone.
func TestEveryAdminRouteKnowsItsCallers(t *testing.T) {
	t.Parallel()
	o := startOffice(t)
	admin := o.adminToken(t)
	as := func(token string) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token)
	}
	plain := dial(t, o.Addrs().Admin.String(), clientTLS(o.server, nil))
	gateway := o.gateways.Issue(t, testkit.Leaf{Name: "gateway", URI: "spiffe://example.com/gateway"}).TLS(t)
	strangers := map[string]context.Context{
		"nothing": t.Context(), "an agent's token": as(o.provider.Token(t, map[string]any{"aud": "agents"})),
		"an agent's own": as(o.provider.Token(t, map[string]any{"sub": "svc", "azp": "svc"})), "a delegated one": as(o.provider.Token(t, map[string]any{"act": map[string]any{"sub": "bot"}})),
		"a key": as("klp_reader_0123456789abcdef"), "two": metadata.AppendToOutgoingContext(as(o.provider.Token(t, nil)), "authorization", "Bearer x"),
		"another scheme": metadata.AppendToOutgoingContext(t.Context(), "authorization", "DPoP "+o.provider.Token(t, nil)),
	}
	human := as(o.provider.Token(t, nil))
	served, routes := services(t, as(admin), plain), 0
	for _, service := range served {
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
		if err != nil {
			t.Fatal(err)
		}
		methods := found.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			m := methods.Get(i)
			routes++
			for who, ctx := range strangers {
				if err := callMethod(ctx, plain, m); status.Code(err) != codes.Unauthenticated {
					t.Errorf("%s with %s: %v", m.FullName(), who, err)
				}
			}
			if err := callMethod(t.Context(), dial(t, o.Addrs().Admin.String(), clientTLS(o.server, &gateway)), m); status.Code(err) != codes.Unavailable {
				t.Errorf("%s with a gateway's certificate: %v", m.FullName(), err)
			}
			if service == approvalv1.ApprovalService_ServiceDesc.ServiceName {
				continue
			}
			if err := callMethod(human, plain, m); status.Code(err) != codes.PermissionDenied {
				t.Errorf("%s with an approver's token: %v", m.FullName(), err)
			}
		}
	}
	if routes < 12 || !slices.Contains(served, adminv1.AdminService_ServiceDesc.ServiceName) {
		t.Errorf("only %d routes of %v", routes, served)
	}
	own := o.approvers.Issue(t, testkit.Leaf{Emails: []string{"security-lead@example.com"}}).TLS(t)
	data := authzv1.NewAuthorizationServiceClient(dial(t, o.Addrs().GRPC.String(), clientTLS(o.server, &own)))
	if _, err := data.Authorize(t.Context(), request()); status.Code(err) != codes.Unavailable {
		t.Errorf("an approver's certificate where gateways call: %v", err)
	}
	for how, least := range map[string]string{"none": "1", "token": "1", "oidc": "1"} {
		_, body := o.get(t, "/metrics")
		if !strings.Contains(body, `kelpie_admin_refused_total{how="`+how+`"} `) || strings.Contains(body, `kelpie_admin_refused_total{how="`+how+`"} 0`) {
			t.Errorf("refusals of %s are not counted (%s)", how, least)
		}
	}
	if strings.Contains(o.stderr.String(), "eyJ") || strings.Contains(o.stderr.String(), admin) {
		t.Error("a token was logged")
	}
}

// An authority that gateways have certificates of makes no approvers: neither as
// it is, nor as one that it vouches for. Where the files come to say so, those in force stay.
func TestAuthoritiesAreApart(t *testing.T) {
	t.Parallel()
	gateways, approvers := testkit.NewCA(t), testkit.NewCA(t)
	both := append(slices.Clone(approvers.PEM), gateways.PEM...)
	for name, tc := range map[string]struct{ gateways, approvers []byte }{
		"one for both":                  {gateways.PEM, gateways.PEM},
		"one of several":                {gateways.PEM, both},
		"approvers' under gateways'":    {gateways.PEM, gateways.Under(t).PEM},
		"gateways' under approvers'":    {approvers.Under(t).PEM, approvers.PEM},
		"approvers' under one of them":  {both, approvers.Under(t).PEM},
		"one key with two certificates": {gateways.PEM, gateways.Again(t).PEM},
	} {
		cfg, dir := config.Default(), t.TempDir()
		cfg.GRPCAddr, cfg.AdminAddr, cfg.HealthAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
		cfg.State, cfg.Policy = filepath.Join(dir, "state"), policyDir(t, twoPolicy)
		cfg.TLSCert, cfg.TLSKey = approvers.Issue(t, testkit.Leaf{Name: "kelpie", IPs: here}).Write(t, dir)
		cfg.ClientCA, cfg.Approvers.ClientCA = filepath.Join(dir, "gateways.pem"), filepath.Join(dir, "approvers.pem")
		testkit.WriteFile(t, cfg.ClientCA, tc.gateways)
		testkit.WriteFile(t, cfg.Approvers.ClientCA, tc.approvers)
		_, err := app.New(t.Context(), cfg, app.Deps{Stdout: &testkit.Buffer{}, Stderr: &testkit.Buffer{}, Embedded: true})
		if err == nil || !strings.Contains(err.Error(), "approver_client_ca: ") || !strings.Contains(err.Error(), "of their own") {
			t.Errorf("%s: %v", name, err)
		}
	}
	o := startOffice(t)
	oncall := testkit.Leaf{Emails: []string{"security-oncall@example.com"}}
	testkit.WriteFile(t, o.approversFile, o.gateways.PEM)
	if err := o.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "approver_client_ca: ") {
		t.Errorf("reload: %v", err)
	}
	ctx, desk := o.deskOf(t, o.gateways, oncall, "")
	if _, err := desk.List(ctx, &approvalv1.ListRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("a gateway's certificate after that: %v", err)
	}
	ctx, desk = o.deskOf(t, o.approvers, oncall, "")
	if _, err := desk.List(ctx, &approvalv1.ListRequest{}); err != nil {
		t.Errorf("an approver's certificate after that: %v", err)
	}
}
