package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Rate is what an hour of a GPU costs.
type Rate struct {
	Nano   int64 // billionths of the currency
	Memory int64 // of the GPU, bytes; 0: unknown, so that nobody can say what a part of it costs
}

// Options are what a Ledger is made of. File is required.
type Options struct {
	File      string
	Edge      string        // its name, among others
	Retention time.Duration // 0: for ever
	Currency  string        // of the rates; empty: nothing has a price
	Log       *slog.Logger  // required
	// Rate is what GPUs cost that a backend is on; it is asked often. If nil, nothing.
	Rate func(backend, node string) Rate
}

// Ledger hears of requests, as a proxy.Listener. It is safe for concurrent use.
type Ledger struct {
	Options
	store    *store
	dropped  atomic.Int64
	accounts atomic.Uint64 // heard so far
	failing  bool          // the last write failed; only flush looks at it

	writing sync.Mutex // one writer
	shards  [shards]shard

	mu     sync.Mutex       // guards what follows
	ratios map[string]ratio // of backends
}

// shards is how many there are, so that requests do not wait for one another.
const shards = 16

// A shard is what was heard of some of the requests, and is not yet written.
type shard struct {
	mu      sync.Mutex // guards what follows
	pending map[Key]*Sums
	key     Key // what was last added to: requests that follow one another are mostly alike
	sum     *Sums
	late    []ended // requests that have ended and whose GPU time may come: each stands where lateAt says until a later one does
}

// ended is when a request ended.
type ended struct {
	request uint64
	minute  int32 // 0: none has
}

func (l *Ledger) shardOf(request uint64) *shard { return &l.shards[request%shards] }

// lateAt is where a request stands that has ended. An edge numbers its requests one after the other, so that neighbours stand side by side.
func (sh *shard) lateAt(request uint64) *ended { return &sh.late[request/shards%maxLate] }

// ratio is how much GPU time a backend's requests had of the time in which they were served, lately.
type ratio struct{ gpu, served float64 }

// Bounds of what is held in memory.
const (
	maxPending = 200_000 / shards // keys that are not yet written, in each shard
	maxLate    = 1 << 18 / shards // requests that have ended, in each shard
	maxRatios  = 10_000
)

// How often something is done.
const (
	every        = time.Second // writing
	forgetsEvery = time.Hour
)

// New opens the ledger. A file that is damaged is put aside, and a new one begun: requests are served all the same.
func New(ctx context.Context, o Options) (*Ledger, error) {
	if o.Rate == nil {
		o.Rate = func(string, string) Rate { return Rate{} }
	}
	s, err := open(ctx, o.File)
	if errors.Is(err, errDamaged) {
		aside := o.File + ".damaged-" + time.Now().UTC().Format("20060102T150405")
		o.Log.Error("the ledger cannot be read and was put aside", "file", aside, "error", err)
		for _, suffix := range []string{"", "-wal", "-shm"} {
			if err := os.Rename(o.File+suffix, aside+suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, fmt.Errorf("put the damaged ledger aside: %w", err)
			}
		}
		s, err = open(ctx, o.File)
	}
	if err != nil {
		return nil, err
	}
	l := &Ledger{Options: o, store: s, ratios: map[string]ratio{}}
	for i := range l.shards {
		l.shards[i].pending, l.shards[i].late = map[Key]*Sums{}, make([]ended, maxLate)
	}
	if err := errors.Join(s.note(ctx, "currency", o.Currency), s.note(ctx, "edge", o.Edge)); err != nil {
		return nil, errors.Join(err, s.db.Close())
	}
	return l, nil
}

// Run writes what was heard, once a second, until ctx ends; then it writes the rest and closes the file.
func (l *Ledger) Run(ctx context.Context) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	forgot := time.Time{}
	for {
		select {
		case <-ctx.Done():
			return errors.Join(l.flush(context.WithoutCancel(ctx)), l.store.db.Close())
		case now := <-tick.C:
			_ = l.flush(ctx) // it has been logged, and is tried again
			if l.Retention > 0 && now.Sub(forgot) >= forgetsEvery {
				forgot = now
				l.forget(ctx, now)
			}
		}
	}
}

func (l *Ledger) forget(ctx context.Context, now time.Time) {
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := l.store.forget(ctx, now.Add(-l.Retention)); err != nil && ctx.Err() == nil {
		l.Log.Warn("what is old stays in the ledger", "error", err)
	}
}

// flush writes what was heard. What cannot be written is kept, and written with what comes.
func (l *Ledger) flush(ctx context.Context) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	full := l.take()
	if len(full) == 0 {
		return nil
	}
	err := l.store.write(ctx, full)
	if err == nil {
		l.weigh(full)
	} else {
		l.restore(full)
	}
	switch failing := err != nil; {
	case failing && !l.failing:
		l.Log.Error("the ledger cannot be written; what is heard is kept in memory", "error", err)
	case l.failing && !failing:
		l.Log.Info("the ledger is written again")
	}
	l.failing = err != nil
	return err
}

// take takes what was heard out of the shards.
func (l *Ledger) take() map[Key]*Sums {
	full := map[Key]*Sums{}
	for i := range l.shards {
		sh := &l.shards[i]
		sh.mu.Lock()
		some := sh.pending
		if len(some) == 0 {
			sh.mu.Unlock()
			continue
		}
		sh.pending, sh.key, sh.sum = make(map[Key]*Sums, len(some)), Key{}, nil
		sh.mu.Unlock()
		for k, s := range some {
			if sum := full[k]; sum != nil {
				sum.Add(s)
			} else {
				full[k] = s
			}
		}
	}
	return full
}

// restore puts back what was taken.
func (l *Ledger) restore(full map[Key]*Sums) {
	var i uint64
	for k, s := range full {
		sh := l.shardOf(i)
		sh.mu.Lock()
		l.add(sh, k, s)
		sh.mu.Unlock()
		i++
	}
}

// add adds to what will be written. sh.mu is held.
func (l *Ledger) add(sh *shard, k Key, s *Sums) {
	if sh.sum != nil && sh.key == k {
		sh.sum.Add(s)
		return
	}
	sum := sh.pending[k]
	if sum == nil {
		if len(sh.pending) >= maxPending {
			l.dropped.Add(1)
			return
		}
		sum = &Sums{}
		k.Tenant, k.Model, k.Backend, k.Node = strings.Clone(k.Tenant), strings.Clone(k.Model), strings.Clone(k.Backend), strings.Clone(k.Node)
		sh.pending[k] = sum
		sh.key, sh.sum = k, sum // not where it was known before: k may borrow what the request is read into
	}
	sum.Add(s)
}

// Dropped is how often something could not be written down because too much was waiting for that.
func (l *Ledger) Dropped() int64 { return l.dropped.Load() }

// Book answers a query, with all that was heard until now.
func (l *Ledger) Book(ctx context.Context, q Query) (Book, error) {
	failed := l.flush(ctx)
	book, err := Read(ctx, l.File, q)
	if err = errors.Join(failed, err); err != nil {
		return Book{}, err
	}
	book.Edges, book.Dropped = []string{l.Edge}, l.Dropped()
	for i := range book.Entries {
		book.Entries[i].Edge = l.Edge
	}
	return book, nil
}
