package redisstore

import (
	"context"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/kelpie-authz/kelpie/store"
)

// SealAs seals a content of some schema under a store's key.
func SealAs(tb testing.TB, s *Store, name string, schema uint16, content []byte) string {
	tb.Helper()
	return s.seal.seal(name, schema, content)
}

// Writes tells whether a name is that of a script that changes something.
func Writes(sha string) bool {
	return sha == openScript.sha || sha == swapScript.sha || sha == pruneScript.sha
}

// CheckText is what the start tries.
func CheckText() string { return checkText }

// ScriptTexts are those that are run afterwards, by their names.
func ScriptTexts() map[string]string {
	return map[string]string{"begin": beginText, "read": readText, "open": openText, "swap": swapText, "list": listText, "prune": pruneText}
}

const fuzzName = "p:{p:approvals}:record:a"

func fuzzSealer(tb testing.TB) *sealer {
	tb.Helper()
	s, err := newSealer(make([]byte, leastKey))
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// Sealed is an approval as it is kept.
func Sealed(tb testing.TB, a *store.Approval) string {
	tb.Helper()
	one := a.Clone()
	one.State, one.Version = store.Pending, 1
	content, err := encodeApproval(one, "a:b")
	if err != nil {
		tb.Fatal(err)
	}
	return fuzzSealer(tb).seal(fuzzName, approvalSchema, content)
}

// OpenSealed is the way back.
func OpenSealed(tb testing.TB, raw string) (*store.Approval, error) {
	tb.Helper()
	content, err := fuzzSealer(tb).open(fuzzName, approvalSchema, raw)
	if err != nil {
		return nil, err
	}
	return Decode(content)
}

// Decode reads a content.
func Decode(content []byte) (*store.Approval, error) {
	a, _, err := decodeApproval(content)
	return a, err
}

// Encode writes one.
func Encode(a *store.Approval) ([]byte, error) { return encodeApproval(a, "a:b") }

// ParseRead reads the answer of read.lua.
func ParseRead(got any, n int) (string, []string, []bool, error) { return parseRead(got, n) }

// ParseList reads the answer of list.lua.
func ParseList(tb testing.TB, got any) {
	tb.Helper()
	list, err := parseList(got)
	for _, e := range list {
		if err != nil || e.number == "" {
			tb.Errorf("%v: %+v %v", got, list, err)
		}
	}
}

// Fill adds so many approvals as Open does, without a step for each.
func Fill(tb testing.TB, s *Store, n int, approval func(int) *store.Approval) {
	tb.Helper()
	ctx := context.Background()
	epoch, _, _, err := s.read(ctx, s.names.check())
	if err != nil {
		tb.Fatal(err)
	}
	for at := 0; at < n; at += 1000 {
		_, err := s.link.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i := at; i < min(n, at+1000); i++ {
				a := approval(i)
				raw, err := s.sealed(a, epoch)
				if err != nil {
					return err
				}
				z := func(name string, score int, member string) {
					p.ZAdd(ctx, name, redis.Z{Score: float64(score), Member: member})
				}
				p.Set(ctx, s.names.record(a.ID), raw, 0)
				p.Set(ctx, s.names.digest(a.Digest), a.ID, 0)
				z(s.names.state(a.State), i+1, a.ID)
				z(s.names.agent(a.Agent), i+1, a.ID)
				z(s.names.waits(a.Agent), 0, member(a.ExpiresAt, a.ID))
				z(s.names.opened(a.Agent), 0, member(a.OpenedAt, a.ID))
			}
			p.Set(ctx, s.names.number(), n, 0)
			return nil
		})
		if err != nil {
			tb.Fatal(err)
		}
	}
}
