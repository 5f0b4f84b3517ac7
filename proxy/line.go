package proxy

import (
	"bytes"
	"encoding/hex"
	"strconv"
	"time"
)

// appendLine appends the line that slog's JSONHandler would write for the visit: every request has one, and slog takes as long
// for it as everything else that we do for a request. See visit.log, which says the same to other handlers.
func (v *visit) appendLine(dst []byte) []byte {
	dst = append(dst, `{"time":"`...)
	dst = v.At.Add(v.Total).AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, `","level":"INFO","msg":"request","id":"`...)
	dst = strconv.AppendUint(dst, v.id, 36)
	dst = append(append(dst, `","outcome":"`...), v.Outcome.String()...)
	dst = strconv.AppendInt(append(dst, `","status":`...), int64(v.Status), 10)
	dst = appendQuoted(append(dst, `,"code":`...), string(v.Code))
	dst = appendQuoted(append(dst, `,"reason":`...), v.Reason)
	dst = appendQuoted(append(dst, `,"model":`...), v.Model)
	dst = appendQuoted(append(dst, `,"backend":`...), v.Backend)
	dst = appendQuoted(append(dst, `,"method":`...), v.Method)
	dst = appendQuoted(append(dst, `,"path":`...), v.path[:v.pathLen])
	dst = appendMillis(append(dst, `,"waited_ms":`...), v.Waited)
	dst = strconv.AppendBool(append(dst, `,"cold":`...), v.Cold)
	dst = strconv.AppendBool(append(dst, `,"overflow":`...), v.Overflow)
	dst = appendMillis(append(dst, `,"first_byte_ms":`...), v.FirstByte)
	dst = appendMillis(append(dst, `,"total_ms":`...), v.Total)
	dst = strconv.AppendInt(append(dst, `,"bytes_in":`...), v.BytesIn, 10)
	dst = strconv.AppendInt(append(dst, `,"bytes_out":`...), v.BytesOut, 10)
	dst = appendQuoted(append(dst, `,"client":`...), v.Client)
	if v.Tenant != "" {
		dst = appendQuoted(append(dst, `,"tenant":`...), v.Tenant)
	}
	if v.Context.Sampled() {
		dst = append(hex.AppendEncode(append(dst, `,"trace_id":"`...), v.Context.Trace[:]), '"')
	}
	if v.leftOut > 0 {
		dst = strconv.AppendUint(append(dst, `,"left_out":`...), v.leftOut, 10)
	}
	return append(dst, "}\n"...)
}

// appendMillis appends a time in milliseconds, to the microsecond, as strconv would, in a fraction of the time.
func appendMillis(dst []byte, d time.Duration) []byte {
	const exact = 1e15 // up to here strconv writes all digits
	micros := d.Microseconds()
	if micros < 0 || micros > exact {
		return strconv.AppendFloat(dst, ms(d), 'f', -1, 64)
	}
	dst = strconv.AppendInt(dst, micros/1000, 10)
	if rest := micros % 1000; rest > 0 {
		dst = append(dst, '.', byte('0'+rest/100), byte('0'+rest/10%10), byte('0'+rest%10))
		dst = bytes.TrimRight(dst, "0")
	}
	return dst
}

// appendQuoted appends a JSON string. Most need no escapes.
func appendQuoted[T string | []byte](dst []byte, s T) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return appendJSON(dst, string(s))
		}
	}
	return append(append(append(dst, '"'), s...), '"')
}
