package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

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

// serveEmpty listens on a free port, prints its address, and serves until the
// process is ended. args[0] is the reply, as base64 of its wire form.
func serveEmpty(args []string) error {
	if len(args) != 1 {
		return errors.New("needs the reply")
	}
	raw, err := base64.StdEncoding.DecodeString(args[0])
	if err != nil {
		return fmt.Errorf("decode the reply: %w", err)
	}
	reply := new(authzv1.AuthorizeResponse)
	if err := proto.Unmarshal(raw, reply); err != nil {
		return fmt.Errorf("decode the reply: %w", err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	fmt.Fprintln(os.Stdout, lis.Addr())
	srv := grpc.NewServer()
	authzv1.RegisterAuthorizationServiceServer(srv, &empty{reply: reply})
	return srv.Serve(lis)
}
