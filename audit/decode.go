package audit

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"
)

// wireRecord is a record as a line holds it. Writing is by hand; see [AppendRecord].
type wireRecord struct {
	Time             time.Time   `json:"time"`
	Kind             Kind        `json:"kind"`
	DecisionID       string      `json:"decision_id"`
	RequestID        string      `json:"request_id"`
	SessionID        string      `json:"session_id"`
	RunID            string      `json:"run_id"`
	Gateway          string      `json:"gateway"`
	Agent            string      `json:"agent"`
	ClaimedAgent     string      `json:"claimed_agent"`
	Subject          string      `json:"subject"`
	ActorChain       []string    `json:"actor_chain"`
	Actor            string      `json:"actor"`
	ActorAuth        string      `json:"actor_auth"`
	Method           string      `json:"method"`
	Target           string      `json:"target"`
	Action           string      `json:"action"`
	Resource         string      `json:"resource"`
	SourceIP         string      `json:"source_ip"`
	Risk             string      `json:"risk"`
	Tool             string      `json:"tool"`
	ToolServer       string      `json:"tool_server"`
	Route            string      `json:"route"`
	HTTPMethod       string      `json:"http_method"`
	HTTPHost         string      `json:"http_host"`
	HTTPPath         string      `json:"http_path"`
	Cost             float64     `json:"cost"`
	Decision         string      `json:"decision"`
	Reason           string      `json:"reason"`
	Message          string      `json:"message"`
	Matched          []string    `json:"matched"`
	PolicyVersion    string      `json:"policy_version"`
	Limits           []wireLimit `json:"limits"`
	ApprovalID       string      `json:"approval_id"`
	ApprovalDigest   string      `json:"approval_digest"`
	GrantID          string      `json:"grant_id"`
	ParametersDigest string      `json:"parameters_digest"`
	ParametersState  string      `json:"parameters_state"`
	Shown            members     `json:"shown"`
	LatencyUS        int64       `json:"latency_us"`
	DryRun           bool        `json:"dry_run"`
	Outage           string      `json:"outage"`
	Warnings         []string    `json:"warnings"`
	Shadow           []Shadow    `json:"shadow"`
	Why              string      `json:"why"`
	Details          members     `json:"details"`
	Failed           bool        `json:"failed"`
	Cause            string      `json:"cause"`

	wireNote
}

type wireLimit struct {
	Limit

	ResetMS int64 `json:"reset_ms"`
}

type wireNote struct {
	Chain        string    `json:"chain"`
	Segment      uint64    `json:"segment"`
	Prev         string    `json:"prev"`
	Ended        string    `json:"ended"`
	Truncated    bool      `json:"truncated"`
	CutBytes     int64     `json:"cut_bytes"`
	Adopted      uint64    `json:"adopted"`
	Refused      uint64    `json:"refused"`
	Lost         uint64    `json:"lost"`
	LostFrom     uint64    `json:"lost_from"`
	LostTo       uint64    `json:"lost_to"`
	PrevFrom     time.Time `json:"prev_from"`
	PrevTo       time.Time `json:"prev_to"`
	SignedSeq    uint64    `json:"signed_seq"`
	SignedHash   string    `json:"signed_hash"`
	Key          string    `json:"key"`
	Signature    string    `json:"signature"`
	Removed      int       `json:"removed"`
	RemovedBytes int64     `json:"removed_bytes"`
	RemovedSeq   uint64    `json:"removed_seq"`
}

// members is an object of texts, in the order in which it is written.
type members []Member

// UnmarshalJSON implements json.Unmarshaler.
func (m *members) UnmarshalJSON(raw []byte) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return fmt.Errorf("%q is not an object", clip(string(raw)))
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return fmt.Errorf("read a name: %w", err)
		}
		member := Member{}
		member.Name, _ = name.(string)
		if err := dec.Decode(&member.Value); err != nil {
			return fmt.Errorf("read %q: %w", clip(member.Name), err)
		}
		*m = append(*m, member)
	}
	return nil
}

