package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

// besideArg makes this program one of the services that Kelpie's stands beside,
// in a process of its own so that its CPU time can be told from the caller's:
// grpc-go with a handler that answers always the same, at once or, if there is
// a Redis, after one plain call.
const besideArg = "serve-beside"

// beside is that service.
type beside struct {
	authzv1.UnimplementedAuthorizationServiceServer
	reply *authzv1.AuthorizeResponse
	plain *plainLimiter // nil: it answers at once
}

// Authorize answers with the reply that was handed in.
func (b *beside) Authorize(ctx context.Context, req *authzv1.AuthorizeRequest) (*authzv1.AuthorizeResponse, error) {
	if b.plain == nil {
		return b.reply, nil
	}
	limits := ample
	if strings.HasPrefix(req.GetAgent(), fewPrefix) {
		limits = few
	}
	admitted, err := b.plain.take(ctx, "plain:"+req.GetAgent(), limits)
	if err != nil {
		return nil, err
	}
	if !admitted {
		return &authzv1.AuthorizeResponse{Decision: authzv1.Decision_DECISION_DENY, Reason: authzv1.Reason_REASON_RATE_LIMITED}, nil
	}
	return b.reply, nil
}

// serveBeside prints its address and answers with the message in args[0], in
// base64, until the process is ended. The address of a Redis may follow.
func serveBeside(ctx context.Context, args []string, out io.Writer) error {
	if len(args) < 1 || len(args) > 2 {
		return errors.New(besideArg + " needs the reply")
	}
	raw, err := base64.StdEncoding.DecodeString(args[0])
	if err != nil {
		return fmt.Errorf("decode the reply: %w", err)
	}
	service := &beside{reply: new(authzv1.AuthorizeResponse)}
	if err := proto.Unmarshal(raw, service.reply); err != nil {
		return fmt.Errorf("decode the reply: %w", err)
	}
	if len(args) == 2 {
		if service.plain, err = newPlainLimiter(ctx, args[1]); err != nil {
			return err
		}
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	fmt.Fprintln(out, lis.Addr())
	srv := grpc.NewServer()
	authzv1.RegisterAuthorizationServiceServer(srv, service)
	return srv.Serve(lis)
}
