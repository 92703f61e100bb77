package redisstore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/redis/go-redis/v9"

	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/store"
	"github.com/kelpie-authz/kelpie/store/redisstore"
)

// alarms counts what is told.
type alarms struct {
	mu   sync.Mutex
	said []string
}

func (a *alarms) hear(name string, why error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.said = append(a.said, name+": "+why.Error())
}

func (a *alarms) take() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	said := a.said
	a.said = nil
	return said
}

// What somebody writes into Redis by hand counts as absent, and alarms.
func TestWrittenByHand(t *testing.T) {
	t.Parallel()
	r := testkit.StartRedis(t, testkit.RedisConfig{})
	var told alarms
	s := at(r.URL())
	s.cfg.Alarm = told.hear
	st := s.open(t)
	yes := approved(t, st, "yes")
	asked, _, err := st.Open(t.Context(), pending("asked"), store.OpenLimits{Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	client := r.Client(t)
	raw := func(id string) []byte {
		t.Helper()
		text, err := client.Get(t.Context(), s.base()+"record:"+id).Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	sealed, wanted := raw("yes"), raw("asked")
	for name, forged := range map[string][]byte{
		"nothing":               {},
		"a text":                []byte("APPROVED"),
		"JSON":                  []byte(`{"id":"asked","state":2,"version":9,"epoch":"x:y"}`),
		"the record of another": sealed,
		"its state changed":     bytes.Replace(wanted, []byte(`"state":1`), []byte(`"state":2`), 1),
		"its version changed":   bytes.Replace(wanted, []byte(`"version":1`), []byte(`"version":2`), 1),
		"its time changed":      bytes.Replace(wanted, []byte(`"use_by":"0`), []byte(`"use_by":"9`), 1),
		"its MAC left out":      append(bytes.Clone(wanted[:3]), wanted[35:]...),
		"cut":                   wanted[:len(wanted)-1],
		"longer":                append(bytes.Clone(wanted), ' '),
		"another's MAC":         append(bytes.Clone(sealed[:35]), wanted[35:]...),
		"another schema":        append([]byte{1, 0, 0}, wanted[3:]...),
		"a schema to come":      append([]byte{1, 0xff, 0xff}, wanted[3:]...),
		"another envelope":      append([]byte{2}, wanted[1:]...),
	} {
		if bytes.Equal(forged, wanted) {
			t.Fatalf("%s: nothing is forged", name)
		}
		told.take()
		if err := client.Set(t.Context(), s.base()+"record:asked", forged, 0).Err(); err != nil {
			t.Fatal(err)
		}
		if a, err := st.Get(t.Context(), "asked"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: get: %+v, %v", name, a, err)
		}
		if a, err := st.ByDigest(t.Context(), asked.Digest); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: by digest: %+v, %v", name, a, err)
		}
		next := asked.Clone()
		next.State, next.Used = store.Consumed, &store.Use{}
		for version := range int64(4) {
			next.Version = version
			if err := st.Swap(t.Context(), next); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("%s: swap: %v", name, err)
			}
		}
		list, _, err := st.List(t.Context(), store.Filter{})
		if err != nil || len(list) != 1 || list[0].ID != "yes" {
			t.Errorf("%s: list: %v, %v", name, list, err)
		}
		said := told.take()
		if len(said) < 3 {
			t.Errorf("%s: told %q", name, said)
		}
		for _, text := range said {
			if strings.Contains(text, secret) {
				t.Errorf("%s: it tells the key: %q", name, text)
			}
		}
	}
	if st.Stats().Forged == 0 {
		t.Error("nothing was counted")
	}
	// HSET, as the issue has it, and whatever else is no string.
	for _, args := range [][]any{{"hset", s.base() + "record:h", "state", "APPROVED"}, {"rpush", s.base() + "record:l", "APPROVED"}} {
		r.Do(t, args...)
		if a, err := st.Get(t.Context(), fmt.Sprint(args[1])[len(s.base()+"record:"):]); err == nil {
			t.Errorf("%v: %+v", args, a)
		}
	}
	// The same under another prefix or another key is none of it.
	other := at(r.URL())
	other.cfg.Alarm = told.hear
	if err := client.Set(t.Context(), other.base()+"record:yes", sealed, 0).Err(); err != nil {
		t.Fatal(err)
	}
	if a, err := other.open(t).Get(t.Context(), "yes"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("of another deployment: %+v, %v", a, err)
	}
	foreign := *s
	foreign.cfg.Key = bytes.Repeat([]byte{'k'}, 32)
	if a, err := foreign.open(t).Get(t.Context(), "yes"); !errors.Is(err, store.ErrNotFound) || len(told.take()) < 2 {
		t.Errorf("by another key: %+v, %v", a, err)
	}
	if a, err := st.Get(t.Context(), "yes"); err != nil || a.Version != yes.Version {
		t.Errorf("what nobody touched: %+v, %v", a, err)
	}
}

// What the lists and pointers say is not believed.
func TestListsAreNotBelieved(t *testing.T) {
	t.Parallel()
	r := testkit.StartRedis(t, testkit.RedisConfig{})
	var told alarms
	s := at(r.URL())
	s.cfg.Alarm = told.hear
	st := s.open(t)
	approved(t, st, "yes")
	r.Do(t, "set", s.base()+"digest:another call", "yes")
	if a, err := st.ByDigest(t.Context(), "another call"); !errors.Is(err, store.ErrNotFound) || len(told.take()) != 1 {
		t.Errorf("pointed at for another digest: %+v, %v", a, err)
	}
	a := pending("new")
	a.Digest = "another call"
	if got, opened, err := st.Open(t.Context(), a, store.OpenLimits{Now: time.Now()}); err != nil || !opened || got.ID != "new" {
		t.Errorf("opened beside a false pointer: %+v %v %v", got, opened, err)
	}
	r.Do(t, "zadd", s.base()+"state:3", 7, "new")
	r.Do(t, "zadd", s.base()+"state:2", 8, "new", 9, "nobody")
	r.Do(t, "zadd", s.base()+"agent:other", 8, "new")
	for _, f := range []store.Filter{{States: []store.State{store.Consumed}}, {Agent: "other"}} {
		if list, _, err := st.List(t.Context(), f); err != nil || len(list) > 0 {
			t.Errorf("%+v: %v, %v", f, list, err)
		}
	}
	if list, _, err := st.List(t.Context(), store.Filter{States: []store.State{store.Approved}}); err != nil || len(list) != 1 || list[0].ID != "yes" {
		t.Errorf("approved: %v, %v", list, err)
	}
	// An end that is not so removes nothing.
	r.Do(t, "zadd", s.base()+"ended", 0, "00000000000000000001:yes", 0, "00000000000000000001:nobody", 0, "x", 0, "")
	if n, err := st.Prune(t.Context(), time.Now()); n != 0 || err != nil {
		t.Errorf("pruned %d, %v", n, err)
	}
	if _, err := st.Get(t.Context(), "yes"); err != nil {
		t.Error(err)
	}
}

// An older record that is put back is used no second time as long as the list of
// versions is left alone.
func TestOlderRecordPutBack(t *testing.T) {
	t.Parallel()
	r := testkit.StartRedis(t, testkit.RedisConfig{})
	var told alarms
	s := at(r.URL())
	s.cfg.Alarm = told.hear
	st, other := s.open(t), s.open(t)
	approved(t, st, "yes")
	client, key := r.Client(t), s.base()+"record:yes"
	old := client.Get(t.Context(), key).Val()
	if err := consume(t.Context(), st, "yes", "first"); err != nil {
		t.Fatal(err)
	}
	if err := client.Set(t.Context(), key, old, 0).Err(); err != nil {
		t.Fatal(err)
	}
	for _, h := range []store.Approvals{st, other} {
		if err := consume(t.Context(), h, "yes", "second"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("used again: %v", err)
		}
	}
	if said := told.take(); len(said) != 2 || !strings.Contains(said[0], "put an older record back") {
		t.Errorf("told %q", said)
	}
}

// So it is with a yes that many calls may use, and that is never final in between:
// its uses are not given back.
func TestOlderGrantPutBack(t *testing.T) {
	t.Parallel()
	r := testkit.StartRedis(t, testkit.RedisConfig{})
	var told alarms
	s := at(r.URL())
	s.cfg.Alarm = told.hear
	st := s.open(t)
	a := approved(t, st, "grant")
	a.Grant = &store.Grant{MaxUses: 2}
	use := func() error {
		a, err := st.Get(t.Context(), "grant")
		if err != nil || a.Grant.Uses == a.Grant.MaxUses {
			return errors.Join(err, errNotUsable)
		}
		a.Grant.Uses++
		return st.Swap(t.Context(), a)
	}
	if err := st.Swap(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	client, key := r.Client(t), s.base()+"record:grant"
	unused := client.Get(t.Context(), key).Val()
	for range 2 {
		if err := use(); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.Set(t.Context(), key, unused, 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := use(); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("used a third time: %v", err)
	}
	if said := told.take(); len(said) != 1 || !strings.Contains(said[0], "put an older record back") {
		t.Errorf("told %q", said)
	}
}

// A record of a later release is refused by name, and is no alarm.
func TestLaterSchema(t *testing.T) {
	t.Parallel()
	r := testkit.StartRedis(t, testkit.RedisConfig{})
	var told alarms
	s := at(r.URL())
	s.cfg.Alarm = told.hear
	st := s.open(t)
	approved(t, st, "yes")
	key := s.base() + "record:yes"
	if err := r.Client(t).Set(t.Context(), key, redisstore.SealAs(t, st, key, 2, []byte(`{"to":"come"}`)), 0).Err(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := st.Get(t.Context(), "yes"); !errors.Is(err, store.ErrSchema) || !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("get: %v", err)
		}
		if _, _, err := st.List(t.Context(), store.Filter{}); !errors.Is(err, store.ErrSchema) {
			t.Errorf("list: %v", err)
		}
		if err := st.Swap(t.Context(), &store.Approval{ID: "yes"}); !errors.Is(err, store.ErrSchema) {
			t.Errorf("swap: %v", err)
		}
	}
	if said := told.take(); len(said) > 0 || st.Stats().Down {
		t.Errorf("told %q, down %v", said, st.Stats().Down)
	}
}

// 64 callers over three replicas use one yes once.
func TestOneUseOverReplicas(t *testing.T) {
	t.Parallel()
	rounds := 5
	if full() {
		rounds = 100
	}
	for name, url := range map[string]func(*testing.T) string{
		"single":   func(t *testing.T) string { t.Helper(); return testkit.StartRedis(t, testkit.RedisConfig{}).URL() },
		"sentinel": func(t *testing.T) string { t.Helper(); return testkit.StartRedisSentinel(t).URL() },
		"cluster":  func(t *testing.T) string { t.Helper(); return testkit.StartRedisCluster(t).URL() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := at(url(t))
			replicas := []*redisstore.Store{s.open(t), s.open(t), s.open(t)}
			for round := range rounds {
				id := fmt.Sprint(round)
				approved(t, replicas[round%3], id)
				var used atomic.Int64
				var wg sync.WaitGroup
				begin := make(chan struct{})
				for i := range 64 {
					wg.Go(func() {
						<-begin
						switch err := consume(context.Background(), replicas[i%3], id, fmt.Sprint(i)); {
						case err == nil:
							used.Add(1)
						case !errors.Is(err, store.ErrChanged) && !errors.Is(err, errNotUsable):
							t.Error(err)
						}
					})
				}
				close(begin)
				wg.Wait()
				if used.Load() != 1 {
					t.Fatalf("round %d: %d uses of one yes", round, used.Load())
				}
			}
		})
	}
}

func FuzzRecord(f *testing.F) {
	a := pending("a")
	// Each process that fuzzes makes the same one.
	a.OpenedAt = time.Date(2026, time.June, 17, 12, 0, 0, 0, time.UTC)
	a.ExpiresAt = a.OpenedAt.Add(time.Hour)
	good := redisstore.Sealed(f, a)
	f.Add([]byte(good))
	f.Add([]byte{})
	f.Add([]byte(good[:35]))
	f.Add([]byte(good[:len(good)/2]))
	f.Add([]byte(strings.Replace(good, `"state":1`, `"state":2`, 1)))
	f.Add([]byte(`{"epoch":"a:b","id":"a","state":2,"version":1,"used":{},"votes":[{}],"requirements":[{}]}`))
	f.Add([]byte(`{"epoch":"a:b","id":"a","state":-1,"version":1}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		// As it is: only what was sealed opens.
		if a, err := redisstore.OpenSealed(t, string(raw)); err == nil && string(raw) != good {
			t.Errorf("%q opened as %+v", raw, a)
		}
		// As a content whose MAC is right: no panic, and what is taken is kept.
		a, err := redisstore.Decode(raw)
		if err != nil {
			return
		}
		if a.State < store.Pending || a.State > store.Revoked || a.Version < 1 {
			t.Errorf("%q is taken as %+v", raw, a)
		}
		again, err := redisstore.Encode(a)
		if err != nil {
			return // a year that JSON has not
		}
		b, err := redisstore.Decode(again)
		if diff := cmp.Diff(a, b, cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Errorf("%q changed, %v:\n%s", raw, err, diff)
		}
	})
}

// FuzzReply makes answers of bytes: nested lists of texts, numbers and nothing.
func FuzzReply(f *testing.F) {
	f.Add([]byte{4, 2, 1, 'e', 0, 2, 1, 'r'}, uint8(2))
	f.Add([]byte{4, 2, 1, '7', 2, 2, 'i', 'd'}, uint8(1))
	f.Add([]byte{}, uint8(0))
	f.Fuzz(func(t *testing.T, raw []byte, n uint8) {
		got, _ := reply(raw, 0)
		epoch, raws, there, err := redisstore.ParseRead(got, int(n))
		if err == nil && (epoch == "" || len(raws) != int(n) || len(there) != int(n)) {
			t.Errorf("%v: %q %v %v", got, epoch, raws, there)
		}
		redisstore.ParseList(t, got)
	})
}

// reply reads one value: 0 nothing, 1 a number, 2 a text, 3 an error, else a list of the rest.
func reply(raw []byte, depth int) (any, []byte) {
	if len(raw) == 0 || depth > 3 {
		return nil, nil
	}
	kind, rest := raw[0], raw[1:]
	switch kind {
	case 0:
		return nil, rest
	case 1:
		var b [8]byte
		n := copy(b[:], rest)
		return int64(binary.BigEndian.Uint64(b[:])), rest[n:]
	case 2:
		if len(rest) == 0 {
			return "", nil
		}
		n := min(int(rest[0]), len(rest)-1)
		return string(rest[1 : 1+n]), rest[1+n:]
	case 3:
		return redis.Nil, rest
	default:
		var list []any
		for len(rest) > 0 {
			var v any
			v, rest = reply(rest, depth+1)
			list = append(list, v)
		}
		return list, nil
	}
}