// DecodeRecord reads what [AppendRecord] wrote. Members that it does not know
// are passed over, and so is that it does not know a kind, so that an older program
// reads a newer log; but a kind has to be a word, which every reader prints.
func DecodeRecord(raw []byte) (Record, error) {
	var w wireRecord
	if err := json.Unmarshal(raw, &w); err != nil {
		return Record{}, fmt.Errorf("read a record: %w", err)
	}
	if !w.Kind.word() {
		return Record{}, fmt.Errorf("read a record: %q is the name of no kind", clip(string(w.Kind)))
	}
	r := w.record()
	if !r.Kind.Note() {
		return r, nil
	}
	note, err := w.note(w.Kind, w.Time)
	r.Note = note
	return r, err
}

// DecodeLine reads one line of a log, line feed included. It does not check
// the hash: see [SplitLine].
func DecodeLine(line []byte) (*Line, error) {
	sealed, err := SplitLine(line, nil)
	if err != nil {
		return nil, err
	}
	r, err := DecodeRecord(sealed.Body)
	if err != nil {
		return nil, err
	}
	return &Line{Record: r, Seq: sealed.Seq, Hash: sealed.Stated}, nil
}

func (w *wireRecord) record() Record {
	r := Record{
		Time: w.Time.UTC(), Kind: w.Kind,
		DecisionID: w.DecisionID, RequestID: w.RequestID, SessionID: w.SessionID, RunID: w.RunID,
		Gateway: w.Gateway, Agent: w.Agent, ClaimedAgent: w.ClaimedAgent, Subject: w.Subject, ActorChain: w.ActorChain,
		Actor: w.Actor, ActorAuth: w.ActorAuth, Method: w.Method, Target: w.Target,
		Action: w.Action, Resource: w.Resource, SourceIP: w.SourceIP, Risk: w.Risk,
		Tool: w.Tool, ToolServer: w.ToolServer,
		Route: w.Route, HTTPMethod: w.HTTPMethod, HTTPHost: w.HTTPHost, HTTPPath: w.HTTPPath,
		Cost: w.Cost, Decision: w.Decision, Reason: w.Reason, Message: w.Message, Matched: w.Matched,
		PolicyVersion: w.PolicyVersion, ApprovalID: w.ApprovalID, ApprovalDigest: w.ApprovalDigest, GrantID: w.GrantID,
		ParametersDigest: w.ParametersDigest, ParametersState: w.ParametersState, Shown: w.Shown,
		Latency: time.Duration(w.LatencyUS) * time.Microsecond, DryRun: w.DryRun, Outage: w.Outage,
		Warnings: w.Warnings, Shadow: w.Shadow, Why: w.Why, Details: w.Details, Failed: w.Failed, Cause: w.Cause,
	}
	for _, l := range w.Limits {
		l.Reset = time.Duration(l.ResetMS) * time.Millisecond
		r.Limits = append(r.Limits, l.Limit)
	}
	return r
}

func (w *wireNote) note(kind Kind, at time.Time) (*Note, error) {
	n := &Note{
		Chain: w.Chain, Segment: w.Segment, Ended: w.Ended, Truncated: w.Truncated, CutBytes: w.CutBytes, Adopted: w.Adopted, Refused: w.Refused, Lost: w.Lost,
		LostFrom: w.LostFrom, LostTo: w.LostTo, PrevFrom: w.PrevFrom, PrevTo: w.PrevTo,
		Removed: w.Removed, RemovedBytes: w.RemovedBytes, RemovedSeq: w.RemovedSeq,
	}
	var err error
	switch kind {
	case KindSegment:
		n.Prev, err = ParseHash(w.Prev)
	case KindCheckpoint:
		n.Checkpoint, err = w.checkpoint(at)
	default:
	}
	return n, err
}

func (w *wireNote) checkpoint(at time.Time) (*Checkpoint, error) {
	hash, err := ParseHash(w.SignedHash)
	if err != nil {
		return nil, err
	}
	signature, err := base64.StdEncoding.Strict().DecodeString(w.Signature)
	if err != nil {
		return nil, fmt.Errorf("read the signature of a checkpoint: %w", err)
	}
	return &Checkpoint{
		Purpose: PurposeLine, Chain: w.Chain, Segment: w.Segment, Seq: w.SignedSeq, Hash: hash,
		Time: at.UTC(), Key: w.Key, Signature: signature,
	}, nil
}
