package redisstore

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/kelpie-authz/kelpie/store"
)

// approvalSchema is that of [approvalRecord]. It is raised by whatever an older
// release must not overlook: that one refuses the record then.
const approvalSchema = 1

// approvalRecord is an approval as it is kept. Texts that agents chose may be no
// UTF-8, which JSON would not keep.
type approvalRecord struct {
	// Epoch is the process and the history of Redis that it was written to.
	Epoch string `json:"epoch"`

	ID            string        `json:"id"`
	Digest        string        `json:"digest"`
	State         store.State   `json:"state"`
	Version       int64         `json:"version"`
	Agent         []byte        `json:"agent,omitempty"`
	Subject       []byte        `json:"subject,omitempty"`
	Action        []byte        `json:"action,omitempty"`
	Resource      []byte        `json:"resource,omitempty"`
	Risk          string        `json:"risk,omitempty"`
	Gateway       []byte        `json:"gateway,omitempty"`
	DecisionID    string        `json:"decision_id,omitempty"`
	PolicyVersion string        `json:"policy_version,omitempty"`
	Shown         []byte        `json:"shown,omitempty"`
	Requirements  []requirement `json:"requirements,omitempty"`
	Votes         []vote        `json:"votes,omitempty"`
	OpenedAt      time.Time     `json:"opened_at"`
	ExpiresAt     time.Time     `json:"expires_at"`
	UseBy         time.Time     `json:"use_by"`
	UseWithin     time.Duration `json:"use_within"`
	EndedAt       time.Time     `json:"ended_at"`
	EndedBy       string        `json:"ended_by,omitempty"`
	Why           string        `json:"why,omitempty"`
	Used          *use          `json:"used,omitempty"`
	Grant         *store.Grant  `json:"grant,omitempty"`
}

type requirement struct {
	Rule    string   `json:"rule"`
	Version string   `json:"version"`
	Groups  []string `json:"groups,omitempty"`
	Quorum  int      `json:"quorum"`
}

type vote struct {
	ID     string    `json:"id"`
	Voter  string    `json:"voter"`
	How    string    `json:"how"`
	Groups []string  `json:"groups,omitempty"`
	Rule   string    `json:"rule,omitempty"`
	Yes    bool      `json:"yes"`
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at"`
}

type use struct {
	Gateway    []byte    `json:"gateway,omitempty"`
	RequestID  []byte    `json:"request_id,omitempty"`
	DecisionID string    `json:"decision_id"`
	At         time.Time `json:"at"`
}

func encodeApproval(a *store.Approval, epoch string) ([]byte, error) {
	r := approvalRecord{
		Epoch: epoch, ID: a.ID, Digest: a.Digest, State: a.State, Version: a.Version,
		Agent: []byte(a.Agent), Subject: []byte(a.Subject), Action: []byte(a.Action), Resource: []byte(a.Resource), Risk: a.Risk,
		Gateway: []byte(a.Gateway), DecisionID: a.DecisionID, PolicyVersion: a.PolicyVersion, Shown: a.Shown,
		OpenedAt: a.OpenedAt, ExpiresAt: a.ExpiresAt, UseBy: a.UseBy, UseWithin: a.UseWithin,
		EndedAt: a.EndedAt, EndedBy: a.EndedBy, Why: a.Why,
	}
	for _, q := range a.Requirements {
		r.Requirements = append(r.Requirements, requirement(q))
	}
	for _, v := range a.Votes {
		r.Votes = append(r.Votes, vote(v))
	}
	if u := a.Used; u != nil {
		r.Used = &use{Gateway: []byte(u.Gateway), RequestID: []byte(u.RequestID), DecisionID: u.DecisionID, At: u.At}
	}
	r.Grant = a.Clone().Grant
	content, err := json.Marshal(&r)
	if err != nil {
		return nil, fmt.Errorf("write the record of approval %s: %w", a.ID, err)
	}
	return content, nil
}

// decodeApproval reads a content whose MAC is right, and the epoch that it was
// written in.
func decodeApproval(content []byte) (*store.Approval, string, error) {
	var r approvalRecord
	if err := json.Unmarshal(content, &r); err != nil {
		return nil, "", fmt.Errorf("read the record of an approval: %w", err)
	}
	if r.State < store.Pending || r.State > store.Revoked || r.Version < 1 || r.Epoch == "" {
		return nil, "", errForm
	}
	a := &store.Approval{
		ID: r.ID, Digest: r.Digest, State: r.State, Version: r.Version,
		Agent: string(r.Agent), Subject: string(r.Subject), Action: string(r.Action), Resource: string(r.Resource), Risk: r.Risk,
		Gateway: string(r.Gateway), DecisionID: r.DecisionID, PolicyVersion: r.PolicyVersion, Shown: r.Shown,
		OpenedAt: r.OpenedAt, ExpiresAt: r.ExpiresAt, UseBy: r.UseBy, UseWithin: r.UseWithin,
		EndedAt: r.EndedAt, EndedBy: r.EndedBy, Why: r.Why,
	}
	for _, q := range r.Requirements {
		a.Requirements = append(a.Requirements, store.Requirement(q))
	}
	for _, v := range r.Votes {
		a.Votes = append(a.Votes, store.Vote(v))
	}
	if u := r.Used; u != nil {
		a.Used = &store.Use{Gateway: string(u.Gateway), RequestID: string(u.RequestID), DecisionID: u.DecisionID, At: u.At}
	}
	a.Grant = r.Grant
	return a, r.Epoch, nil
}
