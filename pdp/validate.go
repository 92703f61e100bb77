package pdp

import (
	"github.com/kelpie-authz/kelpie/policy"
)

// maxTextBytes bounds the optional texts, as authz.proto does for the doors
// that come through it.
const maxTextBytes = 256

// validate checks the syntax of every field and fills the call. It returns the
// first field that is malformed, in the order of the wire's fields, or nil. An
// unmapped call has no action and no resource.
func (s *Service) validate(req *Request, call *policy.Call, unmapped bool) *InvalidError {
	if req.Agent != "" || s.cfg.Identifier == nil {
		if err := policy.CheckAgent(req.Agent); err != nil {
			return invalid("agent", err)
		}
	}
	if bad := validateCall(req, unmapped); bad != nil {
		return bad
	}
	addr, err := policy.ParseSourceIP(req.SourceIP)
	if err != nil {
		return invalid("source_ip", err)
	}
	if bad := validateTexts(req); bad != nil {
		return bad
	}
	params, bad := parameters(req)
	if bad != nil {
		return bad
	}
	if err := policy.CheckContext(req.Context); err != nil {
		return invalid("context", err)
	}
	if err := policy.CheckCost(req.Cost); err != nil {
		return invalid("cost", err)
	}
	if bad := s.validateApprovalID(req); bad != nil {
		return bad
	}
	*call = policy.Call{} // by itself, so that it is cleared in place
	call.Agent, call.Action, call.Resource, call.SourceIP = req.Agent, req.Action, req.Resource, addr
	call.Subject, call.SessionID, call.RunID = req.Subject, req.SessionID, req.RunID
	call.Tool.Server, call.Tool.Name = req.Tool.Server, req.Tool.Name
	call.Parameters, call.Context = params, req.Context
	return nil
}

func validateCall(req *Request, unmapped bool) *InvalidError {
	if unmapped {
		return nil
	}
	if err := policy.CheckAction(req.Action); err != nil {
		return invalid("action", err)
	}
	if err := policy.CheckResource(req.Resource); err != nil {
		return invalid("resource", err)
	}
	return nil
}

func invalid(field string, err error) *InvalidError {
	return &InvalidError{Field: field, Why: err.Error()}
}

func validateTexts(req *Request) *InvalidError {
	if len(req.RequestID)+len(req.Subject)+len(req.SessionID)+len(req.RunID)+
		len(req.Tool.Name)+len(req.Tool.Server)+len(req.ApprovalID) == 0 {
		return nil
	}
	for _, f := range [...]struct {
		name, text string
		maxBytes   int
	}{
		{"request_id", req.RequestID, maxTextBytes},
		{"subject", req.Subject, policy.MaxAgentBytes},
		{"session_id", req.SessionID, maxTextBytes},
		{"run_id", req.RunID, maxTextBytes},
		{"tool.name", req.Tool.Name, maxTextBytes},
		{"tool.server", req.Tool.Server, maxTextBytes},
		{"approval_id", req.ApprovalID, maxTextBytes},
	} {
		if f.text == "" {
			continue
		}
		if err := policy.CheckText(f.name, f.text, f.maxBytes); err != nil {
			return invalid(f.name, err)
		}
	}
	return nil
}

// validateApprovalID refuses an id that nobody would look at: the caller would
// take the answer for one about that approval.
func (s *Service) validateApprovalID(req *Request) *InvalidError {
	if req.ApprovalID != "" && s.cfg.Approvals == nil {
		return &InvalidError{Field: "approval_id", Why: "approval_id is given, and this server keeps no approvals; leave it out"}
	}
	return nil
}

// parametersField is the wire's name of the parameters.
const parametersField = "parameters_json"

// parameters reads the parameters with what the caller says of them. A caller
// that gives them and says that they are not all contradicts itself: which of
// the two a rule should go by would be a guess.
func parameters(req *Request) (policy.Parameters, *InvalidError) {
	const field = parametersField
	given := len(req.ParametersJSON) > 0
	var none policy.Parameters
	switch req.ParametersState {
	case ParametersUnspecified:
		if !given {
			return none, nil
		}
	case ParametersComplete:
		if !given {
			return none, &InvalidError{Field: field, Why: "parameters_json is empty though parameters_state is COMPLETE; give them, {} if there are none"}
		}
	case ParametersTruncated, ParametersNotSeen:
		if given {
			return none, &InvalidError{Field: field, Why: "parameters_json is given though parameters_state says that they were not seen whole; leave them out"}
		}
		if req.ParametersState == ParametersTruncated {
			return policy.Parameters{State: policy.ParametersTruncated}, nil
		}
		return policy.Parameters{State: policy.ParametersNotSeen}, nil
	default:
		return none, &InvalidError{Field: "parameters_state", Why: "parameters_state is unknown; write COMPLETE, TRUNCATED or NOT_SEEN"}
	}
	params, err := policy.ParseParameters(req.ParametersJSON)
	if err != nil {
		return none, invalid(field, err)
	}
	return params, nil
}
