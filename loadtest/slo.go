package loadtest

import (
	"encoding"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// SLO is a threshold that a load has to hold, such as ttft.p99<500ms.
type SLO struct {
	text      string
	metric    string
	percent   float64 // of a time: which percentile
	stat      string  // of a time: p, mean or max
	operator  string
	threshold float64 // of a time: seconds; of a share: 0 to 1
}

var _ encoding.TextUnmarshaler = (*SLO)(nil)

// Figures that an SLO may name.
func sloTimes() []string  { return []string{"ttft", "gap", "total", "late"} }
func sloShares() []string { return []string{"ok", "errors", "refused", "left", "broken"} }
func sloCounts() []string { return []string{"rate", "tokens"} }

const sloHelp = "say ttft.p99<500ms (ttft, gap, total or late; p50 to p99.99, mean or max), errors<=1% (ok, errors, refused, left or broken), " +
	"or rate>=100 (rate or tokens, a second)"

// UnmarshalText reads one.
func (s *SLO) UnmarshalText(text []byte) error {
	parts := regexp.MustCompile(`^\s*([a-z]+)(?:\.([a-z0-9.]+))?\s*(<=|>=|<|>)\s*(\S+)\s*$`).FindStringSubmatch(string(text))
	if parts == nil {
		return fmt.Errorf("%q is no threshold: %s", text, sloHelp)
	}
	*s = SLO{text: strings.TrimSpace(string(text)), metric: parts[1], operator: parts[3]}
	err := s.readFigure(parts[2])
	if err == nil {
		s.threshold, err = s.readThreshold(parts[4])
	}
	if err != nil {
		return fmt.Errorf("%q is no threshold: %w; %s", text, err, sloHelp)
	}
	return nil
}

func (s *SLO) readFigure(stat string) error {
	isTime := slices.Contains(sloTimes(), s.metric)
	switch {
	case !isTime && !slices.Contains(slices.Concat(sloShares(), sloCounts()), s.metric):
		return fmt.Errorf("there is no figure %q", s.metric)
	case !isTime && stat != "":
		return fmt.Errorf("%s has no %q", s.metric, stat)
	case !isTime, stat == "mean", stat == "max":
		s.stat = stat
		return nil
	}
	percent, err := strconv.ParseFloat(strings.TrimPrefix(stat, "p"), 64)
	if err != nil || !strings.HasPrefix(stat, "p") || percent <= 0 || percent > 100 {
		return fmt.Errorf("%q is none of a time's figures", stat)
	}
	s.stat, s.percent = "p", percent
	return nil
}

func (s *SLO) readThreshold(text string) (float64, error) {
	if slices.Contains(sloTimes(), s.metric) {
		d, err := time.ParseDuration(text)
		if err != nil || d < 0 {
			return 0, fmt.Errorf("%q is no time, such as 500ms or 2s", text)
		}
		return d.Seconds(), nil
	}
	number, share := strings.CutSuffix(text, "%")
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || v < 0 || share && slices.Contains(sloCounts(), s.metric) {
		return 0, fmt.Errorf("%q is no number", text)
	}
	if share {
		v /= 100
	}
	if slices.Contains(sloShares(), s.metric) && v > 1 {
		return 0, fmt.Errorf("%q is more than all of them: a share is 0 to 1, or 0%% to 100%%", text)
	}
	return v, nil
}

// String is what was read.
func (s SLO) String() string { return s.text }

// Verdict is what became of an SLO.
type Verdict struct {
	SLO  string
	Got  string
	Held bool
}

// Check says whether a load held it. Where nothing was measured it did not.
func (s SLO) Check(r *Result) Verdict {
	times := map[string]Times{"ttft": r.TTFT, "gap": r.Gaps, "total": r.Total, "late": r.Late}
	if t, isTime := times[s.metric]; isTime {
		if t.Count() == 0 {
			return Verdict{s.text, "nothing was measured", false}
		}
		got := s.of(t)
		return Verdict{s.text, Short(got), s.holds(got.Seconds())}
	}
	all := r.Requests()
	if all == 0 {
		return Verdict{s.text, "nothing was measured", false}
	}
	seconds := r.Took().Seconds()
	switch s.metric {
	case "rate":
		got := float64(r.Count(OK)) / seconds
		return Verdict{s.text, fmt.Sprintf("%.1f/s", got), s.holds(got)}
	case "tokens":
		got := float64(r.Tokens()) / seconds
		return Verdict{s.text, fmt.Sprintf("%.1f/s", got), s.holds(got)}
	}
	n := r.Count(Outcome(s.metric))
	if s.metric == "errors" {
		n = all - r.Count(OK)
	}
	return Verdict{s.text, fmt.Sprintf("%.3g%% (%d of %d)", 100*float64(n)/float64(all), n, all), s.holds(float64(n) / float64(all))}
}

func (s SLO) of(t Times) time.Duration {
	switch s.stat {
	case "mean":
		return t.Mean()
	case "max":
		return t.Max()
	}
	return t.At(s.percent)
}

func (s SLO) holds(got float64) bool {
	switch s.operator {
	case "<":
		return got < s.threshold
	case "<=":
		return got <= s.threshold
	case ">":
		return got > s.threshold
	}
	return got >= s.threshold
}

// Short writes a time with three digits that count.
func Short(d time.Duration) string {
	for _, unit := range []time.Duration{time.Second, time.Millisecond, time.Microsecond} {
		if d >= 100*unit {
			return d.Round(unit).String()
		}
		if d >= 10*unit {
			return d.Round(unit / 10).String()
		}
		if d >= unit {
			return d.Round(unit / 100).String()
		}
	}
	return d.String()
}
