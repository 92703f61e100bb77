// Package envoytest runs the real Envoy, with the files of examples/envoy, in
// front of a real Kelpie and asks through it: every kind of answer, what happens
// when Kelpie is slow, gone or draining, and every trick we know to make Envoy,
// Kelpie and the upstream read one request differently.
//
// It holds tests only and exports nothing. What a test of a bypass must show is
// judged at the upstream, never by the status that came back: what reached it had
// an ALLOW in Kelpie's decision log, for the very call that the upstream received.
//
//	s := start(t, setup{})
//	got := s.get(t, "lead-router", "/leads/42")
//	s.reached(t, 1)
package envoytest
