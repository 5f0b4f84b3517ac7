// Package modelsim is a simulated model server. It takes the time that loading, waking, reading prompts and writing tokens
// take on a GPU, batches as vLLM does, fails as model servers fail, and answers in the APIs of OpenAI, Anthropic, Ollama and
// KServe v2. The words of an answer follow from model and prompt alone, so that two answers can be compared.
//
// Time is Go's: in a testing/synctest bubble, over an in-memory listener, every figure is exact.
package modelsim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	maxDrain = time.Second // given to requests in flight once the server is told to stop
	maxBody  = 64 << 20    // bytes of a request
)

type server struct {
	Options
	fail   Failure // of this start
	engine *engine
	loaded chan struct{} // closed when the weights are on the GPU
	out    *log.Logger
}

// Serve loads the model and serves until ctx ends. It calls listen once, when a real server would open its port: at once if
// o.ListenEarly is set, else when the model is loaded. When ctx ends, requests in flight get a second to finish, and Serve
// returns nil. An error means that the server could not serve, or died as o.Fail wants it; its connections are cut then.
func Serve(ctx context.Context, listen func() (net.Listener, error), o Options) error {
	if err := o.check(); err != nil {
		return err
	}
	fail, err := o.failure()
	if err != nil {
		return err
	}
	if o.Output == nil {
		o.Output = io.Discard
	}
	out := log.New(o.Output, "", 0)
	s := &server{Options: o, fail: fail, engine: newEngine(o, fail, out), loaded: make(chan struct{}), out: out}

	g, serving := errgroup.WithContext(ctx)
	decoding, stopEngine := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error {
		if err := s.load(serving); err != nil {
			return err
		}
		return s.engine.run(decoding)
	})
	g.Go(func() error {
		defer stopEngine() // it decodes for as long as requests may finish
		if !o.ListenEarly {
			select {
			case <-s.loaded:
			case <-serving.Done():
				return nil
			}
		}
		return s.listen(serving, listen)
	})
	if err := g.Wait(); ctx.Err() == nil {
		return err
	}
	return nil
}

// load takes the time of loading, and says how far it is.
func (s *server) load(ctx context.Context) error {
	const parts = 10
	for i := range parts {
		took := s.slowly(s.Load / parts)
		if s.StallAfter > 0 && time.Duration(i+1)*s.Load/parts > s.StallAfter {
			<-ctx.Done()
		}
		if err := pause(ctx, took); err != nil {
			return err
		}
		if i+1 == parts/2 {
			if err := s.failLoading(); err != nil {
				return err
			}
		}
		s.out.Printf("Loading weights: %d%%", (i+1)*100/parts)
	}
	s.out.Println("Application startup complete.")
	close(s.loaded)
	return nil
}

// slowly is how long something from disk or host memory takes that takes d where nothing slows it down.
func (o *Options) slowly(d time.Duration) time.Duration {
	if o.LoadFactor == "" {
		return d
	}
	text, err := os.ReadFile(o.LoadFactor)
	if err != nil {
		return d // nothing does
	}
	factor, err := strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
	if err != nil || !(factor >= 0 && factor <= 1e6) {
		return d // it is being written
	}
	return time.Duration(factor * float64(d))
}

func (s *server) failLoading() error {
	switch s.fail.Kind {
	case CrashOnLoad:
		s.out.Print(traceback)
		return errors.New("RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}")
	case OutOfMemory:
		s.out.Print(traceback)
		return errors.New("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. " +
			"GPU 0 has a total capacity of 79.25 GiB of which 1.06 GiB is free")
	}
	return nil
}

const traceback = `Traceback (most recent call last):
  File "modelsim/engine.py", line 42, in load_model
    weights.to("cuda")
`

// listen answers requests until ctx ends.
func (s *server) listen(ctx context.Context, listen func() (net.Listener, error)) error {
	port, err := listen()
	if err != nil {
		return fmt.Errorf("open the port of the simulated model server: %w", err)
	}
	s.out.Println("Listening on", port.Addr())
	web := &http.Server{Handler: s.handler(), ErrorLog: s.out}
	served := make(chan error, 1)
	go func() { served <- web.Serve(port) }()
	select {
	case err := <-served:
		return fmt.Errorf("accept connections of the simulated model server: %w", err)
	case <-ctx.Done():
	}
	if !errors.Is(context.Cause(ctx), errDied) {
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxDrain)
		defer cancel()
		err = web.Shutdown(drain)
	}
	if err := errors.Join(err, web.Close()); err != nil {
		s.out.Println("Requests in flight were cut off:", err)
	}
	<-served
	return nil
}

// handler is everything that the server answers.
func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	s.openAI(mux)
	s.anthropic(mux)
	s.ollama(mux)
	s.kserve(mux)
	s.sleepMode(mux)
	mux.Handle("GET /metrics", s.engine.metrics(s.Models[0]))
	mux.Handle("GET /health", endpoint(openAIRefusal, func(http.ResponseWriter, *http.Request, []byte) (any, error) {
		return nil, s.engine.health()
	}))
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) { reply(w, http.StatusOK, echo(r)) })

	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		switch {
		case s.fail.Kind == Hang:
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
			return
		case !s.isLoaded():
			reply(w, http.StatusServiceUnavailable, object{"error": object{"code": 503, "message": "Loading model", "type": "unavailable_error"}})
			return
		case r.Header.Get(echoHeader) != "":
			w.Header().Set(echoHeader, string(encode(echo(r))))
		}
		mux.ServeHTTP(w, r)
	})
}

func (s *server) isLoaded() bool {
	select {
	case <-s.loaded:
		return true
	default:
		return false
	}
}

// pause waits for d, or until ctx ends, which is the error.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
