package router

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestNoMoreThanHalfOfTheReadyBackendsAreEjected(t *testing.T) {
	for name, c := range map[string]struct {
		ready  string // the backends that are ready, a letter each
		break3 string // which of them break three requests, in order
		sleep  string // which of them fall asleep then
		want   string // the ejected ones
	}{
		"the only one never is":       {"a", "a", "", ""},
		"one of two":                  {"ab", "a", "", "a"},
		"not both":                    {"ab", "ab", "", "a"},
		"one of three":                {"abc", "abc", "", "a"},
		"two of four":                 {"abcd", "abcd", "", "ab"},
		"two of five":                 {"abcde", "edcba", "", "de"},
		"nobody who is fine":          {"abcd", "c", "", "c"},
		"one comes back":              {"abcd", "ab", "d", "b"},
		"all that are left come back": {"abcd", "ab", "cd", "b"},
		"the last comes back":         {"ab", "a", "b", ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var backends []Backend
				for _, id := range c.ready {
					backends = append(backends, Backend{ID: string(id), State: Ready, Slots: 8})
				}
				f := newFleetOf(t, wide, backends...)
				for _, id := range c.break3 {
					f.breaks(string(id), brokenToEject)
					time.Sleep(time.Millisecond)
				}
				for _, id := range c.sleep {
					f.set(string(id), Asleep)
				}
				if got := f.ejected(); got != c.want {
					t.Errorf("ejected are %q, want %q", got, c.want)
				}
				time.Sleep(maxEjection)
				if got := f.ejected(); got != "" {
					t.Errorf("%q are ejected for ever", got)
				}
			})
		})
	}
}

func TestAnEjectionGetsLongerEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleetOf(t, wide, Backend{ID: "a", State: Ready, Slots: 8}, Backend{ID: "b", State: Ready, Slots: 8})
		f.breaks("a", brokenToEject-1)
		for _, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
			f.breaks("a", 1)
			if got := time.Until(f.line().candidate("a").Ejected); got != want*time.Second {
				t.Errorf("ejected for %s, want %d s", got, want)
			}
		}
	})
}

// line is the model's.
func (f *fleetOf) line() *line {
	m, _ := f.Model("m")
	return m.line
}

// breaks has a backend break so many requests.
func (f *fleetOf) breaks(id string, times int) {
	l := f.line()
	for range times {
		l.mu.Lock()
		lease := l.lease(l.candidate(id), &Request{}, Why{}, time.Now())
		l.mu.Unlock()
		lease.Release(Broken)
	}
}

// ejected are the IDs of the ejected backends.
func (f *fleetOf) ejected() string {
	var ids strings.Builder
	for _, c := range f.line().candidates {
		if c.State == Ready && c.Ejected.After(time.Now()) {
			ids.WriteString(c.ID)
		}
	}
	return ids.String()
}
