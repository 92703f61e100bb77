package sqlitestore

import (
	"encoding/json"
	"fmt"

	"github.com/kelpie-authz/kelpie/store"
)

// record is an approval as it is kept. Texts that agents chose may be no UTF-8,
// which JSON would not keep.
type record struct {
	*store.Approval

	Agent, Subject, Action, Resource []byte
	Gateway                          []byte
}

func encode(a *store.Approval) ([]byte, error) {
	kept := a.Clone()
	kept.Unsure = false
	raw, err := json.Marshal(&record{ //nolint:musttag // Its members are named as its fields are.
		Approval: kept, Agent: []byte(a.Agent), Subject: []byte(a.Subject), Action: []byte(a.Action), Resource: []byte(a.Resource), Gateway: []byte(a.Gateway),
	})
	if err != nil {
		return nil, fmt.Errorf("write the record of approval %s: %w", a.ID, err)
	}
	return raw, nil
}

func decode(raw []byte) (*store.Approval, error) {
	r := record{Approval: new(store.Approval)}
	if err := json.Unmarshal(raw, &r); err != nil { //nolint:musttag // As above.
		return nil, fmt.Errorf("read the record of an approval: %w", err)
	}
	a := r.Approval
	a.Agent, a.Subject, a.Action, a.Resource, a.Gateway = string(r.Agent), string(r.Subject), string(r.Action), string(r.Resource), string(r.Gateway)
	return a, nil
}
