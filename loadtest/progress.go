package loadtest

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

// Progress says how a load is doing, until ctx ends: in one line that is written anew four times a second where w is a terminal,
// else in a line every five seconds. whole is how long the load takes; 0: nobody knows.
func Progress(ctx context.Context, w io.Writer, terminal bool, r *Result, whole time.Duration) {
	every, format := 5*time.Second, "%s\n"
	if terminal {
		every, format = 250*time.Millisecond, "\r\x1b[K%s"
		defer fmt.Fprint(w, "\r\x1b[K")
	}
	began, before := time.Now(), Now{}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			now := r.Now()
			fmt.Fprintf(w, format, now.line(before, time.Since(began), whole, every))
			before = now
		case <-ctx.Done():
			return
		}
	}
}

// line is what there is to say, with what came since the line before.
func (n Now) line(before Now, passed, whole, every time.Duration) string {
	var b strings.Builder
	b.WriteString(passed.Round(100 * time.Millisecond).String())
	if whole > 0 {
		fmt.Fprintf(&b, " of %s", whole)
	}
	ended := n.Ended[OK] - before.Ended[OK]
	fmt.Fprintf(&b, "  %d sent  %d open  %d ok (%.0f/s)", n.Sent, n.Open, n.Ended[OK], float64(ended)/every.Seconds())
	for _, o := range Outcomes()[1:] {
		if n.Ended[o] > 0 {
			fmt.Fprintf(&b, "  %d %s", n.Ended[o], o)
		}
	}
	if n.TTFT50 > 0 {
		fmt.Fprintf(&b, "  first token p50 %s p99 %s", Short(n.TTFT50), Short(n.TTFT99))
	}
	return b.String()
}
