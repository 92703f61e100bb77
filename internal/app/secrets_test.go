package app_test

import (
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"

	adminv1 "github.com/kelpie-authz/kelpie/gen/kelpie/admin/v1"
	approvalv1 "github.com/kelpie-authz/kelpie/gen/kelpie/approval/v1"
	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

const secretsPolicy = auditedPolicy + `
http:
  agent_from: [{from: header, name: x-agent}]
  request_bodies: sent
  routes:
    read: {methods: [GET], path: "/docs/{id}", action: read, resource: "docs/{id}"}
    erase: {methods: [DELETE], path: "/docs/{id}", action: delete, resource: "docs/{id}"}
`

// Whatever comes with a call and is a secret stands in no log, no record, no file of
// the state directory and nothing that Redis holds: the end of every test looks
// there. This one brings secrets by every way that there is.
func TestSecretsStayOut(t *testing.T) {
	t.Parallel()
	for name, share := range map[string]func(t *testing.T) func(*config.Config){
		"approvals in a file": func(*testing.T) func(*config.Config) { return func(*config.Config) {} },
		"approvals in Redis": func(t *testing.T) func(*config.Config) {
			t.Helper()
			return sharing(t, testkit.StartRedis(t, testkit.RedisConfig{}))
		},
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); secretsStayOut(t, share(t)) })
	}
}

func secretsStayOut(t *testing.T, share func(*config.Config)) {
	t.Helper()
	r := start(t, func(c *config.Config) {
		share(c)
		c.Policy, c.Audit.Mode = policyDir(t, secretsPolicy), config.AuditAll
	})
	s := testkit.Secret
	parameters := []string{
		`{"password":"` + s + `"}`, `{"a":[{"apiKey":"` + s + `"}]}`, `{"headers":{"Authorization":"Bearer ` + s + `"}}`,
		`{"note":"ghp_` + s + s + s + s + s + s + `"}`, `{"token":"` + s + `",`, `{"` + s + `":1,"` + s + `":2}`, `["` + s + `"]`,
	}
	facts, err := structpb.NewStruct(map[string]any{"token": s, "deep": map[string]any{"secret": s}})
	if err != nil {
		t.Fatal(err)
	}
	c := r.client(t)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+s, "cookie", "session="+s)
	var batch authzv1.BatchAuthorizeRequest
	for _, text := range parameters {
		for _, action := range []string{"read", "update", "delete", "steal"} {
			one := &authzv1.AuthorizeRequest{
				Agent: "writer", Action: action, Resource: "docs/1", SourceIp: "10.1.1.1", ParametersJson: []byte(text), Context: facts,
			}
			batch.Requests = append(batch.Requests, one)
			if _, err := c.Authorize(ctx, one); err != nil && !strings.Contains(err.Error(), "parameters_json") {
				t.Error(err)
			}
			if _, err := c.Explain(ctx, &authzv1.ExplainRequest{Request: one}); err != nil && !strings.Contains(err.Error(), "parameters_json") {
				t.Error(err)
			}
		}
	}
	if _, err := c.BatchAuthorize(ctx, &batch); err != nil {
		t.Error(err)
	}
	for _, credential := range []*authzv1.Credential{
		{Kind: &authzv1.Credential_Token{Token: s}}, {Kind: &authzv1.Credential_ApiKey{ApiKey: s}},
	} {
		out, err := c.Authorize(ctx, &authzv1.AuthorizeRequest{Agent: "writer", Action: "read", Resource: "docs/1", SourceIp: "10.1.1.1", Credential: credential})
		if out.GetDecision() == authzv1.Decision_DECISION_ALLOW || err == nil || strings.Contains(err.Error(), s) {
			t.Errorf("a credential that nobody checks: %v, %v", out, err)
		}
	}
	r.checkWithSecrets(t, s)
	r.adminWithSecrets(t, s)
	if err := r.end(t); err != nil {
		t.Error(err)
	}
	if n := strings.Count(r.stdout.String(), "\n"); n < 50 {
		t.Errorf("%d decisions were logged: nothing was proved", n)
	}
}

// checkWithSecrets brings them as Envoy does.
func (r *running) checkWithSecrets(t *testing.T, s string) {
	t.Helper()
	door := authv3.NewAuthorizationClient(dial(t, r.Addrs().GRPC.String(), nil))
	for _, method := range []string{"GET", "DELETE", "POST"} {
		for _, body := range []string{"", `{"password":"` + s + `"}`, s} {
			out, err := door.Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
				Source: &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{
					SocketAddress: &corev3.SocketAddress{Address: "10.1.1.1"},
				}}},
				Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
					Method: method, Path: "/docs/1?token=" + s, Host: "docs.example.com", Body: body,
					Headers: map[string]string{
						"x-agent": "writer", "authorization": "Bearer " + s, "cookie": "session=" + s, "x-api-key": s, "content-type": "application/json",
					},
				}},
			}})
			if err != nil || strings.Contains(out.String(), s) {
				t.Errorf("%s %q: %v, %v", method, body, out, err)
			}
		}
	}
}

// adminWithSecrets brings them as somebody who would be let in, and as somebody who is.
func (r *running) adminWithSecrets(t *testing.T, s string) {
	t.Helper()
	ctx, desk := r.desk(t)
	list, err := desk.List(ctx, &approvalv1.ListRequest{})
	if err != nil || len(list.GetApprovals()) == 0 {
		t.Fatalf("%v, %v", list, err)
	}
	for _, a := range list.GetApprovals() {
		got, err := desk.Get(ctx, &approvalv1.GetRequest{Id: a.GetId()})
		if err != nil || strings.Contains(got.String(), s) {
			t.Errorf("an approver is shown a secret: %v, %v", got, err)
		}
	}
	outside := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+s)
	if _, err := desk.List(outside, &approvalv1.ListRequest{}); err == nil || strings.Contains(err.Error(), s) {
		t.Errorf("a token that is none: %v", err)
	}
	_, admin := r.admin(t)
	if _, err := admin.PolicyStatus(outside, &adminv1.PolicyStatusRequest{}); err == nil || strings.Contains(err.Error(), s) {
		t.Errorf("a token that is none: %v", err)
	}
}
