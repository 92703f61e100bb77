package servertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

// HTTPPolicy is the document that a policy needs beside it for [ExtAuthzDoor]
// to ask the same as the other doors: an http section by which any call can be
// told as a request.
const HTTPPolicy = `http:
  agent_from: [{from: context_extension, name: servertest.agent}]
  request_bodies: sent
  routes:
    any-call: {methods: [POST], path: "/{action}/{resource...}", action: "{action}", resource: "{resource}"}
`

// ExtAuthzDoor is Envoy's external authorization over a connection. It asks
// for a call as the request that [HTTPPolicy] makes that call of: parameters
// are the body, and texts of the context come as context extensions.
func ExtAuthzDoor(conn grpc.ClientConnInterface) Door {
	return extAuthz{authv3.NewAuthorizationClient(conn)}
}

type extAuthz struct {
	client authv3.AuthorizationClient
}

// Name implements Door.
func (extAuthz) Name() string { return "ext_authz" }

// Ask implements Door.
func (d extAuthz) Ask(ctx context.Context, req *authzv1.AuthorizeRequest, n int) (Answer, error) {
	in, err := checkRequest(req)
	if err != nil {
		return Answer{}, err
	}
	var last Answer
	for range n {
		out, err := d.client.Check(ctx, in)
		if err != nil {
			return Answer{}, fmt.Errorf("check: %w", err)
		}
		if last, err = answerOfCheck(out); err != nil {
			return Answer{}, err
		}
	}
	return last, nil
}

// errUntold means that a request cannot be told as one of HTTP.
var errUntold = errors.New("the call has a field that no HTTP request of the suite carries")

func checkRequest(req *authzv1.AuthorizeRequest) (*authv3.CheckRequest, error) {
	if req.GetSubject() != "" || req.GetSessionId() != "" || req.GetRunId() != "" || req.GetTool() != nil || req.GetCost() != 0 {
		return nil, errUntold
	}
	http := &authv3.AttributeContext_HttpRequest{
		Method: "POST", Host: "any.example.com", Scheme: "https", Protocol: "HTTP/2",
		Path:    requestPath(req.GetAction(), req.GetResource()),
		Headers: map[string]string{"content-length": strconv.Itoa(len(req.GetParametersJson())), "content-type": "application/json"},
		RawBody: req.GetParametersJson(),
	}
	switch req.GetParametersState() {
	case authzv1.ParametersState_PARAMETERS_STATE_NOT_SEEN:
		http.Headers["content-length"] = "1"
	case authzv1.ParametersState_PARAMETERS_STATE_TRUNCATED:
		http.RawBody, http.Headers["x-envoy-auth-partial-body"] = []byte("{"), "true"
	default:
	}
	extensions := map[string]string{}
	for name, value := range req.GetContext().GetFields() {
		text, ok := value.GetKind().(*structpb.Value_StringValue)
		if !ok {
			return nil, errUntold
		}
		extensions[name] = text.StringValue
	}
	maps.Copy(extensions, map[string]string{"servertest.agent": req.GetAgent()})
	attributes := &authv3.AttributeContext{
		Request:           &authv3.AttributeContext_Request{Http: http},
		ContextExtensions: extensions,
	}
	if req.GetSourceIp() != "" {
		attributes.Source = &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{
			SocketAddress: &corev3.SocketAddress{Address: req.GetSourceIp()},
		}}}
	}
	return &authv3.CheckRequest{Attributes: attributes}, nil
}

func requestPath(action, resource string) string {
	segments := strings.Split(resource, "/")
	for i := range segments {
		segments[i] = url.PathEscape(segments[i])
	}
	return "/" + url.PathEscape(action) + "/" + strings.Join(segments, "/")
}

// answerOfCheck reads what an access log would: the decision from the status
// that Envoy goes by, the rest from the metadata.
func answerOfCheck(out *authv3.CheckResponse) (Answer, error) {
	meta := out.GetDynamicMetadata().AsMap()
	word := func(name string) string { text, _ := meta[name].(string); return text }
	answer := Answer{
		Decision: authzv1.Decision(authzv1.Decision_value["DECISION_"+word("decision")]),
		Reason:   authzv1.Reason(authzv1.Reason_value["REASON_"+strings.ToUpper(word("reason"))]),
	}
	rules, _ := meta["matched"].([]any)
	for _, rule := range rules {
		text, _ := rule.(string)
		answer.Matched = append(answer.Matched, text)
	}
	opens := out.GetStatus().GetCode() == 0 && out.GetOkResponse() != nil
	if opens != (answer.Decision == authzv1.Decision_DECISION_ALLOW) {
		return Answer{}, fmt.Errorf("check: status and metadata disagree: %v", out)
	}
	if opens {
		return answer, nil
	}
	scopes, err := scopesOf(out.GetDeniedResponse().GetBody())
	answer.RequiredScopes = scopes
	return answer, err
}

// scopesOf reads what the agent is told.
func scopesOf(body string) ([]string, error) {
	var told struct {
		RequiredScopes []string `json:"required_scopes"`
	}
	if err := json.Unmarshal([]byte(body), &told); err != nil {
		return nil, fmt.Errorf("check: the body of a denial: %w", err)
	}
	return told.RequiredScopes, nil
}
