package pdp

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/kelpie-authz/kelpie/audit"
)

// Recorder keeps one record of every decision.
//
// Record is called before the answer leaves, by many goroutines at once. An
// error (or a panic) turns an ALLOW into DENY audit_unavailable, so that no
// call goes through that the Recorder did not take; other decisions stay as they are. The Record
// and its slices belong to the caller and are valid during the call only; its
// strings may be kept.
type Recorder interface {
	Record(ctx context.Context, r *Record) error
}

// GroupRecorder is a [Recorder] that keeps many records sooner together than one
// after the other: the decisions of a batch.
type GroupRecorder interface {
	Recorder
	// RecordAll is Record of each, in their order. errs, as long as records and all
	// nil, takes what Record would have returned for each.
	RecordAll(ctx context.Context, records []*Record, errs []error)
}

// RecordAll has r record each of records, together if it can; see [GroupRecorder].
func RecordAll(ctx context.Context, r Recorder, records []*Record, errs []error) {
	if group, ok := r.(GroupRecorder); ok {
		group.RecordAll(ctx, records, errs)
		return
	}
	for i, record := range records {
		errs[i] = r.Record(ctx, record)
	}
}

// Observe returns a recorder that has next keep each record, and then tells what
// became of it: err is what next returned.
func Observe(next Recorder, told func(ctx context.Context, r *Record, err error)) GroupRecorder {
	return &observed{next, told}
}

type observed struct {
	next Recorder
	told func(ctx context.Context, r *Record, err error)
}

// Record implements [Recorder].
func (o *observed) Record(ctx context.Context, r *Record) error {
	err := o.next.Record(ctx, r)
	o.told(ctx, r, err)
	return err
}

// RecordAll implements [GroupRecorder].
func (o *observed) RecordAll(ctx context.Context, records []*Record, errs []error) {
	RecordAll(ctx, o.next, records, errs)
	for i, record := range records {
		o.told(ctx, record, errs[i])
	}
}

// RecorderFunc makes a function a [Recorder].
type RecorderFunc func(ctx context.Context, r *Record) error

// Record implements [Recorder].
func (f RecorderFunc) Record(ctx context.Context, r *Record) error { return f(ctx, r) }

// Record is what is kept of one decision, of a [Change] of what one was
// charged, or of an [ApprovalEvent]. It never holds a parameter, a context member or a credential.
//
// Of a malformed request the fields that did not pass are cut to a bounded
// length; they may hold any bytes.
type Record struct {
	// Time is the decision's clock reading.
	Time       time.Time
	DecisionID string
	// Gateway asked, as the door established it.
	Gateway string
	// Agent is the established id; ClaimedAgent is what the request said, if
	// that is something else.
	Agent        string
	ClaimedAgent string
	Subject      string
	Action       string
	Resource     string
	// SourceIP is canonical; "" if absent.
	SourceIP  string
	RequestID string
	SessionID string
	RunID     string
	Tool      Tool
	// Origin is the HTTP request that the call was made of; its texts are cut
	// to a bounded length and may hold any bytes.
	Origin Origin
	// Cost as given; 0 if absent.
	Cost float64
	// ParametersDigest is the hex SHA-256 of the parameters' bytes as they
	// came; "" if none did.
	ParametersDigest string
	ParametersState  ParametersState
	// Shown are the members of the parameters that the policy lets the audit show;
	// what looks like a secret is masked.
	Shown []audit.Member

	// Verdict is the one that was reached, also of a dry run, whose answer
	// carries it in WouldBe.
	Verdict Verdict
	Reason  Reason
	// Message is the answer's.
	Message       string
	Matched       []string
	Risk          string
	PolicyVersion string
	Limits        []LimitStatus
	Shadow        []ShadowOutcome
	Warnings      []string
	// ApprovalID and ApprovalDigest are of the approval that was needed.
	ApprovalID     string
	ApprovalDigest string
	// ApprovalVersion and ApprovalExpires are set where Event is: the version that
	// it brought the approval to, and when that lapses.
	ApprovalVersion int64
	ApprovalExpires time.Time
	// Outage says what the loss of the limits' store did to the call.
	Outage Outage
	// Latency is the time from the call's arrival in this package to the
	// record, by the monotonic clock. For an item of a batch it counts from
	// the batch's arrival.
	Latency time.Duration
	DryRun  bool
	// Change is nil for a decision. Where it is not, this is no decision: Time,
	// DecisionID (none for a reset), Gateway, Agent and Latency are set besides.
	Change *Change
	// Event is nil but for what happened to an approval. Where it is not, this is
	// no decision: Time and what is known of the call that was asked about are set
	// besides, DecisionID being of the decision that asked or used it.
	Event *ApprovalEvent
}

