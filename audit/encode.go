package audit

import (
	"math"
	"strconv"
	"time"
)

// AppendRecord appends r as a JSON object to b. The same record gives the same
// bytes. It allocates nothing beyond b and does not look at its kind.
//
// Every text becomes a JSON string in which control, format and bidirectional
// characters are escaped and bytes that are not UTF-8 are U+FFFD: reading gives
// back the same text, but for those bytes. Names of members that occur twice
// are written twice; a reader takes the last.
func AppendRecord(b []byte, r *Record) []byte {
	b = append(b, `{"time":`...)
	b = appendTime(b, r.Time)
	b = append(b, `,"kind":`...)
	b = appendString(b, string(r.Kind))
	b = appendWho(b, r)
	b = appendCall(b, r)
	b = appendVerdict(b, r)
	b = appendRest(b, r)
	if r.Note != nil {
		b = appendNote(b, r.Kind, r.Note)
	}
	return append(b, '}')
}

func appendWho(b []byte, r *Record) []byte {
	b = appendText(b, `,"decision_id":`, r.DecisionID)
	b = appendText(b, `,"request_id":`, r.RequestID)
	b = appendText(b, `,"session_id":`, r.SessionID)
	b = appendText(b, `,"run_id":`, r.RunID)
	b = appendText(b, `,"gateway":`, r.Gateway)
	b = appendText(b, `,"agent":`, r.Agent)
	b = appendText(b, `,"claimed_agent":`, r.ClaimedAgent)
	b = appendText(b, `,"subject":`, r.Subject)
	b = appendTexts(b, `,"actor_chain":`, r.ActorChain)
	b = appendText(b, `,"actor":`, r.Actor)
	b = appendText(b, `,"actor_auth":`, r.ActorAuth)
	b = appendText(b, `,"method":`, r.Method)
	return appendText(b, `,"target":`, r.Target)
}

func appendCall(b []byte, r *Record) []byte {
	b = appendText(b, `,"action":`, r.Action)
	b = appendText(b, `,"resource":`, r.Resource)
	b = appendText(b, `,"source_ip":`, r.SourceIP)
	b = appendText(b, `,"risk":`, r.Risk)
	b = appendText(b, `,"tool":`, r.Tool)
	b = appendText(b, `,"tool_server":`, r.ToolServer)
	b = appendText(b, `,"route":`, r.Route)
	b = appendText(b, `,"http_method":`, r.HTTPMethod)
	b = appendText(b, `,"http_host":`, r.HTTPHost)
	b = appendText(b, `,"http_path":`, r.HTTPPath)
	return appendNumber(b, `,"cost":`, r.Cost)
}

func appendVerdict(b []byte, r *Record) []byte {
	b = appendText(b, `,"decision":`, r.Decision)
	b = appendText(b, `,"reason":`, r.Reason)
	b = appendText(b, `,"message":`, r.Message)
	b = appendTexts(b, `,"matched":`, r.Matched)
	b = appendText(b, `,"policy_version":`, r.PolicyVersion)
	b = appendLimits(b, r.Limits)
	b = appendText(b, `,"approval_id":`, r.ApprovalID)
	b = appendText(b, `,"approval_digest":`, r.ApprovalDigest)
	return appendText(b, `,"grant_id":`, r.GrantID)
}

func appendRest(b []byte, r *Record) []byte {
	b = appendText(b, `,"parameters_digest":`, r.ParametersDigest)
	b = appendText(b, `,"parameters_state":`, r.ParametersState)
	b = appendMembers(b, `,"shown":`, r.Shown)
	b = appendInt(b, `,"latency_us":`, r.Latency.Microseconds())
	b = appendTrue(b, `,"dry_run":`, r.DryRun)
	b = appendText(b, `,"outage":`, r.Outage)
	b = appendTexts(b, `,"warnings":`, r.Warnings)
	b = appendShadow(b, r.Shadow)
	b = appendText(b, `,"why":`, r.Why)
	b = appendMembers(b, `,"details":`, r.Details)
	b = appendTrue(b, `,"failed":`, r.Failed)
	return appendText(b, `,"cause":`, r.Cause)
}

