package launch

import "testing"

func FuzzStat(f *testing.F) {
	f.Add("1 (a) b) (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 0 0")
	f.Add("")
	f.Fuzz(func(_ *testing.T, data string) {
		_, _ = parseStat(data)
	})
}

func TestStatIsReadBehindANameWithParentheses(t *testing.T) {
	got, err := parseStat("1 (a) b) (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 0 0")
	if want := (stat{'S', 7, "4711"}); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}
