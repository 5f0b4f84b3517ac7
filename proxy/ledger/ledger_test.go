package ledger

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pilotlight/proxy"
	"pilotlight/router"
)

// began is when the tests' requests come.
var began = time.Date(2026, 11, 26, 8, 0, 30, 0, time.UTC)

func ledger(t testing.TB, file, edge string) *Ledger {
	t.Helper()
	l, err := New(context.Background(), Options{
		File: file, Edge: edge, Currency: "USD", Log: slog.New(slog.DiscardHandler),
		Rate: func(string, string) Rate { return Rate{Nano: 804_800_000, Memory: 24 << 30} },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.store.db.Close() })
	return l
}

// book is what the ledger says of all time.
func book(t testing.TB, l *Ledger, by ...By) Book {
	t.Helper()
	b, err := l.Book(t.Context(), Query{By: by, Until: began.Add(24 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func visit(number uint64, tenant string, at time.Time) *proxy.Visit {
	return &proxy.Visit{
		Number: number, Tenant: tenant, Model: "llama", Backend: "llama-0", At: at, Total: 3 * time.Second, Waited: time.Second,
		Outcome: router.OK, PromptTokens: 100, Tokens: 20,
	}
}

func share(number uint64, tenant string, at time.Time, gpu time.Duration) *proxy.Share {
	return &proxy.Share{ID: number, Tenant: tenant, Model: "llama", Backend: "llama-0", At: at, GPU: gpu, Joules: 0.5, Method: "nvml", Final: true}
}

func TestGPUTimeThatSettlesLateFindsTheMinuteOfItsRequest(t *testing.T) {
	l := ledger(t, filepath.Join(t.TempDir(), "ledger.db"), "a")
	l.Ended(visit(1, "ada", began))
	l.Settled(share(1, "ada", began.Add(time.Minute), 7*time.Millisecond)) // a minute later
	l.Settled(share(2, "ada", began.Add(time.Minute), 5*time.Millisecond)) // of a request of which nothing is known
	minutes := map[int64]Sums{}
	for _, e := range book(t, l, ByMinute, ByTenant, ByModel).Entries {
		if e.Tenant != "ada" || e.Model != "llama" || e.Kind != KindRequest {
			t.Errorf("got %+v, want ada's request of llama", e)
		}
		minutes[e.Minute] = e.Sums
	}
	want := map[int64]Sums{
		minuteOf(began): {
			Requests: 1, OK: 1, Prompt: 100, Output: 20, Served: 2 * time.Second, Waited: time.Second, GPU: 7 * time.Millisecond, Microjoules: 500_000,
		},
		minuteOf(began) + 1: {GPU: 5 * time.Millisecond, Microjoules: 500_000},
	}
	if len(minutes) != len(want) {
		t.Errorf("got %v, want %v", minutes, want)
	}
	for minute, sums := range want {
		if minutes[minute] != sums {
			t.Errorf("minute %d: got %+v, want %+v", minute, minutes[minute], sums)
		}
	}
}

func TestOutcomesAndWhatBelongsToNoRequest(t *testing.T) {
	l := ledger(t, filepath.Join(t.TempDir(), "ledger.db"), "a")
	for i, outcome := range []router.Outcome{router.OK, router.Refused, router.Left, router.Broken} {
		v := visit(uint64(i), "", began)
		v.Outcome, v.Cold = outcome, outcome == router.OK
		l.Ended(v)
	}
	unknown := visit(9, "", began)
	unknown.Model, unknown.Backend, unknown.Outcome, unknown.Code = "", "", router.Refused, router.UnknownModel
	l.Ended(unknown)
	// Half of the GPU's memory for an hour is half an hour of the GPU.
	l.Accounted(&proxy.Account{
		Model: "llama", Backend: "llama-0", Node: "n", Kind: KindIdle, Method: "nvml", From: began, To: began.Add(time.Hour), GPU: time.Second,
		MemoryByteSeconds: float64(12<<30) * 3600,
	})
	b := book(t, l, ByModel)
	table := b.Table([]By{ByModel})
	got := fmt.Sprint(len(table.Rows), table.Total.Requests, table.Total.OK, table.Total.Refused, table.Total.Left, table.Total.Broken, table.Total.Cold, table.Total.Held)
	if want := fmt.Sprint(3, 5, 1, 2, 1, 1, 1, 30*time.Minute); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if want := int64(804_800_000 / 2); table.Total.Allocated != want {
		t.Errorf("half of a GPU for an hour: got %d, want %d", table.Total.Allocated, want)
	}
}

// TestCostsOnBothBasesAreClosed: what rows cost adds up to the price of what was measured and held, whatever the numbers.
func TestCostsOnBothBasesAreClosed(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		var b Book
		held, gpu := int64(0), int64(0)
		for i := range 1 + random.IntN(40) {
			e := Entry{Key: Key{Tenant: fmt.Sprint(i), Backend: fmt.Sprint(random.IntN(3)), Kind: KindRequest, Rate: random.Int64N(5_000_000_000)}}
			e.GPU = time.Duration(random.Int64N(int64(time.Hour)))
			if random.IntN(3) == 0 {
				e.Kind, e.Held = KindIdle, time.Duration(random.Int64N(int64(time.Hour)))
			}
			gpu += Cost(e.GPU, e.Rate)
			held += Cost(e.Held, e.Rate)
			b.Entries = append(b.Entries, e)
		}
		table := b.Table([]By{ByTenant})
		var cost, allocated int64
		for _, r := range table.Rows {
			cost += r.Cost
			allocated += r.Allocated
		}
		if cost != gpu || table.Total.Cost != gpu || allocated != held || table.Total.Allocated != held {
			t.Fatalf("rows cost %d and hold %d, in total %d and %d; want %d and %d", cost, allocated, table.Total.Cost, table.Total.Allocated, gpu, held)
		}
	}
}

func TestNothingIsLostAmongManyGoroutines(t *testing.T) {
	l := ledger(t, filepath.Join(t.TempDir(), "ledger.db"), "a")
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- l.Run(ctx) }()
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := range 500 {
				id := uint64(g*1000 + i)
				l.Ended(visit(id, "ada", began))
				l.Settled(share(id, "ada", began, time.Duration(i)))
				if i%100 == 0 {
					_ = l.flush(ctx)
				}
			}
		})
	}
	all.Wait()
	stop()
	if err := <-ran; err != nil {
		t.Fatal(err)
	}
	b, err := Read(t.Context(), l.File, Query{Until: began.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	table := b.Table(nil)
	if want := time.Duration(8 * 500 * 499 / 2); table.Total.Requests != 4000 || table.Total.GPU != want {
		t.Errorf("got %d requests and %d ns, want 4000 and %d", table.Total.Requests, table.Total.GPU, want)
	}
}

func TestWhatCannotBeWrittenIsKept(t *testing.T) {
	l := ledger(t, filepath.Join(t.TempDir(), "ledger.db"), "a")
	if _, err := l.store.db.Exec("ALTER TABLE usage RENAME TO elsewhere"); err != nil {
		t.Fatal(err)
	}
	l.Ended(visit(1, "ada", began))
	if err := l.flush(t.Context()); err == nil {
		t.Fatal("it was written without a table")
	}
	l.Ended(visit(2, "ada", began))
	if _, err := l.store.db.Exec("ALTER TABLE elsewhere RENAME TO usage"); err != nil {
		t.Fatal(err)
	}
	b := book(t, l)
	if got := b.Table(nil).Total.Requests; got != 2 {
		t.Errorf("got %d requests, want both", got)
	}
}

func TestAFullLedgerCountsWhatItDrops(t *testing.T) {
	l := ledger(t, filepath.Join(t.TempDir(), "ledger.db"), "a")
	for i := range maxPending + 3 {
		l.shardOf(1).pending[Key{Minute: int64(i)}] = &Sums{}
	}
	l.Ended(visit(1, "ada", began))
	if l.Dropped() != 1 {
		t.Errorf("got %d dropped, want 1", l.Dropped())
	}
}

func TestWhatIsOldIsForgotten(t *testing.T) {
	l := ledger(t, filepath.Join(t.TempDir(), "ledger.db"), "a")
	l.Ended(visit(1, "ada", began.Add(-48*time.Hour)))
	l.Ended(visit(2, "ada", began))
	book(t, l)
	if err := l.store.forget(t.Context(), began.Add(-24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	b := book(t, l)
	if got := b.Table(nil).Total.Requests; got != 1 {
		t.Errorf("got %d requests, want the later one", got)
	}
}

func TestADamagedFileIsPutAsideAndANewerOneRefused(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "ledger.db")
	if err := os.WriteFile(file, []byte(strings.Repeat("no database", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	l := ledger(t, file, "a")
	l.Ended(visit(1, "ada", began))
	b := book(t, l)
	if got := b.Table(nil).Total.Requests; got != 1 {
		t.Errorf("got %d requests, want one", got)
	}
	if aside, _ := filepath.Glob(file + ".damaged-*"); len(aside) == 0 {
		t.Error("the damaged file is gone")
	}
	if _, err := l.store.db.Exec("PRAGMA user_version = 7"); err != nil {
		t.Fatal(err)
	}
	_, err := New(t.Context(), Options{File: file, Log: slog.New(slog.DiscardHandler)})
	if err == nil || errors.Is(err, errDamaged) || !strings.Contains(err.Error(), "it has the schema 7, and this pilotlight knows 1") {
		t.Errorf("got %v, want a refusal that says why", err)
	}
}

func TestEdgesAreAddedUpOnce(t *testing.T) {
	a, b := ledger(t, filepath.Join(t.TempDir(), "a.db"), "a"), ledger(t, filepath.Join(t.TempDir(), "b.db"), "b")
	a.Settled(share(1, "ada", began, 3))
	b.Settled(share(1, "ada", began, 4))
	b.Settled(share(2, "bob", began, 5))
	all, err := Merge(book(t, a, ByTenant), book(t, b, ByTenant))
	if err != nil {
		t.Fatal(err)
	}
	table := all.Table([]By{ByTenant})
	if len(table.Rows) != 2 || table.Rows[0].GPU != 7 || table.Rows[1].GPU != 5 || table.Total.GPU != 12 {
		t.Errorf("got %+v, want 7 ns of ada's and 5 of bob's", table)
	}
	if _, err := Merge(all, book(t, a, ByTenant)); err == nil {
		t.Error("an edge was added twice")
	}
}

// childFile has the test binary write a ledger until it is killed.
const childFile = "LEDGER_OF_A_CHILD"

func TestMain(m *testing.M) {
	if file := os.Getenv(childFile); file != "" {
		writeUntilKilled(file)
	}
	os.Exit(m.Run())
}

// writeUntilKilled settles a nanosecond after the other, and says how many are certain to be in the file.
func writeUntilKilled(file string) {
	l, err := New(context.Background(), Options{File: file, Edge: "child", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	for n := 1; ; n++ {
		l.Settled(&proxy.Share{ID: uint64(n), Model: "llama", Backend: "llama-0", At: began, GPU: 1, Method: "nvml"})
		if n%7 == 0 {
			if err := l.flush(context.Background()); err != nil {
				panic(err)
			}
			fmt.Println(n)
		}
	}
}

// TestAKilledEdgeLosesNothingThatWasWritten: SIGKILL at any moment leaves a whole file, which the next life goes on with.
func TestAKilledEdgeLosesNothingThatWasWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ledger.db")
	written, over := 0, 0
	for life := range 4 {
		child := exec.Command(os.Args[0], "-test.run=^$")
		child.Env = append(os.Environ(), childFile+"="+file)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		said, lines := 0, bufio.NewScanner(out)
		for lines.Scan() {
			if _, err := fmt.Sscan(lines.Text(), &said); err != nil {
				t.Fatal(err)
			}
			if said >= 7*(20+13*life) {
				break
			}
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() { // what it said before it died
			if _, err := fmt.Sscan(lines.Text(), &said); err != nil {
				break // in the middle of a line
			}
		}
		_ = child.Wait() // it was killed
		b, err := Read(t.Context(), file, Query{Until: began.Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		got := int(b.Table(nil).Total.GPU)
		if got < written+said || got > written+said+7 { // what was written, and not said
			t.Fatalf("life %d: got %d ns, want %d, or the 7 more that were being written", life, got, written+said)
		}
		over += got - written - said
		written = got
	}
	t.Logf("%d ns in four lives; %d were written and not said", written, over)
}

func TestAnEstimateIsWhatOthersTook(t *testing.T) {
	l := ledger(t, filepath.Join(t.TempDir(), "ledger.db"), "a")
	if gpu, cost := l.Estimate("llama-0", time.Hour); gpu != time.Hour || cost != 804_800_000 {
		t.Errorf("where nothing is known: got %s for %d, want the hour", gpu, cost)
	}
	for i := range uint64(1000) {
		l.Ended(visit(i, "ada", began)) // 2 s each
		l.Settled(share(i, "ada", began, 500*time.Millisecond))
	}
	if err := l.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if gpu, _ := l.Estimate("llama-0", 4*time.Second); gpu.Round(10*time.Millisecond) != time.Second {
		t.Errorf("got %s for 4 s, want a quarter", gpu)
	}
}

func BenchmarkEnded(b *testing.B) {
	l := ledger(b, filepath.Join(b.TempDir(), "ledger.db"), "a")
	v := visit(1, "ada", began)
	b.ReportAllocs()
	for b.Loop() {
		v.Number++
		l.Ended(v)
	}
}
