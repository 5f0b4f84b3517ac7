package keys

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pilotlight/router"
)

var noon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// made makes a key and a ring that holds it.
func made(t testing.TB, k Key) (*Ring, string) {
	t.Helper()
	secret, kept, err := New(k)
	if err != nil {
		t.Fatal(err)
	}
	r := NewRing()
	r.Set([]Key{kept})
	return r, secret
}

func code(no *router.Refusal) router.Code {
	if no == nil {
		return ""
	}
	return no.Code
}

func TestAKeyIsKnownByItsHash(t *testing.T) {
	r, secret := made(t, Key{ID: "a", Tenant: "team", Priority: "high", Expires: noon.Add(time.Hour)})
	h, no := r.Find([]byte(secret), noon)
	if no != nil || h.Tenant != "team" || h.Priority() != router.High {
		t.Fatalf("it is %+v, %v", h, no)
	}
	for name, c := range map[string]struct {
		secret string
		at     time.Time
	}{
		"none": {"", noon}, "another": {"pl-" + strings.Repeat("A", 43), noon}, "a part": {secret[:len(secret)-1], noon}, "the hash": {h.Hash, noon}, "expired": {secret, noon.Add(time.Hour)},
	} {
		if _, no := r.Find([]byte(c.secret), c.at); code(no) != router.BadKey || no.Status != 401 || strings.Contains(no.Reason, secret[3:]) {
			t.Errorf("%s: %v", name, no)
		}
	}
	r.Set(nil)
	if _, no := r.Find([]byte(secret), noon); code(no) != router.BadKey {
		t.Error("it counts after it was revoked")
	}
	if len(secret) != secretLen || strings.Contains(fmt.Sprintf("%+v", h.Key), secret[3:]) {
		t.Errorf("a key has %d characters", len(secret))
	}
}

func TestAKeyIsForItsModels(t *testing.T) {
	r, secret := made(t, Key{ID: "a", Models: []string{"llama-*", "qwen/qwen3", "m?x-*"}})
	h, _ := r.Find([]byte(secret), noon)
	for model, may := range map[string]bool{"llama-8b": true, "llama-": true, "llama": false, "qwen/qwen3": true, "qwen/qwen3-x": false, "mix-7": true, "mx-7": false, "llama-/x": false, "": false} {
		if got := h.Enter(model, noon); (got == nil) != may || got != nil && (got.Status != 403 || got.Code != router.ModelForbidden) {
			t.Errorf("%s: %v", model, got)
		}
	}
}

func TestLimits(t *testing.T) {
	t.Run("at once", func(t *testing.T) {
		r, secret := made(t, Key{ID: "a", Concurrency: 2})
		h, _ := r.Find([]byte(secret), noon)
		for _, want := range []router.Code{"", "", router.RateLimited} {
			if got := h.Enter("m", noon); code(got) != want {
				t.Errorf("%v, want %q", got, want)
			}
		}
		h.Leave(0, noon)
		if got := h.Enter("m", noon); got != nil {
			t.Error(got)
		}
	})
	t.Run("per second", func(t *testing.T) {
		r, secret := made(t, Key{ID: "a", Rate: 2})
		h, _ := r.Find([]byte(secret), noon)
		granted := 0
		for i := range 1000 { // ten per second, for 100 s
			if h.Enter("m", noon.Add(time.Duration(i)*100*time.Millisecond)) == nil {
				granted++
			}
		}
		if granted < 200 || granted > 205 {
			t.Errorf("%d of 1000 requests are granted in 100 s", granted)
		}
	})
	t.Run("tokens", func(t *testing.T) {
		r, secret := made(t, Key{ID: "a", Tokens: 600})
		h, _ := r.Find([]byte(secret), noon)
		if no := h.Enter("m", noon); no != nil {
			t.Fatal(no)
		}
		h.Leave(900, noon) // nobody knew before
		no := h.Enter("m", noon.Add(time.Second))
		if code(no) != router.RateLimited || no.RetryAfter < 29*time.Second || no.RetryAfter > 31*time.Second {
			t.Errorf("%+v", no)
		}
		if no := h.Enter("m", noon.Add(32*time.Second)); no != nil {
			t.Error(no)
		}
	})
	t.Run("what is used stays used", func(t *testing.T) {
		secret, k, err := New(Key{ID: "a", Concurrency: 1})
		if err != nil {
			t.Fatal(err)
		}
		r := NewRing()
		r.Set([]Key{k})
		before, _ := r.Find([]byte(secret), noon)
		before.Enter("m", noon)
		k.Tenant = "other"
		r.Set([]Key{k})
		after, _ := r.Find([]byte(secret), noon)
		if no := after.Enter("m", noon); code(no) != router.RateLimited {
			t.Error("a change of the file gives a key its limits anew")
		}
		before.Leave(0, noon)
		if no := after.Enter("m", noon); no != nil {
			t.Error(no)
		}
	})
}

