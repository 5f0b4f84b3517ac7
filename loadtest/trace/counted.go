package trace

import (
	"cmp"
	"container/heap"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// burst is a time in which somebody sent so many requests. When in it they came was not recorded: they are spread at random, and
// always in the same way.
type burst struct {
	client      string // or the model, where the recording says that
	begin, took time.Duration
	requests    int32
}

// Bounds of what recordings may count.
const (
	maxBursts   = 20_000_000
	maxRequests = math.MaxInt32 // of one burst
	maxSeconds  = float64(10 * 365 * 24 * 3600)
)

// counted is a recording of bursts. Those of a table are of models.
func counted(format Format, all []burst) *Trace {
	slices.SortStableFunc(all, func(a, b burst) int { return cmp.Compare(a.begin, b.begin) })
	t := &Trace{Format: format, Named: format == Table}
	busy := map[string]int64{}
	for _, b := range all {
		t.Count += int64(b.requests)
		busy[b.client] += int64(b.requests)
		t.Length = max(t.Length, b.begin+b.took)
	}
	t.Clients = byCount(busy)
	t.arrivals = func(yield func(Arrival) bool) { merge(all, t.Named, yield) }
	t.uses = func(yield func(Use) bool) {
		for _, b := range all {
			if b.requests > 0 && !yield(Use{Client: b.client, Model: b.model(t.Named), At: b.begin, Took: b.took, Requests: int64(b.requests)}) {
				return
			}
		}
	}
	return t
}

// model is which model a burst is for, if the recording names any.
func (b *burst) model(named bool) string {
	if named {
		return b.client
	}
	return ""
}

// merge yields the arrivals of all bursts in the order of time. It holds those bursts that have begun.
func merge(all []burst, named bool, yield func(Arrival) bool) {
	var going soonest
	for len(all) > 0 || len(going) > 0 {
		for len(all) > 0 && (len(going) == 0 || all[0].begin <= going[0].next) {
			if b := all[0]; b.requests > 0 {
				g := &running{burst: b, left: b.requests, next: b.begin, random: b.random()}
				g.advance()
				heap.Push(&going, g)
			}
			all = all[1:]
		}
		if len(going) == 0 {
			return
		}
		g := going[0]
		if !yield(Arrival{At: g.next, Client: g.client, Model: g.model(named)}) {
			return
		}
		if g.left == 0 {
			heap.Pop(&going)
			continue
		}
		g.advance()
		heap.Fix(&going, 0)
	}
}

// running is a burst that has begun.
type running struct {
	burst
	left   int32 // requests after the next
	next   time.Duration
	random *rand.Rand
}

func (b *burst) random() *rand.Rand {
	name := fnv.New64a()
	_, _ = io.WriteString(name, b.client)
	return rand.New(rand.NewPCG(name.Sum64(), uint64(b.begin)))
}

// advance goes on to the next request: the first of those left, each of which may be anywhere in the time left.
func (g *running) advance() {
	rest := float64(g.begin + g.took - g.next)
	g.next += time.Duration(rest * (1 - math.Pow(g.random.Float64(), 1/float64(g.left))))
	g.left--
}

// soonest is a heap of bursts by their next request.
type soonest []*running

func (s soonest) Len() int           { return len(s) }
func (s soonest) Less(i, j int) bool { return s[i].next < s[j].next }
func (s soonest) Swap(i, j int)      { s[i], s[j] = s[j], s[i] }
func (s *soonest) Push(x any)        { *s = append(*s, x.(*running)) }
func (s *soonest) Pop() any {
	last := (*s)[len(*s)-1]
	*s = (*s)[:len(*s)-1]
	return last
}

func readServeGen(r io.Reader) (*Trace, error) {
	all, err := readBursts(r)
	return counted(ServeGen, all), err
}

func readTable(r io.Reader) (*Trace, error) {
	all, err := readBursts(r)
	return counted(Table, all), err
}

// readBursts reads a name, when it began, how long it took, and how many requests there were: one, if it does not say.
func readBursts(r io.Reader) (all []burst, err error) {
	err = rows(r, 0, func(row []string) error {
		begin, err := seconds(row[1])
		if err != nil {
			return err
		}
		took, err := seconds(row[2])
		if err != nil {
			return err
		}
		n := int32(1)
		if len(row) > 3 {
			if n, err = requests(row[3]); err != nil {
				return err
			}
		}
		return addBurst(&all, burst{strings.Clone(row[0]), begin, took, n})
	})
	return all, err
}

func addBurst(all *[]burst, b burst) error {
	if len(*all) >= maxBursts {
		return fmt.Errorf("there are more than %d times of requests", maxBursts)
	}
	*all = append(*all, b)
	return nil
}

func seconds(text string) (time.Duration, error) {
	s, err := strconv.ParseFloat(text, 64)
	if err != nil || !(s >= 0 && s <= maxSeconds) {
		return 0, fmt.Errorf("%q is no time in seconds", text)
	}
	return time.Duration(s * float64(time.Second)), nil
}

func requests(text string) (int32, error) {
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || !(n >= 0 && n <= maxRequests) {
		return 0, fmt.Errorf("%q is no number of requests", text)
	}
	return int32(n), nil
}

// The columns of Azure Functions: a name, where it was found, and the minutes of a day.
const namesOfFunction = 2

func readAzureFunctions(r io.Reader) (*Trace, error) {
	var all []burst
	err := rows(r, 0, func(row []string) error {
		name := row[1] + "/" + row[0] // the same id in another file is another function
		for minute, text := range row[namesOfFunction:] {
			if text == "0" || text == "" {
				continue
			}
			n, err := requests(text)
			if err != nil {
				return err
			}
			if err := addBurst(&all, burst{name, time.Duration(minute) * time.Minute, time.Minute, n}); err != nil {
				return err
			}
		}
		return nil
	})
	return counted(AzureFunctions, all), err
}
