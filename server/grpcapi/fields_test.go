package grpcapi_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

func plain() *authzv1.AuthorizeRequest {
	return &authzv1.AuthorizeRequest{Agent: "a", Action: "read", Resource: "r"}
}

// variants returns a request per field, at every depth, in which that field
// alone differs from plain, by the field's path. It knows no field by name, so
// a field that is added to the schema is in it.
func variants(t *testing.T) map[string]*authzv1.AuthorizeRequest {
	t.Helper()
	out := map[string]*authzv1.AuthorizeRequest{}
	walk(t, plain().ProtoReflect().Descriptor(), "", func(set func(protoreflect.Message)) *authzv1.AuthorizeRequest {
		req := plain()
		set(req.ProtoReflect())
		return req
	}, out)
	return out
}

func walk(t *testing.T, d protoreflect.MessageDescriptor, prefix string,
	build func(func(protoreflect.Message)) *authzv1.AuthorizeRequest, out map[string]*authzv1.AuthorizeRequest,
) {
	t.Helper()
	fields := d.Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		path := prefix + string(f.Name())
		if f.Message() != nil && !f.IsList() && !strings.HasPrefix(string(f.Message().FullName()), "google.protobuf.") {
			walk(t, f.Message(), path+".", func(set func(protoreflect.Message)) *authzv1.AuthorizeRequest {
				return build(func(m protoreflect.Message) { set(m.Mutable(f).Message()) })
			}, out)
			continue
		}
		out[path] = build(func(m protoreflect.Message) { setSample(t, m, f) })
	}
}

// setSample gives a field a value that is not its zero value.
func setSample(t *testing.T, m protoreflect.Message, f protoreflect.FieldDescriptor) {
	t.Helper()
	if f.IsList() {
		m.Mutable(f).List().Append(sample(t, f))
		return
	}
	m.Set(f, sample(t, f))
}

func sample(t *testing.T, f protoreflect.FieldDescriptor) protoreflect.Value {
	t.Helper()
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString("sample")
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(`{"sample":1}`))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(7)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(f.Enum().Values().Get(f.Enum().Values().Len() - 1).Number())
	case protoreflect.MessageKind:
		switch f.Message().FullName() {
		case "google.protobuf.Struct":
			s, err := structpb.NewStruct(map[string]any{"k": "v"})
			if err != nil {
				t.Fatal(err)
			}
			return protoreflect.ValueOfMessage(s.ProtoReflect())
		case "google.protobuf.Duration":
			return protoreflect.ValueOfMessage(durationpb.New(1).ProtoReflect())
		}
	}
	t.Fatalf("%s: this test has no sample of kind %v; add one", f.FullName(), f.Kind())
	return protoreflect.Value{}
}

// Every field of a request, also one that is added later, either reaches the
// decision or is refused by name; none is dropped without a word.
func TestEveryFieldIsMappedOrRefused(t *testing.T) {
	t.Parallel()
	base := &recorder{}
	if _, err := newAPI(t, base).Authorize(t.Context(), plain()); err != nil {
		t.Fatal(err)
	}
	refusedWant := map[string]string{
		"credential.token": "credential", "credential.api_key": "credential", "credential.fingerprint": "credential",
		"actor_chain": "actor_chain", "wait": "wait", "tool.definition_digest": "tool.definition_digest",
	}
	all := variants(t)
	if len(all) < 20 {
		t.Fatalf("walked only %d fields", len(all))
	}
	var mapped, refused int
	for path, req := range all {
		seen := &recorder{}
		_, err := newAPI(t, seen).Authorize(t.Context(), req)
		field, unenforced := refusedWant[path]
		switch {
		case unenforced:
			refused++
			if status.Code(err) != codes.Unimplemented || !strings.HasPrefix(status.Convert(err).Message(), field+" is not enforced by this build") {
				t.Errorf("%s: %v", path, err)
			}
			if len(seen.asked) != 0 {
				t.Errorf("%s: was judged all the same", path)
			}
		case err != nil:
			t.Errorf("%s: %v", path, err)
		case cmp.Equal(base.asked, seen.asked):
			t.Errorf("%s neither reaches the decision nor is refused", path)
		default:
			mapped++
		}
	}
	t.Logf("%d fields: %d mapped, %d refused", len(all), mapped, refused)
	if refused != len(refusedWant) {
		t.Errorf("%d fields were refused, want %d", refused, len(refusedWant))
	}
}

func TestRefusedFieldsOfBatchAndExplainAreNamed(t *testing.T) {
	t.Parallel()
	bad := plain()
	bad.ActorChain = []string{"x"}
	seen := &recorder{}
	api := newAPI(t, seen)
	_, err := api.BatchAuthorize(t.Context(), &authzv1.BatchAuthorizeRequest{Requests: []*authzv1.AuthorizeRequest{plain(), bad}})
	if status.Code(err) != codes.Unimplemented || !strings.HasPrefix(status.Convert(err).Message(), "requests[1].actor_chain ") {
		t.Errorf("batch: %v", err)
	}
	_, err = api.Explain(t.Context(), &authzv1.ExplainRequest{Request: bad})
	if status.Code(err) != codes.Unimplemented || !strings.HasPrefix(status.Convert(err).Message(), "request.actor_chain ") {
		t.Errorf("explain: %v", err)
	}
	if len(seen.asked) != 0 {
		t.Errorf("judged %d requests", len(seen.asked))
	}
}

