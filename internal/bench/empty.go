package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

// emptyServerArg makes this program the other side: a grpc-go service whose
// handler returns at once, in a process of its own so that its CPU time can be
// told from the caller's.
const emptyServerArg = "serve-empty"

// empty answers every call with one prepared message, of the size of Kelpie's.
type empty struct {
	authzv1.UnimplementedAuthorizationServiceServer
	reply *authzv1.AuthorizeResponse
}

// Authorize returns at once.
func (e *empty) Authorize(context.Context, *authzv1.AuthorizeRequest) (*authzv1.AuthorizeResponse, error) {
	return e.reply, nil
}

// emptyCheck is the same for Envoy's question.
type emptyCheck struct {
	authv3.UnimplementedAuthorizationServer
	reply *authv3.CheckResponse
}

// Check returns at once.
func (e *emptyCheck) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return e.reply, nil
}

// serveEmpty listens on a free port, prints its address, and serves until the
// process is ended. args[0] is the reply, which says what is served.
func serveEmpty(args []string) error {
	if len(args) != 1 {
		return errors.New("needs the reply")
	}
	reply, err := decodeReply(args[0])
	if err != nil {
		return fmt.Errorf("decode the reply: %w", err)
	}
	srv := grpc.NewServer()
	switch reply := reply.(type) {
	case *authzv1.AuthorizeResponse:
		authzv1.RegisterAuthorizationServiceServer(srv, &empty{reply: reply})
	case *authv3.CheckResponse:
		authv3.RegisterAuthorizationServer(srv, &emptyCheck{reply: reply})
	default:
		return fmt.Errorf("no service answers with a %T", reply)
	}
	return listenAndTell(srv.Serve)
}

// listenAndTell prints the address that serve is given a listener on.
func listenAndTell(serve func(net.Listener) error) error {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	fmt.Fprintln(os.Stdout, lis.Addr())
	return serve(lis)
}

// encodeReply makes an argument of a message; it carries the message's type.
func encodeReply(reply proto.Message) (string, error) {
	typed, err := anypb.New(reply)
	if err != nil {
		return "", fmt.Errorf("encode the reply: %w", err)
	}
	raw, err := proto.Marshal(typed)
	if err != nil {
		return "", fmt.Errorf("encode the reply: %w", err)
	}
	return base64.StdEncoding.EncodeToString(raw), nil
}

func decodeReply(arg string) (proto.Message, error) {
	raw, err := base64.StdEncoding.DecodeString(arg)
	if err != nil {
		return nil, err
	}
	typed := new(anypb.Any)
	if err := proto.Unmarshal(raw, typed); err != nil {
		return nil, err
	}
	return typed.UnmarshalNew()
}
