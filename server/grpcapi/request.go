package grpcapi

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/pdp"
)

// unknownState is no state; pdp refuses it.
const unknownState = pdp.ParametersState(255)

// translate fills req from in, all of it, for a call that does not wait: one in
// a batch, in a stream or of Explain may not. What pdp checks is not checked
// here; a fault is what pdp could not see.
func translate(in *authzv1.AuthorizeRequest, gateway string, req *pdp.Request) *fault {
	if in.GetWait() != nil {
		return malformed("wait", "is for Authorize alone; leave it out")
	}
	return translateHeld(in, gateway, req)
}

// translateHeld is translate of a call whose wait the caller sees to.
func translateHeld(in *authzv1.AuthorizeRequest, gateway string, req *pdp.Request) *fault {
	if f := refused(in); f != nil {
		return f
	}
	*req = pdp.Request{
		Agent:          in.GetAgent(),
		Action:         in.GetAction(),
		Resource:       in.GetResource(),
		SourceIP:       in.GetSourceIp(),
		RequestID:      in.GetRequestId(),
		ApprovalID:     in.GetApprovalId(),
		Subject:        in.GetSubject(),
		SessionID:      in.GetSessionId(),
		RunID:          in.GetRunId(),
		Tool:           pdp.Tool{Server: in.GetTool().GetServer(), Name: in.GetTool().GetName()},
		ParametersJSON: in.GetParametersJson(),
		Cost:           in.GetCost(),
		DryRun:         in.GetDryRun(),
		Gateway:        gateway,
	}
	if s := in.GetParametersState(); s < 0 || s > authzv1.ParametersState_PARAMETERS_STATE_NOT_SEEN {
		req.ParametersState = unknownState
	} else {
		req.ParametersState = pdp.ParametersState(s)
	}
	if in.GetContext() != nil {
		values, f := contextOf(in.GetContext())
		if f != nil {
			return f
		}
		req.Context = values
	}
	return nil
}

// refused finds the first field that this build does not enforce.
func refused(in *authzv1.AuthorizeRequest) *fault {
	switch {
	case in.GetCredential() != nil:
		return unenforced("credential")
	case len(in.GetActorChain()) > 0:
		return unenforced("actor_chain")
	}
	if tool := in.GetTool(); tool != nil {
		if tool.GetDefinitionDigest() != "" {
			return unenforced("tool.definition_digest")
		}
		if f := unknownField(tool, "tool."); f != nil {
			return f
		}
	}
	return unknownField(in, "")
}

// unknownField finds a field that was on the wire and is not in this build's schema.
func unknownField(m proto.Message, prefix string) *fault {
	raw := m.ProtoReflect().GetUnknown()
	if len(raw) == 0 {
		return nil
	}
	number, _, _ := protowire.ConsumeTag(raw)
	return unenforced(fmt.Sprintf("%sfield %d", prefix, number))
}

// nothing is a value of a Struct that holds none; pdp refuses its type as malformed.
type nothing struct{}

// contextOf unpacks a Struct. Numbers that JSON has no word for are passed on:
// pdp refuses them.
func contextOf(s *structpb.Struct) (map[string]any, *fault) {
	if f := unknownField(s, "context."); f != nil {
		return nil, f
	}
	out := make(map[string]any, len(s.GetFields()))
	for name, v := range s.GetFields() {
		value, f := valueOf(v)
		if f != nil {
			return nil, f
		}
		out[name] = value
	}
	return out, nil
}

func valueOf(v *structpb.Value) (any, *fault) {
	if v == nil {
		return nothing{}, nil
	}
	if f := unknownField(v, "context."); f != nil {
		return nil, f
	}
	switch kind := v.GetKind().(type) {
	case *structpb.Value_NullValue:
		return nil, nil //nolint:nilnil // A null is the value nil.
	case *structpb.Value_BoolValue:
		return kind.BoolValue, nil
	case *structpb.Value_NumberValue:
		return kind.NumberValue, nil
	case *structpb.Value_StringValue:
		return kind.StringValue, nil
	case *structpb.Value_StructValue:
		return contextOf(kind.StructValue)
	case *structpb.Value_ListValue:
		if f := unknownField(kind.ListValue, "context."); f != nil {
			return nil, f
		}
		list := make([]any, len(kind.ListValue.GetValues()))
		for i, e := range kind.ListValue.GetValues() {
			value, f := valueOf(e)
			if f != nil {
				return nil, f
			}
			list[i] = value
		}
		return list, nil
	default:
		return nothing{}, nil
	}
}
