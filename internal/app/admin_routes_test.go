package app_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	approvalv1 "github.com/kelpie-authz/kelpie/gen/kelpie/approval/v1"
)

// services are those that a listener says it has.
func services(t *testing.T, ctx context.Context, conn *grpc.ClientConn) []string { //nolint:revive // The context has the token.
	t.Helper()
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ask := &reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}
	if err := stream.Send(ask); err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range answer.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	return names
}

// callMethod makes one call of any method with an empty message.
func callMethod(ctx context.Context, conn *grpc.ClientConn, m protoreflect.MethodDescriptor) error {
	path := "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
	in, out := dynamicpb.NewMessage(m.Input()), dynamicpb.NewMessage(m.Output())
	if !m.IsStreamingClient() && !m.IsStreamingServer() {
		return conn.Invoke(ctx, path, in, out)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: m.IsStreamingClient()}, path)
	if err != nil {
		return err
	}
	// Where the stream has ended already, the answer says why.
	_ = stream.SendMsg(in)
	_ = stream.CloseSend()
	return stream.RecvMsg(out)
}

// Whatever the admin listener serves asks for the admin token, and none of
// Kelpie's services there is to be had where agents and gateways call.
func TestEveryAdminRouteIsClosed(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	authorized, _ := r.admin(t)
	admin, data := dial(t, r.Addrs().Admin.String(), nil), dial(t, r.Addrs().GRPC.String(), nil)
	served := services(t, authorized, admin)
	if !slices.Contains(served, "kelpie.admin.v1.AdminService") || len(served) < 3 {
		t.Fatalf("the admin listener has %v", served)
	}
	with := func(value string) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), "authorization", value)
	}
	strangers := map[string]context.Context{
		"nothing":          t.Context(),
		"an agent's token": with("Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJyZWFkZXIifQ."),
		"an agent's key":   metadata.AppendToOutgoingContext(t.Context(), "x-api-key", "klp_reader_0123456789abcdef"),
		"a password":       with("Basic cmVhZGVyOg=="),
	}
	everybody := maps.Clone(strangers)
	everybody["the admin token"] = authorized
	// Approvals are never a gateway's, whether or not this server keeps any.
	for _, service := range append(served, approvalv1.ApprovalService_ServiceDesc.ServiceName) {
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
		if err != nil {
			t.Fatal(err)
		}
		methods := found.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			m := methods.Get(i)
			if slices.Contains(served, service) {
				for who, ctx := range strangers {
					if err := callMethod(ctx, admin, m); status.Code(err) != codes.Unauthenticated {
						t.Errorf("%s on the admin listener with %s: %v, want UNAUTHENTICATED", m.FullName(), who, err)
					}
				}
			}
			if !strings.HasPrefix(service, "kelpie.") {
				continue // Health and reflection are on both.
			}
			for who, ctx := range everybody {
				if err := callMethod(ctx, data, m); status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "unknown service") {
					t.Errorf("%s on the data listener with %s: %v, want that there is no such service", m.FullName(), who, err)
				}
			}
		}
	}
	for _, service := range services(t, t.Context(), data) {
		if strings.HasPrefix(service, "kelpie.admin.") || strings.HasPrefix(service, "kelpie.approval.") {
			t.Errorf("the data listener has %s", service)
		}
	}
}
