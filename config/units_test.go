package config

import (
	"math"
	"testing"
	"time"
)

func TestDurationsReadBackAsTheyAreWritten(t *testing.T) {
	for text, want := range map[string]struct {
		d       time.Duration
		written string
	}{
		"0":          {0, "0s"},
		"90s":        {90 * time.Second, "1m30s"},
		"5m":         {5 * time.Minute, "5m"},
		"1h30m":      {90 * time.Minute, "1h30m"},
		"24h":        {24 * time.Hour, "24h"},
		"1h0m10s":    {time.Hour + 10*time.Second, "1h0m10s"},
		"10m0.5s":    {10*time.Minute + 500*time.Millisecond, "10m0.5s"},
		"1500ms":     {1500 * time.Millisecond, "1.5s"},
		"2540400h":   {2540400 * time.Hour, "2540400h"},
		"0.0000001s": {100, "100ns"},
	} {
		var d, again Duration
		if err := d.UnmarshalText([]byte(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if d.Std() != want.d || d.String() != want.written {
			t.Errorf("%s is %v, written %v; want %v, written %s", text, d.Std(), d, want.d, want.written)
		}
		if err := again.UnmarshalText([]byte(d.String())); err != nil || again != d {
			t.Errorf("%v reads back as %v, %v", d, again, err)
		}
	}
}

func TestSizesReadBackAsTheyAreWritten(t *testing.T) {
	for text, want := range map[string]struct {
		s       Size
		written string
	}{
		"0":                    {0, "0B"},
		"512B":                 {512, "512B"},
		"64KiB":                {64 * KiB, "64KiB"},
		"1024MiB":              {GiB, "1GiB"},
		"1.5GiB":               {1536 * MiB, "1536MiB"},
		"1.5TB":                {1_500_000_000_000, "1500GB"},
		"40 GiB":               {40 * GiB, "40GiB"},
		"1kB":                  {1000, "1kB"},
		"1KB":                  {1000, "1kB"},
		"9223372036854775807B": {math.MaxInt64, "9223372036854775807B"},
		"0.5KiB":               {512, "512B"},
	} {
		var s, again Size
		if err := s.UnmarshalText([]byte(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if s != want.s || s.String() != want.written {
			t.Errorf("%s is %d, written %v; want %d, written %s", text, s, s, want.s, want.written)
		}
		if err := again.UnmarshalText([]byte(s.String())); err != nil || again != s {
			t.Errorf("%v reads back as %v, %v", s, again, err)
		}
	}
}

func TestWhatIsNoSizeIsRefused(t *testing.T) {
	for _, text := range []string{"", "GiB", "-1B", "1", "0.0", "1e3B", "1.2.3MiB", "1 000kB", "9223372036854775808B", "8192PiB", "0.1B", "1gib"} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is %v; want an error", text, s)
		}
	}
}

func TestNetworksReadBackAsTheyAreWritten(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.0/8": "10.0.0.0/8", "fd00::/8": "fd00::/8", "192.0.2.7": "192.0.2.7/32", "::1": "::1/128", "::ffff:192.0.2.7": "192.0.2.7/32", "0.0.0.0/0": "0.0.0.0/0",
	} {
		var n, again Network
		if err := n.UnmarshalText([]byte(text)); err != nil || string(n) != want {
			t.Errorf("%s is %v, %v; want %s", text, n, err, want)
		}
		if err := again.UnmarshalText([]byte(n)); err != nil || again != n || n.Prefix().String() != want {
			t.Errorf("%v reads back as %v, %v, and is %v", n, again, err, n.Prefix())
		}
	}
	for _, text := range []string{"", "10", "10.0.0.0/33", "10.0.0.1/8", "::ffff:10.0.0.0/104", "fe80::1%eth0", "localhost", "10.0.0.0/8,192.168.0.0/16"} {
		var n Network
		if err := n.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is %v; want an error", text, n)
		}
	}
}