func TestWrongKeysAreSaid(t *testing.T) {
	good := `{"id":"a","sha256":"` + strings.Repeat("0", 64) + `"`
	for text, want := range map[string]string{
		"":                           "",
		"# nothing\n\n" + good + "}": "",
		good + "}\n" + good + "}":    "line 2: the key a is on line 1 already",
		good + "}\n" + strings.Replace(good, "\"a\"", "\"b\"", 1) + "}": "line 2: the key b is the same as on line 1",
		"nonsense":                     "line 1: a key is a JSON object",
		good + `,"modles":["m"]}`:      "line 1: a key is a JSON object",
		`{"id":"a","sha256":"abc"}`:    "64 hexadecimal digits",
		`{"sha256":"abc"}`:             "its id",
		good + `,"priority":"urgent"}`: "none of high, normal and low",
		good + `,"rate":-1}`:           "negative",
		good + `,"models":["[a"]}`:     "no name of models",
		good + "} " + good + "}":       "one line holds one key",
		good + `,"certificate":"a"}`:   "not both",
		`{"id":"a","certificate":"` + strings.Repeat("x", maxName+1) + `"}`:    "more than 1024 bytes",
		`{"id":"a","certificate":"x"}` + "\n" + `{"id":"b","certificate":"x"}`: "line 2: the key b is the same as on line 1",
		`{"id":"a","certificate":"spiffe://x/a"}`:                              "",
		strings.Repeat("x", maxLine+10):                                        "too long",
	} {
		_, err := Read(strings.NewReader(text))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %q", text, err, want)
		}
	}
}

func TestAFileIsFollowedWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "keys.jsonl")
		secret, first, _ := New(Key{ID: "a"})
		_, second, _ := New(Key{ID: "b"})
		line := func(k Key) string { return fmt.Sprintf(`{"id":%q,"sha256":%q}`+"\n", k.ID, k.Hash) }
		write := func(keys ...Key) {
			var b strings.Builder
			for _, k := range keys {
				b.WriteString(line(k))
			}
			if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(first, second)
		r := NewRing()
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			Follow(ctx, file, slog.New(slog.DiscardHandler), r.Set)
		}()
		wants := func(n int) {
			t.Helper()
			time.Sleep(lookEvery)
			synctest.Wait()
			if r.Len() != n {
				t.Errorf("there are %d keys, want %d", r.Len(), n)
			}
		}
		wants(2)
		write(second)
		wants(1)
		if err := os.WriteFile(file, []byte("nonsense"), 0o600); err != nil {
			t.Fatal(err)
		}
		wants(1)
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		wants(1)
		write()
		wants(0)
		write(first)
		wants(1)
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		other := filepath.Join(t.TempDir(), "other") // which takes its place, with the same size and time, as rsync --times has it
		if err := os.WriteFile(other, bytes.ReplaceAll([]byte(line(first)), []byte(first.Hash), []byte(second.Hash)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Chtimes(other, info.ModTime(), info.ModTime()), os.Rename(other, file)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lookEvery)
		synctest.Wait()
		if _, no := r.Find([]byte(secret), noon); no == nil {
			t.Error("a key counts that was revoked by another file in the place of the first")
		}
		stop()
		<-done
	})
}

func FuzzRead(f *testing.F) {
	f.Add(`{"id":"a","sha256":"` + strings.Repeat("0", 64) + `","models":["*"],"expires":"2027-01-01T00:00:00Z"}`)
	f.Fuzz(func(t *testing.T, text string) {
		all, err := Read(strings.NewReader(text))
		if err == nil {
			r := NewRing()
			r.Set(all)
			if len(text) > 0 {
				_, _ = r.Find([]byte(text), noon)
			}
		}
	})
}

