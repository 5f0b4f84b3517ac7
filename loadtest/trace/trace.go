// Package trace reads recorded traffic: who asked for what, and when. It knows the recordings that Microsoft, Moonshot and Alibaba have
// published, a plain table of uses, and the log of pilotlight itself, and tells them apart by their first line.
package trace

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strings"
	"time"
)

// Arrival is one recorded request.
type Arrival struct {
	At     time.Duration // after the recording began
	Client string        // who asked; empty: the recording does not say
	Model  string        // for which model; empty: it does not say
	Took   time.Duration // from the moment it was served until its answer had ended; 0: it does not say
	Prompt int           // tokens; 0: it does not say
	Answer int           // tokens; 0: it does not say
	Blocks []uint64      // of 512 tokens each, with which the prompt begins: the same numbers, the same text
}

// Use is a time in which a model, or whatever a recording has in its place, had something to do.
type Use struct {
	Client, Model string // as of Arrival
	At, Took      time.Duration
	Requests      int64

	Prompt, Answer int // tokens, of one request; 0: it does not say
}

// Trace is a recording.
type Trace struct {
	Format  Format
	Began   time.Time     // zero: it does not say
	Named   bool          // it says which models were asked for
	Length  time.Duration // to the last arrival, or to the end of the last time for which it counts them
	Count   int64         // of arrivals
	Clients []string      // the busiest first; none: it does not say

	arrivals iter.Seq[Arrival]
	uses     iter.Seq[Use]
}

// Arrivals are the recorded requests in the order of time, the same each time.
func (t *Trace) Arrivals() iter.Seq[Arrival] { return t.arrivals }

// Uses are the recorded requests as they were written down, in the order of time: one by one, or those of a time together.
func (t *Trace) Uses() iter.Seq[Use] { return t.uses }

// Format is a kind of recording.
type Format string

// The formats.
const (
	AzureLLM       Format = "azure-llm"       // Azure LLM inference 2023: time, tokens of the prompt and of the answer
	Mooncake       Format = "mooncake"        // Mooncake: the same, with numbers of the blocks that prompts share
	ServeGen       Format = "servegen"        // sessions of clients from ServeGen: how many requests in which time
	AzureFunctions Format = "azure-functions" // Azure Functions 2019: invocations of each function in each minute
	Table          Format = "table"           // model, start_s, duration_s, and how many requests if it says so
	AccessLog      Format = "access-log"      // what pilotlight serve writes
)

// maxArrivals bounds recordings that have a line for each request.
const maxArrivals = 10_000_000

// Open reads a file, which may be compressed with gzip.
func Open(file string) (*Trace, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("open a recording: %w", err)
	}
	defer f.Close()
	t, err := Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return t, nil
}

// Read reads a recording, which may be compressed with gzip.
func Read(r io.Reader) (*Trace, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	if magic, err := in.Peek(2); err == nil && bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		plain, err := gzip.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("decompress it: %w", err)
		}
		in = bufio.NewReaderSize(plain, 64<<10)
	}
	first, err := in.Peek(4096)
	if len(first) == 0 {
		return nil, errors.Join(errors.New("it is empty"), notEOF(err))
	}
	line, _, _ := strings.Cut(string(first), "\n")
	var t *Trace
	switch line = strings.TrimSpace(line); {
	case line == "TIMESTAMP,ContextTokens,GeneratedTokens":
		t, err = readAzureLLM(in)
	case line == "client,start_s,dur_s,requests":
		t, err = readServeGen(in)
	case line == "model,start_s,duration_s", line == "model,start_s,duration_s,requests":
		t, err = readTable(in)
	case strings.HasPrefix(line, "id,src_file,m1,"):
		t, err = readAzureFunctions(in)
	case strings.HasPrefix(line, "{") && strings.Contains(line, `"hash_ids"`):
		t, err = readMooncake(in)
	case strings.HasPrefix(line, "{") && strings.Contains(line, `"msg"`):
		t, err = readAccessLog(in)
	default:
		return nil, fmt.Errorf("no recording begins with %.80q: it is none of Azure LLM 2023, Mooncake, ServeGen, Azure Functions 2019, "+
			"a table (model,start_s,duration_s,requests) and pilotlight's own log", line)
	}
	if err != nil {
		return nil, err
	}
	if t.Count == 0 {
		return nil, errors.New("there is no request in it")
	}
	return t, nil
}

func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// listed is a recording that has a line for each request. Times are after a moment that need not be the first.
func listed(format Format, moment time.Time, all []Arrival) *Trace {
	slices.SortStableFunc(all, func(a, b Arrival) int { return cmp.Compare(a.At, b.At) })
	t := &Trace{Format: format, Named: format == AccessLog, Count: int64(len(all)), arrivals: slices.Values(all)}
	t.uses = func(yield func(Use) bool) {
		for _, a := range all {
			if !yield(Use{Client: a.Client, Model: a.Model, At: a.At, Took: a.Took, Requests: 1, Prompt: a.Prompt, Answer: a.Answer}) {
				return
			}
		}
	}
	busy := map[string]int64{}
	if len(all) > 0 {
		first := all[0].At
		if !moment.IsZero() {
			t.Began = moment.Add(first)
		}
		for i := range all {
			all[i].At -= first
			busy[all[i].Client]++
		}
		t.Length = all[len(all)-1].At
	}
	t.Clients = byCount(busy)
	return t
}

// byCount are the names, the most frequent first.
func byCount(counts map[string]int64) (names []string) {
	delete(counts, "")
	for name := range counts {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		if counts[a] != counts[b] {
			return int(min(max(counts[b]-counts[a], -1), 1))
		}
		return strings.Compare(a, b)
	})
	return names
}
