//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"time"
)

// A part measures all rivals in one respect.
type part func(context.Context, *bench) error

// warmUp is how long a proxy works before it is measured.
const warmUp = 400 * time.Millisecond

// requests measures small ones: as many as the proxy can serve, and then so many a second.
func requests(ctx context.Context, b *bench) error {
	return b.rounds(ctx, "requests", func(r *rival) error {
		var a *askers
		err := b.loop.do(func() (err error) {
			a, err = ask(b.loop, r.addr, b.options.connections)
			return err
		})
		defer b.end(a.close)
		if err != nil {
			return err
		}
		if r.proxy != nil {
			if err := b.loop.do(a.saturate); err != nil {
				return err
			}
			if err := b.measure(ctx, r, "req", &a.tally); err != nil {
				return err
			}
		}
		if err := b.calm(ctx, a); err != nil {
			return err
		}
		if err := b.loop.do(func() error {
			return b.loop.setPace(time.Second/time.Duration(b.options.rate), a.send)
		}); err != nil {
			return err
		}
		return b.measure(ctx, r, "paced", &a.tally)
	})
}

// calm waits until every client has its answer.
func (b *bench) calm(ctx context.Context, a *askers) error {
	for idle := 0; idle < len(a.all); {
		if err := b.loop.do(func() error { a.paced = true; idle = len(a.idle); return nil }); err != nil {
			return err
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// streams measures tokens that flow on many streams, evenly spread.
func streams(ctx context.Context, b *bench) error {
	return b.rounds(ctx, "streams", func(r *rival) error {
		a, err := b.listen(ctx, r.addr, b.options.streams)
		defer b.end(a.close)
		if err != nil {
			return err
		}
		if err := b.flow(b.options.streams * b.options.tokens); err != nil {
			return err
		}
		return b.measure(ctx, r, "token", &a.tally)
	})
}

// flow has so many tokens sent each second.
func (b *bench) flow(rate int) error {
	return b.loop.do(func() error { return b.loop.setPace(time.Second/time.Duration(rate), b.server.send) })
}

// end is the end of clients.
func (b *bench) end(close func()) error {
	return errors.Join(b.halt(), b.loop.do(func() error { close(); return nil }))
}

// halt stops whatever has a pace.
func (b *bench) halt() error {
	return b.loop.do(func() error { return b.loop.setPace(0, nil) })
}

// listen opens streams, some at a time: proxies accept no more than some at once.
func (b *bench) listen(ctx context.Context, addr string, n int) (*listeners, error) {
	a := &listeners{loop: b.loop, request: request(`,"stream":true`)}
	const most = 250
	const limit = 10 * time.Second
	for opened := 0; opened < n; {
		more := min(most, n-opened)
		if err := b.loop.do(func() error { return a.listen(addr, more) }); err != nil {
			return a, err
		}
		opened += more
		since := time.Now()
		for begun := 0; begun < opened; {
			if err := b.loop.do(func() error { begun = a.begun; return nil }); err != nil {
				return a, err
			}
			if time.Since(since) > limit {
				return a, fmt.Errorf("%d of %d streams have begun after %s", begun, opened, limit)
			}
			if err := pause(ctx, time.Millisecond); err != nil {
				return a, err
			}
		}
	}
	return a, nil
}

// memory measures what a stream holds that has flowed and now idles: in a fresh process each, for memory is used again.
func memory(ctx context.Context, b *bench) error {
	for _, launch := range b.launchers() {
		p, err := launch.start(ctx, b)
		if err != nil {
			return fmt.Errorf("%s: %w", launch.name, err)
		}
		err = b.weigh(ctx, launch.name, p)
		if err := b.failed(ctx, launch.name, errors.Join(err, pause(ctx, warmUp), p.stop())); err != nil { // having seen that the streams are gone
			return err
		}
	}
	return nil
}

func (b *bench) weigh(ctx context.Context, name string, p *proxy) error {
	first, err := b.listen(ctx, p.addr, 100) // what is there once
	if err == nil {
		err = b.flow(1000)
	}
	if err := errors.Join(err, pause(ctx, warmUp), b.end(first.close), pause(ctx, warmUp)); err != nil {
		return err
	}
	before, err := p.memory()
	if err != nil {
		return err
	}
	a, err := b.listen(ctx, p.addr, b.idle)
	defer b.end(a.close)
	if err != nil {
		return err
	}
	if err := b.flow(10000); err != nil {
		return err
	}
	if err := errors.Join(pause(ctx, time.Duration(2*b.idle)*time.Second/10000), b.halt(), pause(ctx, 2*time.Second)); err != nil {
		return err
	}
	after, err := p.memory()
	if err != nil {
		return err
	}
	b.note(name, "KiB/stream", float64(after-before)/1024/float64(b.idle))
	return nil
}

// rounds gives each rival its turn, again and again.
func (b *bench) rounds(ctx context.Context, what string, turn func(*rival) error) (err error) {
	rivals, stop, err := b.start(ctx)
	defer func() { err = errors.Join(err, stop()) }()
	if err != nil {
		return err
	}
	for n := range b.options.rounds {
		fmt.Printf("%s: round %d of %d\n", what, n+1, b.options.rounds)
		for _, r := range rivals {
			if err := b.failed(ctx, r.name, turn(r)); err != nil {
				return err
			}
		}
	}
	return nil
}

// watch lets a turn pass, and has the edge write down what it does meanwhile if that is asked for.
func (b *bench) watch(ctx context.Context, r *rival, what string) error {
	if b.options.profile == "" || r.proxy == nil || r.admin == "" {
		return pause(ctx, b.options.turn)
	}
	url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", r.admin, max(1, int(b.options.turn.Seconds())))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	defer response.Body.Close()
	profile, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("profile: %s: %s", response.Status, profile)
	}
	if err != nil {
		return err
	}
	return os.WriteFile(b.options.profile+"."+what, profile, 0o600)
}

// failed says what went wrong in a turn. Only of the edge is it an error: one whose rival breaks down under the load has
// still been measured.
func (b *bench) failed(ctx context.Context, name string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil, name == "pilotlight":
		return fmt.Errorf("%s: %w", name, err)
	}
	fmt.Printf("%s failed: %v\n", name, err)
	return b.loop.do(func() error { b.loop.err = nil; return nil })
}

// measure notes what a rival spends, and how long its clients wait, in one turn of something that has begun.
func (b *bench) measure(ctx context.Context, r *rival, what string, t *tally) error {
	if err := pause(ctx, warmUp); err != nil {
		return err
	}
	if err := b.loop.do(func() error { *t = tally{took: t.took[:0]}; return nil }); err != nil {
		return err
	}
	began := time.Now()
	before, err := r.cpu()
	if err != nil {
		return err
	}
	if err := b.watch(ctx, r, what); err != nil {
		return err
	}
	after, err := r.cpu()
	if err != nil {
		return err
	}
	took := time.Since(began)
	var got tally
	if err := b.loop.do(func() error {
		got = tally{t.count, slices.Clone(t.took)}
		return nil
	}); err != nil {
		return err
	}
	if got.count == 0 {
		return errors.New("nothing came")
	}
	b.note(r.name, what+"/s", float64(got.count)/took.Seconds())
	if r.proxy != nil {
		b.note(r.name, what+" µs", float64((after-before).Nanoseconds())/1000/float64(got.count))
		b.note(r.name, what+" core", 100*(after-before).Seconds()/took.Seconds())
	}
	if len(got.took) > 0 {
		slices.Sort(got.took)
		b.note(r.name, what+" p50", float64(got.took[len(got.took)/2].Nanoseconds())/1000)
		b.note(r.name, what+" p99", float64(got.took[len(got.took)*99/100].Nanoseconds())/1000)
	}
	return nil
}
