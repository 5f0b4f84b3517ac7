package config

import (
	"bytes"
	"fmt"
	"math/big"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Duration is a time.Duration that is written 90s, 5m or 1h30m. It is never negative in a file.
type Duration time.Duration

// Std is the duration as the standard library has it.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String is the shortest form that reads back as the same duration: 1h30m, not 1h30m0s.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText writes the duration as String does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

var bareNumber = regexp.MustCompile(`^[+-]?[0-9]+(\.[0-9]+)?$`)

// UnmarshalText reads 90s, 5m, 1h30m or 0. Its errors say how to write a duration.
func (d *Duration) UnmarshalText(text []byte) error {
	s := string(text)
	v, err := time.ParseDuration(s)
	switch {
	case err == nil && v < 0:
		return fmt.Errorf("%s is negative; a duration is 0s or more", quote(s))
	case err == nil:
		*d = Duration(v)
		return nil
	case bareNumber.MatchString(s):
		return fmt.Errorf("%s has no unit; write one like 90s or 2m", quote(s))
	}
	return fmt.Errorf("%s is not a duration; write one like 90s or 2m", quote(s))
}

// Size is a number of bytes that is written 512B, 40GiB or 1.5TB. It is never negative in a file.
type Size int64

// Sizes, for defaults and tests.
const (
	KiB Size = 1 << (10 * (iota + 1))
	MiB
	GiB
)

type unit struct {
	name  string
	bytes Size
}

// units from the largest to the smallest.
func units() []unit {
	return []unit{
		{"PiB", 1 << 50},
		{"PB", 1e15},
		{"TiB", 1 << 40},
		{"TB", 1e12},
		{"GiB", 1 << 30},
		{"GB", 1e9},
		{"MiB", 1 << 20},
		{"MB", 1e6},
		{"KiB", 1 << 10},
		{"kB", 1e3},
		{"B", 1},
	}
}

// String is exact: the number of the largest unit that divides the size, as in 64MiB or 1500GB.
func (s Size) String() string {
	if s == 0 {
		return "0B"
	}
	all := units()
	u := all[slices.IndexFunc(all, func(u unit) bool { return s%u.bytes == 0 })]
	return strconv.FormatInt(int64(s/u.bytes), 10) + u.name
}

// MarshalText writes the size as String does.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON writes the size as String does. Between programs it may be what is lacking, which no file can say: negative,
// and then it is a number of bytes.
func (s Size) MarshalJSON() ([]byte, error) {
	if s < 0 {
		return strconv.AppendInt(nil, int64(s), 10), nil
	}
	return strconv.AppendQuote(nil, s.String()), nil
}

// UnmarshalJSON reads a number of bytes, or what UnmarshalText reads.
func (s *Size) UnmarshalJSON(text []byte) error {
	if quoted, ok := bytes.CutPrefix(text, []byte(`"`)); ok {
		return s.UnmarshalText(bytes.TrimSuffix(quoted, []byte(`"`)))
	}
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil {
		return fmt.Errorf("%s is not a number of bytes", quote(string(text)))
	}
	*s = Size(n)
	return nil
}

var sizeForm = regexp.MustCompile(`^([0-9]{1,20}(?:\.[0-9]{1,20})?) ?([A-Za-z]*)$`)

// UnmarshalText reads 512B, 64MiB, 1.5TB or 0. Its errors say how to write a size.
func (s *Size) UnmarshalText(text []byte) error {
	in := string(text)
	form := sizeForm.FindStringSubmatch(in)
	switch {
	case form == nil && strings.HasPrefix(in, "-"):
		return fmt.Errorf("%s is negative; a size is 0B or more", quote(in))
	case form == nil:
		return fmt.Errorf("%s is not a size; write one like 512B, 64MiB or 1.5TB", quote(in))
	}
	number, name := form[1], form[2]
	if name == "" && number == "0" {
		*s = 0
		return nil
	}
	if name == "" {
		return fmt.Errorf("%s has no unit; write one like 512B, 64MiB or 1.5TB", quote(in))
	}
	all := units()
	i := slices.IndexFunc(all, func(u unit) bool { return u.name == name || u.name == "kB" && name == "KB" })
	if i < 0 {
		return fmt.Errorf("%s is not a unit of size; use B, kB, MB, GB, TB, PB or KiB, MiB, GiB, TiB, PiB", quote(name))
	}
	exact, ok := new(big.Rat).SetString(number)
	if !ok {
		panic("BUG: sizeForm lets " + number + " pass as a number")
	}
	exact.Mul(exact, new(big.Rat).SetInt64(int64(all[i].bytes)))
	if !exact.IsInt() {
		return fmt.Errorf("%s is not a whole number of bytes", quote(in))
	}
	if !exact.Num().IsInt64() {
		return fmt.Errorf("%s is more than a size can hold (just under 8192PiB)", quote(in))
	}
	*s = Size(exact.Num().Int64())
	return nil
}

// Prefix is the network as the standard library has it.
func (n Network) Prefix() netip.Prefix {
	p, err := netip.ParsePrefix(string(n))
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// UnmarshalText reads 10.0.0.0/8, fd00::/8, or an address, which is the network of itself. Its errors say how to write a network.
func (n *Network) UnmarshalText(text []byte) error {
	p, err := netip.ParsePrefix(string(text))
	if ip, wrong := netip.ParseAddr(string(text)); wrong == nil && ip.Zone() == "" {
		p, err = ip.Unmap().Prefix(ip.Unmap().BitLen())
	}
	switch {
	case err != nil:
		return fmt.Errorf("%s is not a network; write one like 10.0.0.0/8 or fd00::/8, or an address", quote(string(text)))
	case p.Addr().Is4In6():
		return fmt.Errorf("%s is a network of IPv4 addresses written as IPv6; write it as IPv4", quote(string(text)))
	case p != p.Masked():
		return fmt.Errorf("%s has bits set behind its first %d; the network is %s", quote(string(text)), p.Bits(), p.Masked())
	}
	*n = Network(p.String())
	return nil
}

// UnmarshalText reads the name of an engine.
func (e *Engine) UnmarshalText(text []byte) error { return oneOf(e, text, "engine", engines()) }

// UnmarshalText reads the name of a way to sleep.
func (s *Sleep) UnmarshalText(text []byte) error { return oneOf(s, text, "way to sleep", sleeps()) }

// UnmarshalText reads the name of a way to take a container down.
func (a *DockerAction) UnmarshalText(text []byte) error {
	return oneOf(a, text, "way to take a container down", dockerActions())
}

// UnmarshalText reads a reason to overflow.
func (w *OverflowWhen) UnmarshalText(text []byte) error {
	return oneOf(w, text, "reason to overflow", reasons())
}

func reasons() []OverflowWhen { return []OverflowWhen{OverflowCold, OverflowFull} }

// UnmarshalText reads a version of TLS.
func (v *TLSVersion) UnmarshalText(text []byte) error {
	return oneOf(v, text, "version of TLS", tlsVersions())
}

// UnmarshalText reads whether clients need a certificate.
func (c *ClientCert) UnmarshalText(text []byte) error {
	return oneOf(c, text, "way to look at clients' certificates", clientCerts())
}

func tlsVersions() []TLSVersion { return []TLSVersion{TLS12, TLS13} }
func clientCerts() []ClientCert { return []ClientCert{ClientCertRequired, ClientCertOptional} }

func dockerActions() []DockerAction { return []DockerAction{DockerStop, DockerPause} }

func engines() []Engine { return []Engine{VLLM, SGLang, LlamaCPP, Ollama, TGI, Triton, HTTP} }
func sleeps() []Sleep   { return []Sleep{SleepNone, SleepEngine, SleepHooks, SleepCheckpoint} }

// oneOf stores text if it is one of the names, else says what it might have been.
func oneOf[T ~string](into *T, text []byte, what string, names []T) error {
	if i := slices.Index(names, T(text)); i >= 0 {
		*into = names[i]
		return nil
	}
	known := make([]string, len(names))
	for i, name := range names {
		known[i] = string(name)
	}
	return fmt.Errorf("%s is not a known %s; %s", quote(string(text)), what, suggest(string(text), known))
}
