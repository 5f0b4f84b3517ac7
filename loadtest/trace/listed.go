package trace

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
)

// maxTokens bounds a prompt and an answer: no model reads more.
const maxTokens = 10_000_000

// rows calls one for each line of CSV after the first, with its number.
func rows(r io.Reader, fields int, one func(row []string) error) error {
	in := csv.NewReader(r)
	in.FieldsPerRecord, in.ReuseRecord = fields, true
	for line := 1; ; line++ {
		row, err := in.Read()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err == nil && line > 1:
			err = one(row)
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
	}
}

// tokens reads a number of them.
func tokens(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > maxTokens {
		return 0, fmt.Errorf("%q is no number of tokens", text)
	}
	return n, nil
}

func readAzureLLM(r io.Reader) (*Trace, error) {
	var all []Arrival
	var first time.Time
	err := rows(r, 3, func(row []string) error {
		at, err := time.Parse("2006-01-02 15:04:05.9999999", row[0])
		if err != nil {
			return fmt.Errorf("%q is no time", row[0])
		}
		var a Arrival
		if a.At, err = after(&first, at); err != nil {
			return err
		}
		if a.Prompt, err = tokens(row[1]); err != nil {
			return err
		}
		if a.Answer, err = tokens(row[2]); err != nil {
			return err
		}
		return add(&all, a)
	})
	return listed(AzureLLM, first, all), err
}

// after is how long after the first time another is, which may be the first.
func after(first *time.Time, at time.Time) (time.Duration, error) {
	if first.IsZero() {
		*first = at
	}
	d := at.Sub(*first)
	if d.Abs().Seconds() > maxSeconds {
		return 0, fmt.Errorf("%s is more than ten years from the first request", at.Format(time.DateOnly))
	}
	return d, nil
}

// add adds one, unless there are too many.
func add(all *[]Arrival, a Arrival) error {
	if len(*all) >= maxArrivals {
		return fmt.Errorf("there are more than %d requests", maxArrivals)
	}
	*all = append(*all, a)
	return nil
}

// lines calls one for each line.
func lines(r io.Reader, one func(line []byte) error) error {
	in := bufio.NewScanner(r)
	const longest = 4 << 20
	in.Buffer(make([]byte, 64<<10), longest)
	for n := 1; in.Scan(); n++ {
		if len(bytes.TrimSpace(in.Bytes())) == 0 {
			continue
		}
		if err := one(in.Bytes()); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	return in.Err()
}

func readMooncake(r io.Reader) (*Trace, error) {
	var all []Arrival
	err := lines(r, func(line []byte) error {
		var in struct {
			Timestamp float64  // milliseconds
			Input     int      `json:"input_length"`
			Output    int      `json:"output_length"`
			Blocks    []uint64 `json:"hash_ids"`
		}
		if err := json.Unmarshal(line, &in); err != nil {
			return err
		}
		const longest = float64(365 * 24 * time.Hour / time.Millisecond)
		if !(in.Timestamp >= 0 && in.Timestamp <= longest) || min(in.Input, in.Output) < 0 || max(in.Input, in.Output) > maxTokens {
			return errors.New("a time or a length is out of bounds")
		}
		return add(&all, Arrival{
			At: time.Duration(in.Timestamp * float64(time.Millisecond)), Prompt: in.Input, Answer: in.Output, Blocks: in.Blocks,
		})
	})
	return listed(Mooncake, time.Time{}, all), err
}

// bytesOfToken is how many bytes of a request's body count as a token of its prompt, since the log does not say.
const bytesOfToken = 4

// readAccessLog reads the requests in what pilotlight serve writes. Other lines are no concern of ours.
func readAccessLog(r io.Reader) (*Trace, error) {
	var all []Arrival
	var first time.Time
	missing := int64(0)
	err := lines(r, func(line []byte) error {
		if !bytes.Contains(line, []byte(`"msg":"request"`)) {
			return nil
		}
		var in struct {
			Time   time.Time // when it ended
			Model  string
			Client string
			Total  float64 `json:"total_ms"`
			Waited float64 `json:"waited_ms"`
			In     int64   `json:"bytes_in"`
			Out    int64   `json:"left_out"` // requests before it that have no line
		}
		if err := json.Unmarshal(line, &in); err != nil {
			return err
		}
		if missing += in.Out; in.Model == "" {
			return nil // it was refused for naming none
		}
		if !(in.Total >= 0 && in.Total < maxSeconds*1000 && in.Waited >= 0 && in.Waited < maxSeconds*1000) {
			return fmt.Errorf("%v is no time in milliseconds, or %v", in.Total, in.Waited)
		}
		at, err := after(&first, in.Time.Add(-time.Duration(in.Total*float64(time.Millisecond))))
		if err != nil {
			return err
		}
		return add(&all, Arrival{
			At: at, Client: in.Client, Model: in.Model, Took: time.Duration(max(0, in.Total-in.Waited) * float64(time.Millisecond)), Prompt: int(min(max(in.In, 0)/bytesOfToken, maxTokens)),
		})
	})
	if err == nil && missing > 0 {
		err = fmt.Errorf("%d requests are not in it, which log.sample left out; what was asked for is only known where all have a line", missing)
	}
	return listed(AccessLog, first, all), err
}