// maxMalformedBytes bounds what a record keeps of each field of a malformed
// request, so that nobody fills the log by sending nonsense.
const maxMalformedBytes = 256

func (j *judgment) fillRecord(latency time.Duration) {
	req, dec := j.req, j.dec
	j.rec = Record{
		Time: j.now, DecisionID: dec.ID, Gateway: req.Gateway,
		Agent: j.call.Agent, Subject: j.call.Subject, Action: req.Action, Resource: req.Resource,
		SourceIP: j.sourceIP(), RequestID: req.RequestID, SessionID: req.SessionID, RunID: req.RunID,
		Tool: req.Tool, Origin: req.Origin, Cost: req.Cost,
		ParametersDigest: digestOf(req.ParametersJSON), ParametersState: req.ParametersState,
		Verdict: j.reached, Reason: dec.Reason, Message: dec.Message, Matched: dec.Matched,
		Risk: j.verdict.Risk.String(), PolicyVersion: dec.PolicyVersion,
		Limits: dec.Limits, Shadow: dec.Shadow, Warnings: dec.Warnings,
		ApprovalID: j.found.ID, ApprovalDigest: j.ask.Digest,
		Outage: j.outage, Latency: latency, DryRun: req.DryRun,
	}
	j.rec.Shown = j.shown()
	cut(&j.rec.Origin.Method, &j.rec.Origin.Host, &j.rec.Origin.Path)
	if j.malformed {
		j.rec.Agent, j.rec.Subject = req.Agent, req.Subject
		j.rec.cut()
	} else if j.rec.Agent != req.Agent {
		j.rec.ClaimedAgent = req.Agent
	}
}

// shown are the members of the parameters that the audit may have.
func (j *judgment) shown() []audit.Member {
	if j.malformed || len(j.req.ParametersJSON) == 0 || j.snap == nil {
		return nil
	}
	paths := j.snap.AuditParameters(j.dec.Matched)
	if len(paths) == 0 {
		return nil
	}
	mask, err := audit.NewMask(paths...)
	if err != nil {
		return nil // The policy's schema lets no such path through.
	}
	return mask.Pick(j.req.ParametersJSON)
}

// sourceIP is the canonical address, without an allocation where the request
// wrote it that way.
func (j *judgment) sourceIP() string {
	if j.malformed || !j.call.SourceIP.IsValid() {
		return j.req.SourceIP
	}
	j.ipText = j.call.SourceIP.AppendTo(j.ipText[:0])
	if string(j.ipText) == j.req.SourceIP {
		return j.req.SourceIP
	}
	return string(j.ipText)
}

func digestOf(parameters []byte) string {
	if len(parameters) == 0 {
		return ""
	}
	sum := sha256.Sum256(parameters)
	return hex.EncodeToString(sum[:])
}

func (r *Record) cut() {
	cut(&r.Agent, &r.Subject, &r.Action, &r.Resource, &r.SourceIP,
		&r.RequestID, &r.SessionID, &r.RunID, &r.Tool.Server, &r.Tool.Name)
}

func cut(fields ...*string) {
	for _, field := range fields {
		if len(*field) > maxMalformedBytes {
			*field = (*field)[:maxMalformedBytes]
		}
	}
}
