package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

// callFlags describe one call, and who is asked about it.
type callFlags struct {
	policy string
	server serverFlags

	agent, action, resource, ip      string
	parameters, context              string
	subject, session, run, requestID string
	tool, toolServer                 string
	cost                             float64
	dryRun                           bool
	wait                             time.Duration
	approval                         string
	asJSON                           bool

	set *pflag.FlagSet
}

func (f *callFlags) register(cmd *cobra.Command) {
	f.set = cmd.Flags()
	f.set.StringVar(&f.policy, "policy", "", "ask the policy in this `directory` (KELPIE_POLICY)")
	f.server.register(f.set)
	f.set.StringVar(&f.agent, "agent", "", "the agent's `id`")
	f.set.StringVar(&f.action, "action", "", "the `action`: read, pulls.merge")
	f.set.StringVar(&f.resource, "resource", "", "the `resource`: salesforce/leads/42")
	f.set.StringVar(&f.ip, "ip", "", "the `address` the call comes from; left out: unknown")
	f.set.StringVar(&f.parameters, "parameters", "", "the call's parameters, one `JSON` object")
	f.set.StringVar(&f.context, "context", "", "facts that conditions may read, one `JSON` object")
	f.set.StringVar(&f.subject, "subject", "", "the `human` the agent acts for")
	f.set.StringVar(&f.session, "session", "", "the session's `id`")
	f.set.StringVar(&f.run, "run", "", "the run's `id`")
	f.set.StringVar(&f.tool, "tool", "", "the `name` of the tool that is called")
	f.set.StringVar(&f.toolServer, "tool-server", "", "the `server` that offers the tool")
	f.set.StringVar(&f.requestID, "request-id", "", "your own `id` of this call")
	f.set.Float64Var(&f.cost, "cost", 0, "what the call costs, for limits that count cost")
	f.set.BoolVar(&f.asJSON, "json", false, "print the full response as JSON")
}

// request is the call as the API has it.
func (f *callFlags) request() (*authzv1.AuthorizeRequest, error) {
	var missing []string
	for flag, value := range map[string]string{"agent": f.agent, "action": f.action, "resource": f.resource} {
		if value == "" {
			missing = append(missing, "--"+flag)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("the call is incomplete: give %s", join(missing))
	}
	req := &authzv1.AuthorizeRequest{
		Agent: f.agent, Action: f.action, Resource: f.resource, SourceIp: f.ip, RequestId: f.requestID, ApprovalId: f.approval,
		Subject: f.subject, SessionId: f.session, RunId: f.run, Cost: f.cost, DryRun: f.dryRun,
	}
	if f.set.Changed("wait") {
		req.Wait = durationpb.New(f.wait)
	}
	if f.tool != "" || f.toolServer != "" {
		req.Tool = &authzv1.Tool{Name: f.tool, Server: f.toolServer}
	}
	if f.set.Changed("parameters") {
		// Sent as it was typed, so that the server judges it and not a copy.
		req.ParametersJson = []byte(f.parameters)
		req.ParametersState = authzv1.ParametersState_PARAMETERS_STATE_COMPLETE
	}
	if f.set.Changed("context") {
		facts := map[string]any{}
		if err := json.Unmarshal([]byte(f.context), &facts); err != nil || facts == nil {
			return nil, fmt.Errorf("--context is not one JSON object; write it like '{\"channel\": \"email\"}' (%w)",
				orElse(err, errors.New("null")))
		}
		s, err := structpb.NewStruct(facts)
		if err != nil {
			return nil, fmt.Errorf("--context: %w", err)
		}
		req.Context = s
	}
	return req, nil
}

// asker asks about one call. Close frees it.
type asker interface {
	authorize(ctx context.Context, req *authzv1.AuthorizeRequest) (*authzv1.AuthorizeResponse, error)
	explain(ctx context.Context, req *authzv1.AuthorizeRequest) (*authzv1.ExplainResponse, error)
	close() error
}

// asker chooses between the policy directory and the server. A flag beats the
// environment, and two of a kind are refused.
func (f *callFlags) asker(env *Env) (asker, error) {
	dir, addr := f.policy, f.server.addr
	if dir == "" && addr == "" {
		dir, _ = env.Lookup("KELPIE_POLICY")
		addr, _ = env.Lookup("KELPIE_SERVER")
	}
	switch {
	case dir != "" && addr != "":
		return nil, errors.New("both a policy directory and a server are named; give --policy or --server")
	case dir != "" && (f.wait != 0 || f.approval != ""):
		return nil, errors.New("--wait and --approval-id are for a running server, where humans decide; give --server, or leave them out")
	case dir != "":
		return newLocal(env, dir)
	case addr != "":
		return newRemote(env, &f.server, addr)
	default:
		return nil, errors.New("whom to ask? give --policy DIR to ask a policy, or --server ADDR to ask a running server")
	}
}

// join sorts and lists words.
func join(words []string) string { return strings.Join(sorted(words), ", ") }

func orElse(err, other error) error {
	if err != nil {
		return err
	}
	return other
}