func appendNote(b []byte, kind Kind, n *Note) []byte {
	b = appendText(b, `,"chain":`, n.Chain)
	b = appendInt(b, `,"segment":`, int64(n.Segment)) //nolint:gosec // Nobody writes 2^63 segments.
	switch kind {
	case KindSegment:
		b = append(b, `,"prev":"`...)
		b = n.Prev.append(b)
		b = append(b, '"')
		b = appendText(b, `,"ended":`, n.Ended)
		b = appendTrue(b, `,"truncated":`, n.Truncated)
		b = appendInt(b, `,"cut_bytes":`, n.CutBytes)
		b = appendCount(b, `,"adopted":`, n.Adopted)
		b = appendCount(b, `,"refused":`, n.Refused)
		b = appendCount(b, `,"lost":`, n.Lost)
		b = appendCount(b, `,"lost_from":`, n.LostFrom)
		b = appendCount(b, `,"lost_to":`, n.LostTo)
		if !n.PrevFrom.IsZero() {
			b = appendTime(append(b, `,"prev_from":`...), n.PrevFrom)
			b = appendTime(append(b, `,"prev_to":`...), n.PrevTo)
		}
	case KindCheckpoint:
		if n.Checkpoint != nil {
			b = n.Checkpoint.appendSigned(b)
		}
	case KindRetention:
		b = appendInt(b, `,"removed":`, int64(n.Removed))
		b = appendInt(b, `,"removed_bytes":`, n.RemovedBytes)
		b = appendCount(b, `,"removed_seq":`, n.RemovedSeq)
	default:
	}
	return b
}

// appendTime writes years outside 0 to 9999 as the nearest time that JSON's
// readers take.
func appendTime(b []byte, t time.Time) []byte {
	t = t.UTC()
	switch y := t.Year(); {
	case y < 0:
		t = time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)
	case y > 9999:
		t = time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC)
	}
	b = append(b, '"')
	b = t.AppendFormat(b, time.RFC3339Nano)
	return append(b, '"')
}

func appendText(b []byte, key, text string) []byte {
	if text == "" {
		return b
	}
	return appendString(append(b, key...), text)
}

func appendTexts(b []byte, key string, list []string) []byte {
	if len(list) == 0 {
		return b
	}
	b = append(b, key...)
	for i, s := range list {
		b = appendString(append(b, separator(i, '[')), s)
	}
	return append(b, ']')
}

func appendMembers(b []byte, key string, list []Member) []byte {
	if len(list) == 0 {
		return b
	}
	b = append(b, key...)
	for i, m := range list {
		b = appendString(append(b, separator(i, '{')), m.Name)
		b = appendString(append(b, ':'), m.Value)
	}
	return append(b, '}')
}

func appendLimits(b []byte, list []Limit) []byte {
	if len(list) == 0 {
		return b
	}
	b = append(b, `,"limits":`...)
	for i := range list {
		l := &list[i]
		b = append(b, separator(i, '['))
		b = appendString(append(b, `{"name":`...), l.Name)
		b = appendInt(b, `,"limit":`, l.Limit)
		b = appendInt(b, `,"remaining":`, l.Remaining)
		b = appendInt(b, `,"reset_ms":`, l.Reset.Milliseconds())
		b = appendNumber(b, `,"given_back":`, l.GivenBack)
		b = appendNumber(b, `,"charged":`, l.Charged)
		b = append(b, '}')
	}
	return append(b, ']')
}

func appendShadow(b []byte, list []Shadow) []byte {
	if len(list) == 0 {
		return b
	}
	b = append(b, `,"shadow":`...)
	for i := range list {
		s := &list[i]
		b = append(b, separator(i, '['))
		b = appendString(append(b, `{"rule":`...), s.Rule)
		b = appendText(b, `,"decision":`, s.Decision)
		b = appendText(b, `,"reason":`, s.Reason)
		b = append(b, '}')
	}
	return append(b, ']')
}

func appendInt(b []byte, key string, n int64) []byte {
	if n == 0 {
		return b
	}
	return strconv.AppendInt(append(b, key...), n, 10)
}

func appendCount(b []byte, key string, n uint64) []byte {
	if n == 0 {
		return b
	}
	return strconv.AppendUint(append(b, key...), n, 10)
}

// appendNumber leaves out what JSON has no number for.
func appendNumber(b []byte, key string, f float64) []byte {
	if f == 0 || math.IsNaN(f) || math.IsInf(f, 0) {
		return b
	}
	return strconv.AppendFloat(append(b, key...), f, 'g', -1, 64)
}

func appendTrue(b []byte, key string, is bool) []byte {
	if !is {
		return b
	}
	return append(append(b, key...), "true"...)
}

func separator(i int, first byte) byte {
	if i == 0 {
		return first
	}
	return ','
}
