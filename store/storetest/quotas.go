package storetest

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/store"
)

func quotas(t *testing.T, open Opener) {
	s := open(t)
	limits := store.OpenLimits{Pending: 3, Hourly: 5, Span: time.Hour, Now: start}
	at := func(i int, agent string, now time.Time) error {
		a := approval(fmt.Sprint(agent, i), fmt.Sprint(agent, i))
		a.Agent, a.OpenedAt, a.ExpiresAt = agent, now, now.Add(15*time.Minute)
		limits.Now = now
		_, _, err := s.Open(t.Context(), a, limits)
		return err
	}
	for i := range 3 {
		if err := at(i, "bot", start); err != nil {
			t.Fatal(err)
		}
	}
	if err := at(3, "bot", start); !errors.Is(err, store.ErrQuota) {
		t.Errorf("the fourth that is pending: %v", err)
	}
	if err := at(0, "other", start); err != nil {
		t.Errorf("of another agent: %v", err)
	}
	if _, opened, err := s.Open(t.Context(), approval("again", "bot0"), limits); err != nil || opened {
		t.Errorf("the same call as one that is pending: opened %v, %v", opened, err)
	}
	for i := 4; i < 6; i++ {
		if err := at(i, "bot", start.Add(20*time.Minute)); err != nil {
			t.Errorf("after the first ones have expired: %v", err)
		}
	}
	if err := at(6, "bot", start.Add(59*time.Minute)); !errors.Is(err, store.ErrQuota) {
		t.Errorf("the sixth within the hour: %v", err)
	}
	if err := at(7, "bot", start.Add(61*time.Minute)); err != nil {
		t.Errorf("after the hour: %v", err)
	}
	grantsAreNoQuestions(t, s, limits)
}

// grantsAreNoQuestions: however many standing grants there are, and are being made,
// an agent may ask as much, and grants may be made where it may not ask.
func grantsAreNoQuestions(t *testing.T, s store.Approvals, limits store.OpenLimits) {
	t.Helper()
	limits.Now = start
	stand := func(name string, grant *store.Grant) error {
		a := approval(name, name)
		a.Agent, a.OpenedAt, a.ExpiresAt, a.Grant = "granted", start, start.Add(15*time.Minute), grant
		_, _, err := s.Open(t.Context(), a, limits)
		return err
	}
	for i := range 6 {
		if err := stand(fmt.Sprint("grant", i), &store.Grant{MaxUses: 1}); err != nil {
			t.Errorf("grant %d: %v", i, err)
		}
	}
	for i := range 3 {
		if err := stand(fmt.Sprint("question", i), nil); err != nil {
			t.Errorf("question %d beside grants: %v", i, err)
		}
	}
	if err := stand("question 3", nil); !errors.Is(err, store.ErrQuota) {
		t.Errorf("the fourth question: %v", err)
	}
	if err := stand("late", &store.Grant{MaxUses: 1}); err != nil {
		t.Errorf("a grant beside questions: %v", err)
	}
}

func quotasAtOnce(t *testing.T, open Opener) {
	handles := []store.Approvals{open(t), open(t)}
	var opened, refused atomic.Int64
	atOnce(40, func(i int) {
		_, own, err := handles[i%2].Open(t.Context(), approval(fmt.Sprint(i), fmt.Sprint(i)), store.OpenLimits{Pending: 10, Now: start})
		switch {
		case own:
			opened.Add(1)
		case errors.Is(err, store.ErrQuota):
			refused.Add(1)
		default:
			t.Errorf("opened %v, %v", own, err)
		}
	})
	if opened.Load() != 10 || refused.Load() != 30 {
		t.Errorf("%d opened and %d refused, want 10 and 30", opened.Load(), refused.Load())
	}
}
