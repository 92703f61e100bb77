// Command opacheck is what `make bench` puts beside Kelpie's ext_authz door:
// the same rules, evaluated by OPA's Go library in a gRPC service of the same
// form. It is a module of its own, so that OPA does not come into the main one.
//
// It is written to be quick, not to be a product: where OPA's own Envoy plugin
// turns the whole request into JSON, this picks the four values that the rules
// read. It does less than Kelpie for a call: no limit is charged, approval
// rules are not looked at, no grants are named, and the path is not searched
// for what could be read in two ways.
//
//	opacheck DATA LOG REPLY
//
// DATA is a JSON file of agents, networks, routes and scopes; decisions are
// written to LOG; REPLY is the answer to an allowed call, so that it is as large
// as Kelpie's: a google.protobuf.Any in base64. It prints its address and serves
// until the process is ended.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "opacheck:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return errors.New("usage: opacheck DATA LOG REPLY")
	}
	rules, err := prepare(ctx, args[0])
	if err != nil {
		return err
	}
	log, err := newDecisionLog(args[1])
	if err != nil {
		return err
	}
	allowed, err := decode(args[2])
	if err != nil {
		return fmt.Errorf("decode the reply: %w", err)
	}
	srv := grpc.NewServer()
	authv3.RegisterAuthorizationServer(srv, &checker{rules: rules, log: log, allowed: allowed})
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	fmt.Fprintln(os.Stdout, lis.Addr())
	return srv.Serve(lis)
}
