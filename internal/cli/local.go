package cli

import (
	"context"
	"errors"
	"fmt"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/internal/policydir"
	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/policy"
)

// local asks a policy directory, through the service that a server uses, with
// limits that start empty and are gone afterwards.
type local struct {
	service *pdp.Service
	limits  limiter.Limiter
}

// fixed is a policy that is never reloaded.
type fixed struct{ snapshot *policy.Snapshot }

// Snapshot implements pdp.PolicySource.
func (f fixed) Snapshot() *policy.Snapshot { return f.snapshot }

func newLocal(env *Env, dir string) (*local, error) {
	snapshot, _, err := compileDir(dir)
	if err != nil {
		return nil, err
	}
	limits, err := limiter.NewMemory(limiter.MemoryConfig{Clock: env.Now})
	if err != nil {
		return nil, fmt.Errorf("make the limiter: %w", err)
	}
	service, err := pdp.New(pdp.Config{
		Policy:  fixed{snapshot},
		Limiter: limits,
		// The answer on the screen is the record: nothing lets a call through here.
		Recorder: pdp.RecorderFunc(func(context.Context, *pdp.Record) error { return nil }),
		Now:      env.Now,
	})
	if err != nil {
		return nil, fmt.Errorf("make the service: %w", err)
	}
	return &local{service: service, limits: limits}, nil
}

// compileDir reads and compiles a policy directory, and returns its tests too.
func compileDir(dir string) (*policy.Snapshot, []policy.Document, error) {
	found, err := policydir.Read(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("%w (`kelpie init` writes a first policy)", err)
	}
	snapshot, err := policy.Compile(found.Policy)
	if err != nil {
		return nil, nil, fmt.Errorf("the policy in %s does not load:\n%w", dir, err)
	}
	return snapshot, found.Tests, nil
}

func (l *local) authorize(ctx context.Context, req *authzv1.AuthorizeRequest) (*authzv1.AuthorizeResponse, error) {
	var d pdp.Decision
	if err := l.service.Authorize(ctx, fromProto(req), &d); err != nil {
		return nil, noDecision(err)
	}
	return decisionToProto(&d), nil
}

func (l *local) explain(ctx context.Context, req *authzv1.AuthorizeRequest) (*authzv1.ExplainResponse, error) {
	var e pdp.Explanation
	if err := l.service.Explain(ctx, fromProto(req), &e); err != nil {
		return nil, noDecision(err)
	}
	return explanationToProto(&e), nil
}

func (l *local) close() error {
	if err := l.limits.Close(); err != nil {
		return fmt.Errorf("close the limiter: %w", err)
	}
	return nil
}

// flagOf names the flag behind a field of the API; "" if there is none.
func flagOf(field string) string {
	return map[string]string{
		"agent": "--agent", "action": "--action", "resource": "--resource", "source_ip": "--ip",
		"parameters_json": "--parameters", "context": "--context", "subject": "--subject", "session_id": "--session",
		"run_id": "--run", "cost": "--cost", "request_id": "--request-id",
		"tool.name": "--tool", "tool.server": "--tool-server",
	}[field]
}

func noDecision(err error) error {
	if invalid, ok := errors.AsType[*pdp.InvalidError](err); ok {
		if flag := flagOf(invalid.Field); flag != "" {
			return fmt.Errorf("no decision: %s: %s", flag, invalid.Why)
		}
	}
	return fmt.Errorf("no decision: %w", err)
}