// BenchmarkCheck is what a request costs more where there are 100,000 keys, each of which is asked with in turn: nothing of it is in a cache, but for
// the secret, which has just been read from the client.
func BenchmarkCheck(b *testing.B) {
	const n = 100_000
	r := NewRing()
	all, secrets := make([]Key, n), make([]byte, 0, n*secretLen)
	for i, at := range rand.New(rand.NewPCG(1, 2)).Perm(n) {
		secret, k, err := New(Key{ID: fmt.Sprint(i), Tenant: "t", Models: []string{"llama-*", "qwen-*"}, Concurrency: 8, Rate: 1e9, Tokens: 1e12})
		if err != nil {
			b.Fatal(err)
		}
		secrets = append(secrets, secret...)
		all[at] = k
	}
	r.Set(all)
	now := time.Now()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		at := i % n * secretLen
		h, no := r.Find(secrets[at:at+secretLen], now)
		if no == nil {
			no = h.Enter("qwen-14b", now)
		}
		if no != nil {
			b.Fatal(no)
		}
		h.Leave(100, now)
	}
}

// secretLen is how long a key is.
const secretLen = len("pl-") + 43

// BenchmarkReload is what it costs to have a file of 100,000 keys taken over of which one was revoked: within a second it must count no more.
func BenchmarkReload(b *testing.B) {
	var first, second bytes.Buffer
	for i := range 100_000 {
		_, k, err := New(Key{ID: fmt.Sprint(i), Tenant: "t", Models: []string{"llama-*", "qwen-*"}, Concurrency: 8, Rate: 1e9, Tokens: 1e12})
		if err != nil {
			b.Fatal(err)
		}
		line, err := json.Marshal(k)
		if err != nil {
			b.Fatal(err)
		}
		first.Write(append(line, '\n'))
		if i != 50_000 {
			second.Write(append(line, '\n'))
		}
	}
	r, ring := &Reader{}, NewRing()
	for i := 0; b.Loop(); i++ {
		all, err := r.Read(bytes.NewReader([][]byte{first.Bytes(), second.Bytes()}[i%2]))
		if err != nil {
			b.Fatal(err)
		}
		ring.Set(all)
	}
}

func TestARevokedKeyStopsAtOnceAndComesBackOnlyWithSet(t *testing.T) {
	r := NewRing()
	secret, a, _ := New(Key{ID: "a", Concurrency: 1})
	other, twin, _ := New(Key{ID: "a"}) // of another place, with the same ID
	cert := Key{ID: "c", Certificate: "name"}
	all := []Key{a, twin, cert}
	r.Set(all)
	counts := func() [3]bool {
		_, one := r.Find([]byte(secret), noon)
		_, two := r.Find([]byte(other), noon)
		_, three := r.Certified([]string{"other", "name"}, noon)
		return [3]bool{one == nil, two == nil, three == nil}
	}
	before, _ := r.Find([]byte(secret), noon)
	if got := counts(); got != [3]bool{true, false, true} {
		t.Errorf("of two with one ID, and a certificate, these count: %v", got)
	}
	r.Set(slices.Clone(all))
	if after, _ := r.Find([]byte(secret), noon); after != before {
		t.Error("a key that has not changed is made anew")
	}
	r.Revoke("a", "c", "nobody")
	if got := counts(); got != [3]bool{} {
		t.Errorf("revoked, and these count: %v", got)
	}
	r.Set(all)
	if got := counts(); got != [3]bool{true, false, true} {
		t.Errorf("given back, and these count: %v", got)
	}
}

func TestHashesWithTheSameBeginning(t *testing.T) {
	var all []Key
	var holders []*Holder
	h := held{byHash: map[uint64]*Holder{}, byID: map[string]*Holder{}}
	for i := range 3 {
		k := Key{ID: fmt.Sprint(i)}
		one := newHolder(k, nil, &Used{})
		one.sum[31] = byte(i + 1)
		h.byID[k.ID] = one
		h.add(one)
		all, holders = append(all, k), append(holders, one)
	}
	for round := range 2 {
		found := map[string]bool{}
		for one := h.byHash[0]; one != nil; one = one.next {
			found[one.ID] = true
		}
		if len(found) != len(all) {
			t.Errorf("round %d: %d of %d are found", round, len(found), len(all))
		}
		h = held{byHash: map[uint64]*Holder{}, byID: map[string]*Holder{}} // the same again, in another order
		for _, one := range slices.Backward(holders) {
			h.byID[one.ID] = one
			h.add(one)
		}
	}
}
