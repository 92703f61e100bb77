package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
)

// TestOPAJudgesAsKelpie: a comparison of two that do not judge alike would
// compare nothing. OPA's rules are written by hand, so they are asked the same
// as Kelpie: calls at random, drawn so that each check refuses some.
func TestOPAJudgesAsKelpie(t *testing.T) {
	t.Parallel()
	const calls = 200
	env, err := newEnvironment(t.Context(), options{})
	if err != nil {
		t.Fatal(err)
	}
	defer env.close()
	kelpie, err := env.startKelpieHTTP(t.Context(), "check", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer kelpie.stop()
	opa, err := env.startOPA(t.Context(), allowed())
	if err != nil {
		t.Fatal(err)
	}
	defer opa.stop()
	random := rand.New(rand.NewPCG(1, 2))
	seen := map[string]int{}
	for i := range calls {
		asked := randomCall(random, env)
		want, err := askCheck(t.Context(), kelpie, asked.check(i))
		if err != nil {
			t.Fatal(err)
		}
		got, err := askCheck(t.Context(), opa, asked.check(i))
		if err != nil {
			t.Fatal(err)
		}
		if allows(got) != allows(want) || got.GetStatus().GetCode() != want.GetStatus().GetCode() ||
			!allows(want) && got.GetStatus().GetMessage() != want.GetStatus().GetMessage() {
			t.Errorf("%+v: OPA says %v, Kelpie %v", asked, got.GetStatus(), want.GetStatus())
		}
		reason := "ok"
		if !allows(want) {
			reason = want.GetStatus().GetMessage()
		}
		seen[reason]++
	}
	for _, reason := range []string{"ok", "agent_unknown", "ip_not_allowed", "action_denied", "no_matching_scope", "insufficient_scope"} {
		if seen[reason] < 10 {
			t.Errorf("only %d of %d calls were answered %s: %v", seen[reason], calls, reason, seen)
		}
	}
}

// randomCall is one that is allowed, with up to two of its parts changed.
func randomCall(random *rand.Rand, env *environment) httpCall {
	agent, resource := env.pick(random.IntN(1 << 16))
	asked := httpCall{agent: agent, method: http.MethodGet, path: "/" + resource, source: callerAddress}
	for range random.IntN(3) {
		switch n := random.IntN(env.shape.scopes); random.IntN(6) {
		case 0:
			asked.agent = fmt.Sprintf("agent-%d", env.shape.agents+n)
		case 1:
			asked.source = []string{"10.9.0.5", "192.0.2.7", "fd00:9::1", "fd00:8::1", "10.8.255.255"}[n%5]
		case 2:
			asked.method = []string{http.MethodPost, http.MethodPut}[n%2]
		case 3:
			asked.path = "/" + resourceOf(n)
		case 4:
			asked.path = fmt.Sprintf("/svc%d/things%d/items", (n+1)%100, n)
		case 5:
			asked.path = []string{"/svc1/things1", "/svc1", "/other/things1/x/y", asked.path + "?page=2"}[n%4]
		}
	}
	return asked
}

func allowed() *authv3.CheckResponse {
	return &authv3.CheckResponse{
		Status:       &rpcstatus.Status{Code: int32(codes.OK)},
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}},
	}
}

// TestEveryAnswerIsChecked loads servers that answer well and one that does not.
func TestEveryAnswerIsChecked(t *testing.T) {
	t.Parallel()
	env := &environment{dir: t.TempDir(), shape: shape{agents: 10, scopes: 10, scopesPerAgent: 1}}
	start := func(s *server, err error) *server {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.stop)
		return s
	}
	ctx := context.WithoutCancel(t.Context()) // the servers end in Cleanup, after t.Context
	yes := start(env.startEmpty(ctx, allowed()))
	no := start(env.startEmpty(ctx, &authv3.CheckResponse{Status: &rpcstatus.Status{Code: int32(codes.PermissionDenied)}}))
	upstream := start(startSelf(ctx, upstreamArg))
	for _, tt := range []struct {
		side side
		want error
	}{
		{yes.side("yes", env.check), nil},
		{no.side("no", env.check), errWrongAnswer},
		{env.through(upstream, upstream.addr), nil},
	} {
		got, err := load(t.Context(), tt.side, 2, 50*time.Millisecond)
		if !errors.Is(err, tt.want) || (err == nil) != (got.perSecond > 0) {
			t.Errorf("%s: %+v, %v, want %v", tt.side.name, got, err, tt.want)
		}
	}
	// An Envoy that does not ask lets a stranger through.
	if err := (listeners{with: upstream.addr, without: upstream.addr}).judged(t.Context()); !errors.Is(err, errWrongAnswer) {
		t.Errorf("a listener that asks nobody: %v, want %v", err, errWrongAnswer)
	}
}

func TestEnvoyConfiguration(t *testing.T) {
	t.Parallel()
	env := &environment{dir: t.TempDir()}
	path, at, err := env.configureEnvoy("127.0.0.1:1", "127.0.0.1:2")
	if err != nil || at.with == at.without {
		t.Fatalf("%s for %+v: %v", path, at, err)
	}
}
