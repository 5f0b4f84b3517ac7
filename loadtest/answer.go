package loadtest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Outcome is how a request ended, as its client saw it. The words are those of the edge.
type Outcome string

// The outcomes.
const (
	OK      Outcome = "ok"
	Refused Outcome = "refused" // the server said no: 4xx or 503
	Left    Outcome = "left"    // we went away: it took too long, or the load was ended
	Broken  Outcome = "broken"  // no connection, an answer that was cut off or is malformed, or 500, 502, 504
)

// Outcomes are all there are, in the order in which reports show them.
func Outcomes() []Outcome { return []Outcome{OK, Refused, Left, Broken} }

// Answer is what became of a request.
type Answer struct {
	Outcome Outcome
	Kind    string    // of what went wrong: a status and a code, or a sentence that stays the same; empty if nothing did
	Sent    time.Time // when the request really began
	First   time.Time // when the first token came; of an answer that is no stream, its first byte. Zero: none came
	Ended   time.Time
	Tokens  int
	Bytes   int64           // of the body
	Gaps    []time.Duration // between tokens of a stream, the first 65536
}

const (
	maxGaps  = 65536
	maxEvent = 1 << 20 // bytes of a line of a stream, and of an answer that is looked into
)

// fault is what went wrong with an answer.
type fault struct {
	outcome Outcome
	kind    string
}

func (f *fault) Error() string { return string(f.outcome) + ": " + f.kind }

// hear reads an answer to its end.
func (a *Answer) hear(response *http.Response, chat bool) error {
	in := bufio.NewReaderSize(&counter{response.Body, &a.Bytes}, 4096)
	switch {
	case response.StatusCode >= 400:
		return refusal(response.StatusCode, in)
	case strings.HasPrefix(response.Header.Get("Content-Type"), "text/event-stream"):
		return a.hearStream(in, chat)
	}
	return a.hearWhole(in, chat)
}

// counter counts the bytes that pass.
type counter struct {
	io.Reader
	bytes *int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	*c.bytes += int64(n)
	return n, err
}

// problem is an error in OpenAI's form.
type problem struct {
	Error struct{ Code any }
}

// refusal is the fault that a status says, with the code of its body if there is one.
func refusal(status int, in io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(in, maxEvent))
	if err != nil {
		return err
	}
	return faultOf(status, text)
}

// faultOf reads an error document. A status of 0 is that of a stream which had begun.
func faultOf(status int, text []byte) error {
	var p problem
	_ = json.Unmarshal(text, &p) // others say it in other forms, and then the status has to do
	code, _ := p.Error.Code.(string)
	kind := strings.TrimSpace(fmt.Sprintf("%d %s", status, code))
	if status == 0 {
		kind = strings.TrimSpace("error in the stream: " + code)
	}
	outcome := Refused
	if status == 0 && code == "" || status == 500 || status == 502 || status == 504 || code == "backend_broken" {
		outcome = Broken
	}
	return &fault{outcome, kind}
}

// hearWhole reads an answer of one piece.
func (a *Answer) hearWhole(in *bufio.Reader, chat bool) error {
	if _, err := in.Peek(1); err == nil {
		a.First = time.Now()
	}
	text, err := io.ReadAll(io.LimitReader(in, maxEvent))
	if err == nil {
		_, err = io.Copy(io.Discard, in)
	}
	if err != nil || !chat {
		return err
	}
	var said struct {
		Usage struct {
			Tokens int `json:"completion_tokens"`
		}
	}
	if err := json.Unmarshal(text, &said); err != nil {
		return &fault{Broken, "the answer is not JSON"}
	}
	a.Tokens = said.Usage.Tokens
	return nil
}

// hearStream reads events. A chat has to end with [DONE].
func (a *Answer) hearStream(in *bufio.Reader, chat bool) error {
	var last time.Time
	done := false
	for {
		line, err := in.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			if line, err = a.longLine(in, line); err != nil {
				return err
			}
		case errors.Is(err, io.EOF) && (done || !chat):
			return nil
		case errors.Is(err, io.EOF):
			return &fault{Broken, "the stream ended without [DONE]"}
		case err != nil:
			return err
		}
		data, isData := bytes.CutPrefix(line, []byte("data:"))
		data = bytes.TrimSpace(data)
		switch {
		case !isData:
			continue // a comment, which keeps the connection alive, or the rest of an event
		case string(data) == "[DONE]":
			done = true
			continue
		case bytes.HasPrefix(data, []byte(`{"error"`)):
			return faultOf(0, data)
		case chat && !says(data):
			continue
		}
		a.token(&last)
	}
}

// longLine reads on in a line that is longer than the buffer.
func (a *Answer) longLine(in *bufio.Reader, begun []byte) ([]byte, error) {
	line := bytes.Clone(begun)
	for {
		more, err := in.ReadSlice('\n')
		line = append(line, more...)
		if len(line) > maxEvent {
			return nil, &fault{Broken, "an event is longer than 1 MiB"}
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// token notes that one has come.
func (a *Answer) token(last *time.Time) {
	now := time.Now()
	a.Tokens++
	if a.First.IsZero() {
		a.First = now
	} else if len(a.Gaps) < maxGaps {
		a.Gaps = append(a.Gaps, now.Sub(*last))
	}
	*last = now
}

// says reports whether an event of a chat or a completion has something to say: there are others around it. It looks for
// the members that hold what is said and is not empty, which is a hundred times cheaper than reading all of the JSON.
func says(data []byte) bool {
	for _, member := range [...]string{`"content":`, `"text":`, `"reasoning_content":`, `"reasoning":`, `"arguments":`} {
		_, value, found := bytes.Cut(data, []byte(member))
		value = bytes.TrimLeft(value, " ")
		if found && len(value) > 1 && value[0] == '"' && value[1] != '"' {
			return true
		}
	}
	return false
}
