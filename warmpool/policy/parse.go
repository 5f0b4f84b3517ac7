package policy

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Parse makes a policy from what people write: its name, and how it is set, such as fixed:idle=60m. Errors list what there is.
func Parse(spec string) (Policy, error) { return parse(spec, kinds()) }

// ParseRecorded is Parse with those that must know the future, for recorded traffic.
func ParseRecorded(spec string) (Policy, error) {
	return parse(spec, append(kinds(), clairvoyants()...))
}

// Kind is a policy that there is.
type Kind struct {
	Spec string // as it is written, with all its settings at their defaults
	Help string // one clause

	make func(s *settings) Policy
}

// Kinds are those that Parse knows.
func Kinds() []Kind { return kinds() }

// Clairvoyants are those that ParseRecorded knows beside them.
func Clairvoyants() []Kind { return clairvoyants() }

func kinds() []Kind {
	return []Kind{
		{"fixed:idle=60m", "warm for a fixed time after its last request", newFixed},
		{"hybrid:range=4h", "warm again when a histogram of its idle times says so (Serverless in the Wild)", newHybrid},
		{"ttl:k=60m", "warm for the time that would have been the cheapest so far, for each model; k is how much idle memory a cold start is worth", newTTL},
		{"lru", "warm until memory is needed; those that were used least recently go first", newLRU},
		{"gdsf", "warm until memory is needed; those go first that were used little, load quickly and are large (FaasCache)", newGDSF},
		{"predictive:k=60m:alpha=0", "learns when each model is used; k is how much idle memory one cold start is worth, alpha favours rarely used models", newPredictive},
	}
}

func clairvoyants() []Kind {
	return []Kind{
		{"clairvoyant:keep=60m", "knows the future: warm through every gap of at most that time, never woken ahead", newKeeping},
		{"oracle", "knows the future: asleep, and woken so that its load ends when it is asked for", newOracle},
	}
}

func parse(spec string, known []Kind) (Policy, error) {
	name, rest, _ := strings.Cut(strings.TrimSpace(spec), ":")
	for _, k := range known {
		kind, defaults, _ := strings.Cut(k.Spec, ":")
		if kind != name {
			continue
		}
		s := settings{values: map[string]string{}}
		s.read(defaults, false)
		s.read(rest, true)
		p := k.make(&s)
		if s.err != nil {
			return nil, fmt.Errorf("policy %q: %w; it is written like %s", spec, s.err, k.Spec)
		}
		return p, nil
	}
	return nil, fmt.Errorf("there is no policy %q; there are %s", name, list(known))
}

func list(known []Kind) string {
	var specs []string
	for _, k := range known {
		specs = append(specs, k.Spec)
	}
	return strings.Join(specs, ", ")
}

// settings are what stands behind a policy's name, read with the first error kept.
type settings struct {
	values map[string]string
	err    error
}

// read takes k=v, more of them separated by colons or commas. Only those with a default are known.
func (s *settings) read(text string, users bool) {
	for _, one := range strings.FieldsFunc(text, func(r rune) bool { return r == ':' || r == ',' }) {
		key, value, found := strings.Cut(one, "=")
		key = strings.TrimSpace(key)
		if _, known := s.values[key]; users && (!found || !known) {
			s.fail("it has no setting %q", one)
			return
		}
		s.values[key] = strings.TrimSpace(value)
	}
}

func (s *settings) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf(format, args...)
	}
}

// duration is a setting of more than nothing and at most a year, such as 90s, 60m, 4h or 7d.
func (s *settings) duration(key string) time.Duration {
	d, err := Duration(s.values[key])
	if err != nil || d <= 0 || d > 365*day {
		s.fail("%s=%s is no time between 0 and a year, such as 60m", key, s.values[key])
	}
	return d
}

// number is a setting within bounds.
func (s *settings) number(key string, least, most float64) float64 {
	x, err := strconv.ParseFloat(s.values[key], 64)
	if err != nil || !(x >= least && x <= most) {
		s.fail("%s=%s is no number from %v to %v", key, s.values[key], least, most)
	}
	return x
}

const day = 24 * time.Hour

// Duration reads what time.ParseDuration does, and whole or broken days: 7d, 0.5d.
func Duration(text string) (time.Duration, error) {
	if days, found := strings.CutSuffix(text, "d"); found {
		if n, err := strconv.ParseFloat(days, 64); err == nil && n >= 0 && n <= 36500 {
			return time.Duration(n * float64(day)), nil
		}
	}
	return time.ParseDuration(text)
}