// A field of a newer schema is refused wherever it stands.
func TestUnknownFieldsAreRefused(t *testing.T) {
	t.Parallel()
	unknown := protowire.AppendVarint(protowire.AppendTag(nil, 4711, protowire.VarintType), 1)
	spoil := func(m proto.Message) { m.ProtoReflect().SetUnknown(unknown) }
	nested := func(spoilIt func(*structpb.Struct)) *authzv1.AuthorizeRequest {
		s, err := structpb.NewStruct(map[string]any{"list": []any{"x"}, "map": map[string]any{"y": 1}})
		if err != nil {
			t.Fatal(err)
		}
		spoilIt(s)
		req := plain()
		req.Context = s
		return req
	}
	top, tool := plain(), plain()
	spoil(top)
	tool.Tool = &authzv1.Tool{Name: "t"}
	spoil(tool.GetTool())
	for name, tc := range map[string]struct {
		req  *authzv1.AuthorizeRequest
		want string
	}{
		"request":      {top, "field 4711 "},
		"tool":         {tool, "tool.field 4711 "},
		"context":      {nested(func(s *structpb.Struct) { spoil(s) }), "context.field 4711 "},
		"a value":      {nested(func(s *structpb.Struct) { spoil(s.GetFields()["list"]) }), "context.field 4711 "},
		"a list":       {nested(func(s *structpb.Struct) { spoil(s.GetFields()["list"].GetListValue()) }), "context.field 4711 "},
		"in a list":    {nested(func(s *structpb.Struct) { spoil(s.GetFields()["list"].GetListValue().GetValues()[0]) }), "context.field 4711 "},
		"inner struct": {nested(func(s *structpb.Struct) { spoil(s.GetFields()["map"].GetStructValue()) }), "context.field 4711 "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seen := &recorder{}
			api := newAPI(t, seen)
			check := func(door, prefix string, err error) {
				t.Helper()
				if status.Code(err) != codes.Unimplemented || !strings.HasPrefix(status.Convert(err).Message(), prefix+tc.want) {
					t.Errorf("%s: %v", door, err)
				}
			}
			_, err := api.Authorize(t.Context(), tc.req)
			check("Authorize", "", err)
			_, err = api.BatchAuthorize(t.Context(), &authzv1.BatchAuthorizeRequest{Requests: []*authzv1.AuthorizeRequest{tc.req}})
			check("BatchAuthorize", "requests[0].", err)
			_, err = api.Explain(t.Context(), &authzv1.ExplainRequest{Request: tc.req})
			check("Explain", "request.", err)
			if len(seen.asked) != 0 {
				t.Error("was judged all the same")
			}
		})
	}
	batch := &authzv1.BatchAuthorizeRequest{Requests: []*authzv1.AuthorizeRequest{plain()}}
	spoil(batch)
	if _, err := newAPI(t, &recorder{}).BatchAuthorize(t.Context(), batch); status.Code(err) != codes.Unimplemented {
		t.Errorf("batch: %v", err)
	}
	explain := &authzv1.ExplainRequest{Request: plain()}
	spoil(explain)
	if _, err := newAPI(t, &recorder{}).Explain(t.Context(), explain); status.Code(err) != codes.Unimplemented {
		t.Errorf("explain: %v", err)
	}
}

func TestBatchBounds(t *testing.T) {
	t.Parallel()
	many := func(n int) *authzv1.BatchAuthorizeRequest {
		b := &authzv1.BatchAuthorizeRequest{}
		for range n {
			b.Requests = append(b.Requests, plain())
		}
		return b
	}
	for n, want := range map[int]codes.Code{0: codes.InvalidArgument, 1: codes.OK, 1000: codes.OK, 1001: codes.InvalidArgument} {
		out, err := newAPI(t, &recorder{}).BatchAuthorize(t.Context(), many(n))
		if status.Code(err) != want || (err == nil && len(out.GetResponses()) != n) {
			t.Errorf("%d requests: %v", n, err)
		}
	}
	for s := range authzv1.BatchSemantic_name {
		b := many(1)
		b.Semantic = authzv1.BatchSemantic(s)
		seen := &recorder{}
		if _, err := newAPI(t, seen).BatchAuthorize(t.Context(), b); err != nil {
			t.Errorf("semantic %d: %v", s, err)
		}
		if want := max(s-1, 0); int32(seen.semantic) != want {
			t.Errorf("semantic %d became %d", s, seen.semantic)
		}
	}
	b := many(1)
	b.Semantic = 99
	if _, err := newAPI(t, &recorder{}).BatchAuthorize(t.Context(), b); status.Code(err) != codes.InvalidArgument ||
		!strings.HasPrefix(status.Convert(err).Message(), "semantic ") {
		t.Errorf("semantic 99: %v", err)
	}
}

// A batch that reuses the buffers of a larger one must not see its requests.
func TestBatchBuffersAreCleared(t *testing.T) {
	t.Parallel()
	seen := &recorder{}
	api := newAPI(t, seen)
	full := &authzv1.BatchAuthorizeRequest{}
	for i := range 3 {
		r := plain()
		r.Subject, r.Agent = "s", fmt.Sprint("agent", i)
		r.ParametersJson = []byte("{}")
		full.Requests = append(full.Requests, r)
	}
	if _, err := api.BatchAuthorize(t.Context(), full); err != nil {
		t.Fatal(err)
	}
	seen.asked = nil
	if _, err := api.BatchAuthorize(t.Context(), &authzv1.BatchAuthorizeRequest{Requests: []*authzv1.AuthorizeRequest{plain(), plain()}}); err != nil {
		t.Fatal(err)
	}
	for _, r := range seen.asked {
		if r.Subject != "" || r.ParametersJSON != nil || r.Agent != "a" {
			t.Errorf("asked %+v", r)
		}
	}
	if len(seen.asked) != 2 {
		t.Errorf("asked %d", len(seen.asked))
	}
}
