// Package client asks a Kelpie server whether an agent's call may go through,
// and puts that question in front of gRPC and HTTP handlers.
//
// What it is careful about:
//
//   - Only an ALLOW allows. An error, a missing or unknown decision, a dry run
//     and an obligation that the caller does not handle are all "no"
//     ([Decision.Allowed]). [WithFailOpen] is the one way to change that.
//   - A call is never sent twice if the server may have seen it, because a
//     decision charges limits. gRPC's transparent retry, which happens only
//     when the server has provably not seen the call, is the only one; retry
//     policies that a name server hands out are ignored.
//   - Every call has a deadline ([DefaultTimeout]) and fails at once while the
//     server cannot be reached.
//   - Plaintext goes to this machine only; to anywhere else it speaks TLS.
//
// It is not a cache and holds no policy: every call is decided by the server.
//
//	c, err := client.New("127.0.0.1:7070")
//	if err != nil {
//		return err
//	}
//	defer c.Close()
//	d, err := c.Authorize(ctx, &authzv1.AuthorizeRequest{
//		Agent: "lead-router", Action: "read", Resource: "salesforce/leads/42", SourceIp: "10.8.0.5",
//	})
//	if err != nil || !d.Allowed() {
//		return refuse(d, err)
//	}
package client
